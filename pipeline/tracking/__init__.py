"""The only door to MLflow: what is logged lies in a run's folder on the disk, and is published from there.

MLflow is a window, never a source: nothing is read back to compute with, but for `LoggedRun`, which `cave reproduce`
compares with. Which runs are those of the present results, `mark_current` derives from files. A run's `key` tag names
the piece of work it belongs to, so that work that was killed and goes on, wherever it does, continues its run instead
of starting a second one. Publishing twice changes nothing: a server that is down, slow, or lost its answer costs
nothing but its view of the work until the folder is published.
"""

from pipeline.tracking.backlog import Published
from pipeline.tracking.connection import import_mlflow, open_database, tracking_uri
from pipeline.tracking.current import mark_current
from pipeline.tracking.downloads import download_model
from pipeline.tracking.logged import LoggedRun
from pipeline.tracking.model_folder import ModelCode, model_files
from pipeline.tracking.registry import registered_name
from pipeline.tracking.removal import experiments, has_results, remove_experiments, remove_run_folders
from pipeline.tracking.report_run import log_report
from pipeline.tracking.run import Run
from pipeline.tracking.tracker import Tracker

__all__ = [
    "LoggedRun",
    "ModelCode",
    "Published",
    "Run",
    "Tracker",
    "download_model",
    "experiments",
    "has_results",
    "import_mlflow",
    "log_report",
    "mark_current",
    "model_files",
    "open_database",
    "registered_name",
    "remove_experiments",
    "remove_run_folders",
    "tracking_uri",
]
