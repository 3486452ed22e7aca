"""The experiment of a study that is removed: marked as deleted, so that MLflow can still restore it.

It gets another name first: a later study of the same name starts without its runs, which MLflow would bring back
together with an experiment that is found by its name.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.addresses import sqlite_file
from pipeline.errors import InputError
from pipeline.study import Study
from pipeline.tracking.outbox import OPS, Outbox
from pipeline.tracking.sender import quoted
from pipeline.tracking.store import connect, telling, tracking_uri
from pipeline.tracking.tracker import Tracker

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment

__all__ = ["experiments", "has_results", "remove_experiments", "remove_outboxes"]

MARK = " (removed "  # between the name of an experiment and the time of its removal
SECONDS = "%Y-%m-%d %H.%M.%S"


def experiments(study: Study) -> list[str]:
    """Return the names of the study's active experiments; `InputError` where MLflow cannot be reached."""
    if not _exists(study):
        return []
    with telling(study):
        return [str(found.name) for found in _active(connect(study), study)]


def has_results(study: Study) -> bool:
    """Tell whether a run of the study has logged an epoch, in MLflow or in rows that it does not have yet.

    Raises:
        InputError: MLflow cannot be reached.
    """
    for folder in _outboxes(study):
        if any(json.loads(line)["op"] == "record" for line in (folder / OPS).read_text(encoding="utf-8").splitlines()):
            return True
    if not _exists(study):
        return False
    with telling(study):
        client = connect(study)
        ids = [found.experiment_id for found in _active(client, study)]
        return any(run.data.metrics for run in client.search_runs(ids, max_results=1000)) if ids else False


def remove_outboxes(study: Study) -> None:
    """Delete the rows of a study's runs that MLflow does not have yet; `InputError` where a process works on a run."""
    for folder in _outboxes(study):
        try:
            Outbox.take(folder).remove()
        except BlockingIOError:
            raise InputError(f"study {study.name}: another process is working on one of its runs") from None


def remove_experiments(study: Study) -> int:
    """Mark the study's experiments as deleted; return how many there were."""
    if not _exists(study):
        return 0
    with telling(study):
        client = connect(study)
        found = _active(client, study)
        for experiment in found:
            if MARK not in experiment.name:
                name = f"{experiment.name}{MARK}{time.strftime(SECONDS)})"
                client.rename_experiment(experiment.experiment_id, name)
            client.delete_experiment(experiment.experiment_id)
    return len(found)


def _exists(study: Study) -> bool:
    """Tell whether there can be experiments: a database in a file is not made for this."""
    file = sqlite_file(tracking_uri(study), study.shared_root)
    return file is None or file.exists()


def _active(client: MlflowClient, study: Study) -> list[Experiment]:
    """Return the study's experiment, and one whose removal was interrupted after it got its other name."""
    name = str(Tracker(study).experiment["name"])
    likely = client.search_experiments(filter_string=f"name LIKE {quoted(f'{name}%')}")
    return [found for found in likely if found.name == name or found.name.startswith(name + MARK)]


def _outboxes(study: Study) -> Iterator[Path]:
    """Yield the folders in which rows of the study's experiment wait, for whatever MLflow."""
    name = Tracker(study).experiment["name"]
    for path in sorted((study.cache / "outbox").glob(f"*/{OPS}")):
        try:
            with path.open(encoding="utf-8") as file:
                first = json.loads(file.readline())
            if first["experiment"]["name"] == name:
                yield path.parent
        except (OSError, ValueError, KeyError, TypeError):
            continue  # a damaged one is none of this study's, as far as anyone can tell
