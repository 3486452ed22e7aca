"""The sending of an outbox: its run is found or made, and told what it does not know, in as few requests as will do.

Everything here may break off after any request, whether MLflow has heard it or not, and is then done again: a run is
found by its key and the mark that its outbox has put on it; rows carry their own time, parameters, tags and files
replace themselves. Of a run that was there before, epochs that it has with another time are left as they are: work
whose state was lost goes through them a second time.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from pipeline import faults
from pipeline.environment import mlflow_retries
from pipeline.redaction import redacted
from pipeline.tracking.outbox import Op, Outbox
from pipeline.tracking.store import Store

if TYPE_CHECKING:
    from mlflow.entities import Metric, Param, Run, RunTag

__all__ = ["Sender", "quoted"]

TAGS, ROWS = 100, 800  # MLflow takes 100 tags, as many parameters, and 1000 of all with rows, at once
LENGTH = 5000  # letters of a tag
REFUSED = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "INVALID_STATE")  # of a run that was deleted, say


class Sender:
    """What of an outbox has been sent, and to which run."""

    def __init__(self, store: Store, outbox: Outbox) -> None:
        self.store, self.outbox = store, outbox
        self.run_id: str | None = None
        self.missing = False  # the run that was to be told more is not there
        self._forget()

    def _forget(self) -> None:
        self._sent = 0  # operations
        self._found = False  # was the run there before?
        self._status = "RUNNING"
        self._tags: dict[str, str] = {}
        self._params: set[str] = set()
        self._times: dict[int, int] = {}  # of the epochs that it had
        self._files: set[str] | None = None  # that it had
        self._place = ""
        self._doubtful = False  # may there be a second run of this outbox?

    @property
    def done(self) -> bool:
        """Is everything sent?"""
        return self._sent == len(self.outbox.ops)

    def send(self, *, owned: bool = True) -> None:
        """Send what is new; what MLflow raises is raised."""
        from mlflow.exceptions import MlflowException

        try:
            if self.run_id is None and not self._connect(owned):
                self._sent = len(self.outbox.ops)
                return
            self._send()
        except MlflowException as error:
            if error.error_code in REFUSED:  # the next time from the start
                self.run_id = None
                self.store.experiments.clear()
                self._forget()
            raise

    def _connect(self, owned: bool) -> bool:
        """Find the run or make it; tell whether there is one to be told anything."""
        first = self.outbox.ops[0]
        run = self._attached(first) if first["op"] == "attach" else self._taken(first)
        if run is None:
            if first["op"] == "attach":
                self.missing = True
                return False
            self._doubtful = True  # until the answer is here; and where MLflow itself may ask twice
            run = self._made(first)
            self._doubtful = mlflow_retries() > 0
            self._found = False
        else:
            self._found = True
            # A later outbox has taken the run, for work that goes on elsewhere: it tells all that this one would.
            if not owned and first["op"] == "start" and run.data.tags.get("outbox", "") > first["mark"]:
                return False
            self._times = self._history(run)
        self._status = str(run.info.status)
        self._tags, self._params = dict(run.data.tags), set(run.data.params)
        self._place = str(run.info.artifact_uri)
        self.run_id = str(run.info.run_id)
        faults.reached("run-created")
        return True

    def _attached(self, first: Op) -> Run | None:
        from mlflow.exceptions import MlflowException

        if first["run_id"] is None:
            found = self._search(first)
            return found[0] if found else None
        try:
            run = self.store.client.get_run(first["run_id"])
        except MlflowException as error:
            if error.error_code in REFUSED:
                return None
            raise
        return run if run.info.lifecycle_stage == "active" else None

    def _search(self, first: Op) -> Sequence[Run]:
        """Return the runs of the key, the latest first."""
        experiment = self.store.experiment(first["experiment"])
        found: Sequence[Run] = self.store.client.search_runs([experiment], f"tags.key = {quoted(first['key'])}")
        return found

    def _taken(self, first: Op) -> Run | None:
        """Return the run that this outbox has made or taken, or one that it may take."""
        found = self._search(first)
        mine = [run for run in found if run.data.tags.get("outbox") == first["mark"]]
        for double in mine[1:]:  # MLflow had made it and could not say so
            self.store.client.delete_run(double.info.run_id)
        allowed = {"any": found, "unfinished": [run for run in found if run.info.status != "FINISHED"], "own": []}
        takes = "own" if self.outbox.aside else first["takes"]
        return next(iter([*mine, *allowed[takes]]), None)

    def _made(self, first: Op) -> Run:
        experiment = self.store.experiment(first["experiment"])
        tags = _short(first["tags"] | first["origin"] | {"key": first["key"], "outbox": first["mark"]})
        name, start = first["name"], first["time"]
        return self.store.client.create_run(experiment, start_time=start, tags=tags, run_name=name)

    def _history(self, run: Run) -> dict[int, int]:
        """Return the time of every epoch that the run has."""
        key = next((key for op in self.outbox.ops if op["op"] == "record" for key in op["metrics"]), None)
        key = key or next((key for key in sorted(run.data.metrics) if key.startswith(("train/", "valid/"))), None)
        if key not in run.data.metrics:
            return {}
        return {row.step: row.timestamp for row in self.store.client.get_metric_history(run.info.run_id, key)}

    def _send(self) -> None:
        """Send the operations that are new: parameters, tags and rows, then files, then the end."""
        from mlflow.entities import Param, RunTag

        assert self.run_id is not None
        end = len(self.outbox.ops)
        tags: dict[str, str] = {}
        params: dict[str, str] = {}
        files: list[tuple[list[str], bool]] = []
        rows: list[list[Metric]] = []
        marks: dict[str, str] = {}
        for index in range(self._sent, end):
            op = self.outbox.ops[index]
            match op["op"]:
                case "start":
                    tags |= self._started(op, index)
                    params |= {path: value for path, value in op["params"].items() if path not in self._params}
                    files += [(file, self._found) for file in op["files"]]
                case "record" if self._times.get(op["epoch"], op["time"]) == op["time"]:
                    rows.append(_rows(op["metrics"], op["time"], op["epoch"]))
                case "once":
                    if (self._tags | marks).get(op["mark"]) != op["value"]:
                        rows += [_rows(metrics, op["time"], int(step)) for step, metrics in op["metrics"].items()]
                        marks[op["mark"]] = op["value"]
                    files += [(file, False) for file in op["files"]]
                case "tags":
                    tags |= op["tags"]
                case "file":
                    files += [(file, False) for file in op["files"]]
                case "end" if op["reason"]:
                    tags["reason"] = op["reason"]
        self._inputs(self.outbox.ops[0], first=self._sent == 0)
        self._log(
            [Param(path, value) for path, value in params.items()],
            [RunTag(key, value) for key, value in _short(tags).items()],
            rows,
            [RunTag(key, value) for key, value in _short(marks).items()],
        )
        self._tags |= tags | marks
        self._params |= set(params)
        self._upload(files)
        if self.outbox.ended:
            self._end(self.outbox.ops[-1]["time"])
        elif self.outbox.ops[0]["op"] == "start" and self._status != "RUNNING":
            self.store.client.update_run(self.run_id, status="RUNNING")
            self._status = "RUNNING"
        self._sent = end

    def _started(self, op: Op, index: int) -> dict[str, str]:
        """Return the tags that say how the work began, or with what it goes on; the mark makes the run this one's."""
        tags: dict[str, str] = {}
        first = index == 0
        mine = self._tags.get("outbox") == self.outbox.ops[0].get("mark")
        if first and mine and op["again"]:
            again = f"Run again and compare: `cave reproduce {self.run_id}`."
            tags["mlflow.note.content"] = f"{op['tags']['mlflow.note.content']}\n\n{again}"
        if not first or not mine:
            # What began elsewhere, or with other versions, cannot be had again by one of them.
            begun = self._tags
            tags |= {f"continued/{tag}": now for tag, now in op["origin"].items() if begun.get(tag, now) != now}
        if first and not mine:
            tags["outbox"] = op["mark"]
        before = self._times if first else [o for o in self.outbox.ops[:index] if o["op"] == "record"]
        if op["anew"] and before and not (first and mine):
            tags["restarted"] = "true"
        return tags

    def _inputs(self, op: Op, *, first: bool) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        if first and op["op"] == "start":
            tag = InputTag("mlflow.data.context", "training")
            self.store.client.log_inputs(self.run_id, datasets=[DatasetInput(Dataset(**op["data"]), [tag])])

    def _log(self, params: list[Param], tags: list[RunTag], rows: list[list[Metric]], marks: list[RunTag]) -> None:
        """Send in as few batches as hold it.

        An epoch's rows go in one, so that they are there all or not at all; a mark goes after what it stands for.
        """
        while params or tags or rows or marks:
            some, others = params[:TAGS], tags[:TAGS]
            params, tags = params[TAGS:], tags[TAGS:]
            metrics: list[Metric] = []
            while rows and (not metrics or len(metrics) + len(rows[0]) <= ROWS):
                metrics += rows.pop(0)
            if not rows and not tags and len(others) + len(marks) <= TAGS:
                others, marks = others + marks, []
            self.store.client.log_batch(self.run_id, metrics=metrics, params=some, tags=others)
            if metrics:
                faults.reached("rows-sent")

    def _upload(self, files: Iterable[tuple[list[str], bool]]) -> None:
        """Keep files as artifacts; those that are to be kept `once` stay as the run has them."""
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        if not (files := list(files)):
            return
        repository = get_artifact_repository(self._place, tracking_uri=self.store.client.tracking_uri)
        for (folder, place), once in files:
            name = os.path.join(folder, os.path.basename(place))
            if once:
                if self._files is None:
                    self._files = {str(info.path) for info in repository.list_artifacts(folder or None)}
                if name in self._files:
                    continue
            repository.log_artifact(str(self.outbox.copy(place)), folder or None)

    def _end(self, when: int) -> None:
        """Set the status; one that was stopped does not undo an end that came from elsewhere."""
        status = self.outbox.status
        if self._doubtful:
            self._taken(self.outbox.ops[0])
            self._doubtful = False
        if status == "FINISHED" and "reason" in self._tags and not self.outbox.ops[-1]["reason"]:
            self.store.client.delete_tag(self.run_id, "reason")
            del self._tags["reason"]
        if status and (status != "KILLED" or self._status == "RUNNING"):
            self.store.client.set_terminated(self.run_id, status, when)
            self._status = status
        faults.reached("end-sent")


def quoted(text: str) -> str:
    """Write a text as MLflow's search reads it."""
    return f'"{text}"' if "'" in text else f"'{text}'"


def _rows(metrics: dict[str, Any], timestamp: int, step: int) -> list[Metric]:
    from mlflow.entities import Metric

    return [Metric(key, value, timestamp, step) for key, value in metrics.items()]


def _short(tags: dict[str, str]) -> dict[str, str]:
    return {key: redacted(value)[:LENGTH] for key, value in tags.items()}
