"""The experiment of a study that is removed: marked as deleted, so that MLflow can still restore it.

It gets another name first: a later study of the same name starts without its runs, which MLflow would bring back
together with an experiment that is found by its name.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from pipeline.addresses import sqlite_file
from pipeline.errors import InputError
from pipeline.log import Log
from pipeline.run_folders import RunFolder, experiment_name, study_folders
from pipeline.study import Study
from pipeline.tracking.connection import connect, quoted, tracking_uri
from pipeline.tracking.failures import translate_mlflow_errors
from pipeline.tracking.registry import rename_models

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment

__all__ = ["experiments", "has_results", "remove_experiments", "remove_run_folders"]

MARK = " (removed "  # between the name of an experiment and the time of its removal
SECONDS = "%Y-%m-%d %H.%M.%S"


def experiments(study: Study) -> list[str]:
    """Return the names of the study's active experiments; `InputError` where MLflow cannot be used."""
    if not _can_exist(study):
        return []
    with translate_mlflow_errors(study):
        return [str(experiment.name) for experiment in _active(connect(study), study)]


def has_results(study: Study) -> bool:
    """Return whether a run of the study has logged an epoch, be it published or not.

    Raises:
        InputError: MLflow cannot be used.
    """
    if any(entry["type"] == "epoch" for path in study_folders(study) for entry in Log(path).read()):
        return True
    if not _can_exist(study):
        return False
    with translate_mlflow_errors(study):
        client = connect(study)
        ids = [experiment.experiment_id for experiment in _active(client, study)]
        return any(run.data.metrics for run in client.search_runs(ids, max_results=1000)) if ids else False


def remove_run_folders(study: Study) -> None:
    """Delete the folders of a study's runs; `InputError` where a process works on one of them."""
    for path in list(study_folders(study)):
        try:
            RunFolder.open(path).remove()
        except BlockingIOError:
            raise InputError(f"study {study.name}: another process is working on one of its runs") from None


def remove_experiments(study: Study) -> int:
    """Mark the study's experiments as deleted; return how many there were."""
    if not _can_exist(study):
        return 0
    with translate_mlflow_errors(study):
        client = connect(study)
        active = _active(client, study)
        for experiment in active:
            if MARK not in experiment.name:
                name = f"{experiment.name}{MARK}{time.strftime(SECONDS)})"
                client.rename_experiment(experiment.experiment_id, name)
            client.delete_experiment(experiment.experiment_id)
        rename_models(study, client, f"{MARK}{time.strftime(SECONDS)})")
    return len(active)


def _can_exist(study: Study) -> bool:
    """Return whether there can be experiments: a database in a file is not created to look for them."""
    file = sqlite_file(tracking_uri(study), study.shared_root)
    return file is None or file.exists()


def _active(client: MlflowClient, study: Study) -> list[Experiment]:
    """Return the study's experiment, and one whose removal was interrupted after it got its other name."""
    name = experiment_name(study)
    likely = client.search_experiments(filter_string=f"name LIKE {quoted(f'{name}%')}")
    return [experiment for experiment in likely if experiment.name == name or experiment.name.startswith(name + MARK)]
