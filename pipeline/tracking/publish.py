"""The only way to MLflow: compare what it has of a run with the run's folder, and send what is missing.

Publishing may break off after any request, whether MLflow has done what it was asked for or not, and is then done
again: a run is found by its key and by the id of the folder that it has as a tag; epochs carry their own time, and
parameters, tags and files replace themselves. An epoch that MLflow has with another time stays as it is: work whose
state was lost goes through it a second time, and the run says `restarted`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipeline import faults
from pipeline.environment import mlflow_retries
from pipeline.redaction import redacted
from pipeline.runs import Header, RunFolder
from pipeline.tracking.connection import quoted
from pipeline.tracking.server import NOTE, Server

if TYPE_CHECKING:
    from mlflow.entities import Metric, Run

__all__ = ["FOLDER_TAG", "Publisher"]

FOLDER_TAG = "folder"  # the id of the folder that a run is published from
TAGS, ROWS = 100, 800  # MLflow takes 100 tags, as many parameters, and 1000 of all with rows, at once
LENGTH = 5000  # letters of a tag
GONE = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "INVALID_STATE")  # of a run that was deleted, say


class Publisher:
    """What MLflow has of a run's folder, as far as this process knows."""

    def __init__(self, server: Server, folder: RunFolder) -> None:
        self.server, self.folder = server, folder
        self.run_id: str | None = None
        self.missing = False  # there is no run to which results could be added
        self._doubtful = False  # MLflow may have made a second run for this folder
        self._forget()

    def _forget(self) -> None:
        self._sent = (0, -1)  # the part of the log that MLflow has
        self._existed = False  # whether the run was there before
        self._has_dataset = False
        self._status = "RUNNING"
        self._tags: dict[str, str] = {}
        self._params: set[str] = set()
        self._epochs: dict[int, int] = {}  # their times
        self._files: set[str] | None = None  # of the provenance of a run that was there before
        self._results: set[tuple[str, str, int]] = set()
        self._artifacts = ""

    @property
    def complete(self) -> bool:
        """Whether MLflow has all of the log."""
        return bool(self.folder.entries) and self._sent == self.folder.log.position

    def publish(self, *, owned: bool = True) -> None:
        """Send what MLflow lacks; what MLflow raises is raised, and what it has then is unknown.

        A folder that no living process works on is not `owned`: where a later folder has taken its run, for work that
        went on elsewhere, nothing is sent, since the later one has all that this one has.
        """
        from mlflow.exceptions import MlflowException

        header = self.folder.header
        position = self.folder.log.position
        try:
            if self.run_id is not None or self._connect(header, owned):
                self._send(header)
            self._sent = position
        except MlflowException as error:
            if error.error_code in GONE:  # the next time from the start
                self.run_id = None
                self.server.experiments.clear()
                self._forget()
            raise

    def _connect(self, header: Header, owned: bool) -> bool:
        """Find the run or create it; return whether there is one that lacks anything."""
        run = self._results_run(header) if header.type == "results" else self._own_run(header)
        self._existed = run is not None
        if run is None:
            if header.type == "results":
                self.missing = True
                return False
            self._doubtful = True  # until the answer is here; and where MLflow's client itself may ask twice
            run = self._create(header)
            self._doubtful = mlflow_retries() > 0
        elif not owned and header.type == "run" and run.data.tags.get(FOLDER_TAG, "") > header.id:
            return False
        else:
            self._epochs = self._published_epochs(run)
        self._status = str(run.info.status)
        self._tags, self._params = dict(run.data.tags), set(run.data.params)
        self._artifacts = str(run.info.artifact_uri)
        self.run_id = str(run.info.run_id)
        faults.crash_point("run-created")
        return True

    def _results_run(self, header: Header) -> Run | None:
        """Return the run that results are added to."""
        from mlflow.exceptions import MlflowException

        if header.run_id is None:
            return next(iter(self._search(header)), None)
        try:
            run = self.server.client.get_run(header.run_id)
        except MlflowException as error:
            if error.error_code in GONE:
                return None
            raise
        return run if run.info.lifecycle_stage == "active" else None

    def _search(self, header: Header) -> Sequence[Run]:
        """Return the runs of the key, the latest first."""
        experiment = self.server.experiment(header.experiment, header.note)
        runs: Sequence[Run] = self.server.client.search_runs([experiment], f"tags.key = {quoted(header.key)}")
        return runs

    def _own_run(self, header: Header) -> Run | None:
        """Return the run that was created from this folder or, without one, a run of the key that it may take."""
        runs = self._search(header)
        own = [run for run in runs if run.data.tags.get(FOLDER_TAG) == header.id]
        own.sort(key=lambda run: run.info.run_id != self.run_id)  # the one that this process logs to stays
        for double in own[1:]:  # MLflow had created it and could not say so
            self.server.client.delete_run(double.info.run_id)
        if own or self.folder.is_replaced:
            return own[0] if own else None
        return next((run for run in runs if header.reuse_finished or run.info.status != "FINISHED"), None)

    def _create(self, header: Header) -> Run:
        experiment = self.server.experiment(header.experiment, header.note)
        tags = _shortened(header.tags | {"key": header.key, FOLDER_TAG: header.id})
        return self.server.client.create_run(experiment, start_time=header.time, tags=tags, run_name=header.name)

    def _published_epochs(self, run: Run) -> dict[int, int]:
        """Return the time of every epoch that the run has."""
        names = [name for entry in self.folder.entries if entry["type"] == "epoch" for name in entry["metrics"]]
        names += [name for name in sorted(run.data.metrics) if name.startswith(("train/", "valid/"))]
        name = next((name for name in names if name in run.data.metrics), None)
        history = [] if name is None else self.server.client.get_metric_history(run.info.run_id, name)
        return {row.step: row.timestamp for row in history}

    def _log_dataset(self, header: Header) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        if header.dataset and not self._has_dataset:
            tag = InputTag("mlflow.data.context", "training")
            self.server.client.log_inputs(self.run_id, datasets=[DatasetInput(Dataset(**header.dataset), [tag])])
            self._has_dataset = True

    def _send(self, header: Header) -> None:
        """Send tags, parameters and rows, then files, then the end."""
        tags: dict[str, str] = {}
        marks: dict[str, str] = {}
        rows: list[list[Metric]] = []
        epochs: dict[int, int] = {}
        files: list[str] = []
        results: set[tuple[str, str, int]] = set()
        if header.type == "run":
            tags |= self._ownership(header)
            files += self._missing_provenance(header)
        for entry in self.folder.entries:
            match entry["type"]:
                case "start":
                    tags.pop("reason", None)
                    # Numbers that were begun elsewhere, or with other versions, cannot be had again by one of them.
                    origin = {name: str(value) for name, value in entry["origin"].items()}
                    tags |= {
                        f"continued/{n}": value for n, value in origin.items() if self._tags.get(n, value) != value
                    }
                case "epoch" if entry["epoch"] not in self._epochs:
                    epochs[entry["epoch"]] = entry["timestamp"]
                    rows.append(_rows(entry["metrics"], entry["timestamp"], entry["epoch"]))
                case "epoch" if self._epochs[entry["epoch"]] != entry["timestamp"]:
                    tags["restarted"] = "true"
                case "tags":
                    tags |= entry["tags"]
                case "result" if (result := (entry["name"], entry["digest"], entry["time"])) not in self._results:
                    if (self._tags | marks).get(entry["name"]) != entry["digest"]:
                        rows += [_rows(metrics, entry["time"], int(step)) for step, metrics in entry["metrics"].items()]
                        marks[entry["name"]] = entry["digest"]
                    files += entry["files"]
                    results.add(result)
                case "end" if entry["reason"]:
                    tags["reason"] = entry["reason"]
        params = {name: value for name, value in header.params.items() if name not in self._params}
        tags = {name: value for name, value in _shortened(tags).items() if self._tags.get(name) != value}
        self._log_dataset(header)
        self._log(params, tags, rows, _shortened(marks))
        self._params |= set(params)
        self._tags |= tags | marks
        self._epochs |= epochs
        self._upload(files)
        self._results |= results
        self._set_status(header)

    def _ownership(self, header: Header) -> dict[str, str]:
        """Return the tags that make the run this folder's and, once it has an id, say how to train it again."""
        if self._tags.get(FOLDER_TAG) != header.id:
            return {FOLDER_TAG: header.id}
        if header.reproducible:
            return {NOTE: f"{header.tags[NOTE]}\n\nRun again and compare: `cave reproduce {self.run_id}`."}
        return {}

    def _missing_provenance(self, header: Header) -> list[str]:
        """Return the files of the run's beginning that MLflow does not have; those that it has stay."""
        paths = {artifact: self.folder.file(artifact) for artifact in header.files}
        if self._files is None:
            self._files = set()
            if self._existed:
                for folder in {os.path.dirname(artifact) for artifact in paths}:
                    self._files |= {str(info.path) for info in self._repository().list_artifacts(folder or None)}
        return [artifact for artifact in paths if artifact not in self._files]

    def _log(
        self, params: dict[str, str], tags: dict[str, str], rows: list[list[Metric]], marks: dict[str, str]
    ) -> None:
        """Send in as few batches as hold it.

        An epoch's rows go in one, so that MLflow has all or none of them; a mark goes after what it stands for.
        """
        from mlflow.entities import Param, RunTag

        some_params = [Param(name, value) for name, value in params.items()]
        some_tags = [RunTag(name, value) for name, value in tags.items()]
        last = [RunTag(name, value) for name, value in marks.items()]
        while some_params or some_tags or rows or last:
            metrics: list[Metric] = []
            while rows and (not metrics or len(metrics) + len(rows[0]) <= ROWS):
                metrics += rows.pop(0)
            sent = some_tags[:TAGS]
            if not rows and len(some_tags) <= TAGS and len(sent) + len(last) <= TAGS:
                sent, last = sent + last, []
            self.server.client.log_batch(self.run_id, metrics=metrics, params=some_params[:TAGS], tags=sent)
            some_params, some_tags = some_params[TAGS:], some_tags[TAGS:]
            if metrics:
                faults.crash_point("rows-sent")

    def _repository(self) -> Any:
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        return get_artifact_repository(self._artifacts, tracking_uri=self.server.client.tracking_uri)

    def _upload(self, files: Iterable[str]) -> None:
        for artifact in dict.fromkeys(files):
            self._repository().log_artifact(str(self.folder.file(artifact)), os.path.dirname(artifact) or None)
            if self._files is not None:
                self._files.add(artifact)

    def _set_status(self, header: Header) -> None:
        """Set the status; one of a process that was stopped does not undo an end that came from elsewhere."""
        status = self.folder.status
        if status is None:
            if header.type == "run" and not self.folder.ended and self._status != "RUNNING":
                self.server.client.update_run(self.run_id, status="RUNNING")
                self._status = "RUNNING"
            return
        end = next(entry for entry in reversed(self.folder.entries) if entry.get("status") == status)
        if self._doubtful:
            self._own_run(header)
            self._doubtful = False
        if status == "FINISHED" and "reason" in self._tags and not end["reason"]:
            self.server.client.delete_tag(self.run_id, "reason")
            del self._tags["reason"]
        if self._status == "RUNNING" or status not in ("KILLED", self._status):
            self.server.client.set_terminated(self.run_id, status, end["time"])
            self._status = status
        faults.crash_point("end-sent")


def _rows(metrics: Mapping[str, Any], timestamp: int, step: int) -> list[Metric]:
    from mlflow.entities import Metric

    return [Metric(key, value, timestamp, step) for key, value in metrics.items()]


def _shortened(tags: Mapping[str, str]) -> dict[str, str]:
    return {key: redacted(value)[:LENGTH] for key, value in tags.items()}
