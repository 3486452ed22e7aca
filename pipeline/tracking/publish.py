"""The only way to MLflow: compare what it has of a run with the run's folder, and send what is missing.

Publishing may break off after any request, whether MLflow has done what it was asked for or not, and is then done
again: a run is found by its key and by the id of the folder that it has as a tag; epochs carry their own time, and
parameters, tags and files replace themselves. An epoch that MLflow has with another time stays as it is: work whose
state was lost goes through it a second time, and the run says `restarted`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from pipeline import faults
from pipeline.run_folders import Header, RunFolder
from pipeline.tracking.batches import log_in_batches, metric_rows, shortened
from pipeline.tracking.lookup import FOLDER_TAG, GONE, create_run, own_run, published_epochs, results_run
from pipeline.tracking.server import NOTE, Server
from pipeline.tracking.tags import read_tags

if TYPE_CHECKING:
    from mlflow.entities import Metric

__all__ = ["Publisher"]

# The tag `state`, by a run's status; a trial that was pruned is KILLED too, and says so itself.
STATES = {None: "running", "FINISHED": "complete", "FAILED": "failed", "KILLED": "interrupted"}


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
        self._status, self._ended = "RUNNING", 0
        self._tags: dict[str, str] = {}
        self._params: dict[str, str] = {}
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
        run = (
            results_run(self.server, header)
            if header.type == "results"
            else own_run(self.server, self.folder, self.run_id)
        )
        self._existed = run is not None
        if run is None:
            if header.type == "results":
                self.missing = True
                return False
            self._doubtful = True  # until the answer is here
            run = create_run(self.server, header)
            self._doubtful = self.server.repeats_requests
        elif not owned and header.type == "run" and read_tags(run.data.tags).get(FOLDER_TAG, "") > header.id:
            return False
        else:
            self._epochs = published_epochs(self.server, self.folder, run)
        self._status, self._ended = str(run.info.status), int(run.info.end_time or 0)
        self._tags, self._params = read_tags(run.data.tags), dict(run.data.params)
        self._artifacts = str(run.info.artifact_uri)
        self.run_id = str(run.info.run_id)
        faults.crash_point("run-created")
        return True

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
        params = dict(header.params)
        if header.type == "run":
            tags |= self._ownership(header)
            files += self._missing_provenance(header)
        for entry in self.folder.entries:
            match entry["type"]:
                case "start":
                    tags.pop("reason", None)
                    tags["state"] = STATES[self.folder.status]
                    # Numbers that were begun elsewhere, or with other versions, cannot be had again by one of them.
                    origin = {name: str(value) for name, value in entry["origin"].items()}
                    tags |= {
                        f"continued/{n}": value for n, value in origin.items() if self._tags.get(n, value) != value
                    }
                case "epoch" if entry["epoch"] not in self._epochs:
                    epochs[entry["epoch"]] = entry["timestamp"]
                    rows.append(metric_rows(entry["metrics"], entry["timestamp"], entry["epoch"]))
                case "epoch" if self._epochs[entry["epoch"]] != entry["timestamp"]:
                    tags["restarted"] = "true"
                case "tags":
                    has_command = header.reproducible or header.type == "results"
                    tags |= self._completed(entry["tags"]) if has_command else entry["tags"]
                case "params":
                    params |= entry["params"]
                    if any(self._params.get(name, value) != value for name, value in entry["params"].items()):
                        tags["params_outdated"] = "true"  # see the tags `best/`
                case "result" if (result := (entry["name"], entry["digest"], entry["time"])) not in self._results:
                    if (self._tags | marks).get(entry["name"]) != entry["digest"]:
                        rows += [
                            metric_rows(metrics, entry["time"], int(step)) for step, metrics in entry["metrics"].items()
                        ]
                        marks[entry["name"]] = entry["digest"]
                    files += entry["files"]
                    results.add(result)
                case "end" if entry["reason"]:
                    tags["reason"] = entry["reason"]
        params = {name: value for name, value in params.items() if name not in self._params}
        tags = {name: value for name, value in shortened(tags).items() if self._tags.get(name) != value}
        self._log_dataset(header)
        log_in_batches(self.server.client, str(self.run_id), params, tags, rows, shortened(marks))
        self._params |= params
        self._tags |= tags | marks
        self._epochs |= epochs
        self._upload(files)
        self._results |= results
        self._set_status(header)

    def _ownership(self, header: Header) -> dict[str, str]:
        """Return the tags that make the run this folder's and, once it has an id, say how to train it again."""
        if self._tags.get(FOLDER_TAG) != header.id:
            return {FOLDER_TAG: header.id}
        return self._completed({NOTE: header.tags[NOTE]}) if header.reproducible else {}

    def _completed(self, tags: dict[str, str]) -> dict[str, str]:
        """Return tags where a description ends with the command that trains the run again."""
        command = f"Run again and compare: `cave reproduce {self.run_id}`."
        return tags | {name: f"{value}\n\n{command}" for name, value in tags.items() if name == NOTE}

    def _missing_provenance(self, header: Header) -> list[str]:
        """Return the files of the run's beginning that MLflow does not have; those that it has stay."""
        paths = {artifact: self.folder.file(artifact) for artifact in header.files}
        if self._files is None:
            self._files = set()
            if self._existed:
                for folder in {os.path.dirname(artifact) for artifact in paths}:
                    self._files |= {str(info.path) for info in self._repository().list_artifacts(folder or None)}
        return [artifact for artifact in paths if artifact not in self._files]

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
            own_run(self.server, self.folder, self.run_id)
            self._doubtful = False
        if status == "FINISHED" and "reason" in self._tags and not end["reason"]:
            self.server.client.delete_tag(self.run_id, "reason")
            del self._tags["reason"]
        later = status == self._status == "KILLED" and end["time"] > self._ended
        if self._status == "RUNNING" or status not in ("KILLED", self._status) or later:
            self.server.client.set_terminated(self.run_id, status, end["time"])
            self._status, self._ended = status, end["time"]
        faults.crash_point("end-sent")
