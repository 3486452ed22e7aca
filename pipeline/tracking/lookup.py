"""Which run in MLflow belongs to a run's folder: it is found by its key and the folder's id, or created."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline.run_folders import Header, RunFolder
from pipeline.tracking.batches import shortened
from pipeline.tracking.connection import quoted
from pipeline.tracking.server import Server
from pipeline.tracking.tags import mlflow_name, read_tags

if TYPE_CHECKING:
    from mlflow.entities import Run

__all__ = ["FOLDER_TAG", "GONE", "create_run", "own_run", "published_epochs", "results_run"]

FOLDER_TAG = "folder"  # the id of the folder that a run is published from
GONE = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "INVALID_STATE")  # of a run that was deleted, say


def create_run(server: Server, header: Header) -> Run:
    """Create the run of a folder."""
    experiment = server.experiment(header.experiment, header.note)
    tags = shortened(header.tags | {"key": header.key, FOLDER_TAG: header.id})
    named = {mlflow_name(name): value for name, value in tags.items()}
    return server.client.create_run(experiment, start_time=header.time, tags=named, run_name=header.name)


def results_run(server: Server, header: Header) -> Run | None:
    """Return the run that a folder's results are added to, or None where MLflow does not have it."""
    from mlflow.exceptions import MlflowException

    if header.run_id is None:
        return next(iter(_runs_of_key(server, header)), None)
    try:
        run = server.client.get_run(header.run_id)
    except MlflowException as error:
        if error.error_code in GONE:
            return None
        raise
    return run if run.info.lifecycle_stage == "active" else None


def own_run(server: Server, folder: RunFolder, run_id: str | None) -> Run | None:
    """Return the run that was created from a folder or, without one, a run of its key that it may take.

    Where MLflow has created several from this folder, because its answer was lost, one stays: that with `run_id`,
    which this process logs to, else the one that has parameters, which an earlier process has logged to. A run that an
    earlier folder of this name is still to be published to is not taken, whatever status it has until then.
    """
    runs = _runs_of_key(server, folder.header)
    own = [run for run in runs if read_tags(run.data.tags).get(FOLDER_TAG) == folder.header.id]
    own.sort(key=lambda run: (run.info.run_id != run_id, not run.data.params))
    for double in own[1:]:
        server.client.delete_run(double.info.run_id)
    if own or folder.is_replaced:
        return own[0] if own else None
    waiting = folder.ids_set_aside
    free = (run for run in runs if read_tags(run.data.tags).get(FOLDER_TAG) not in waiting)
    return next((run for run in free if folder.header.reuse_finished or run.info.status != "FINISHED"), None)


def published_epochs(server: Server, folder: RunFolder, run: Run) -> dict[int, int]:
    """Return the time of every epoch that a run has."""
    names = [name for entry in folder.entries if entry["type"] == "epoch" for name in entry["metrics"]]
    names += [name for name in sorted(run.data.metrics) if name.startswith(("train/", "valid/"))]
    name = next((name for name in names if name in run.data.metrics), None)
    history = [] if name is None else server.client.get_metric_history(run.info.run_id, name)
    return {row.step: row.timestamp for row in history}


def _runs_of_key(server: Server, header: Header) -> Sequence[Run]:
    """Return the runs of a folder's key, the latest first."""
    experiment = server.experiment(header.experiment, header.note)
    names = [mlflow_name("key"), *(["key"] if header.version == 1 else [])]  # whose run may have been created before
    pages = [server.client.search_runs([experiment], f"tags.`{name}` = {quoted(header.key)}") for name in names]
    return [run for runs in pages for run in runs]
