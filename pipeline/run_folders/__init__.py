"""Runs on the disk: what is trained, where its numbers come from, and a folder with one log of what happened.

This package knows nothing of models and nothing of MLflow: `pipeline.tracking` brings MLflow up to date from here.
"""

from pipeline.run_folders.entries import DamagedError, Header, end, new_id, now
from pipeline.run_folders.folder import PATCH, SPEC, RunFolder
from pipeline.run_folders.places import earlier_version_runs, experiment_name, folder_of, study_folders
from pipeline.run_folders.spec import RunSpec

__all__ = [
    "PATCH",
    "SPEC",
    "DamagedError",
    "Header",
    "RunFolder",
    "RunSpec",
    "earlier_version_runs",
    "end",
    "experiment_name",
    "folder_of",
    "new_id",
    "now",
    "study_folders",
]
