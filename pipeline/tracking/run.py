"""A run: told, ended; by its outbox, whether MLflow is there or not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import faults
from pipeline.redaction import redacted
from pipeline.tracking.outbox import Op, Outbox, end, now
from pipeline.tracking.sender import Sender
from pipeline.training import Record

if TYPE_CHECKING:
    from pipeline.tracking.tracker import Tracker

__all__ = ["Run"]

OTHERS = 4  # outboxes that are sent beside a run's own, when MLflow is back


class Run:
    """One run, held by this process: epochs, parameters, artifacts, an end."""

    def __init__(self, tracker: Tracker, outbox: Outbox) -> None:
        self.tracker, self.outbox = tracker, outbox
        self._sender = Sender(tracker.store, outbox)
        self.closed = False  # is it ended, or let go?
        self._refusals = 0  # one after the other
        self._epochs = {op["epoch"] for op in outbox.ops if op["op"] == "record"}

    @property
    def run_id(self) -> str | None:
        """The run's id in MLflow, once it is known."""
        return self._sender.run_id

    @property
    def logged(self) -> int:
        """The last epoch that was logged, here or by who worked on the run before."""
        return max(self._epochs, default=0)

    @property
    def key(self) -> str:
        """What the run is found by."""
        return str(self.outbox.ops[0]["key"])

    @property
    def missing(self) -> bool:
        """Is this a run that MLflow does not have?"""
        return self._sender.missing

    def log_records(self, records: Iterable[Record]) -> None:
        """Log records, the step being the epoch; an epoch that was logged before is not doubled."""
        new = [record for record in records if record.epoch not in self._epochs]
        self._epochs |= {record.epoch for record in new}
        self._log(
            *({"op": "record", "epoch": r.epoch, "time": r.timestamp, "metrics": dict(r.metrics)} for r in new),
        )

    def log_once(
        self, mark: str, value: str, metrics: Mapping[int, Mapping[str, float]], files: Mapping[str, Sequence[Path]]
    ) -> None:
        """Log metrics by their step and files by their folder, and then the tag `mark`; but not if it has the value."""
        kept = [self.outbox.keep(folder, path.name, path) for folder, paths in files.items() for path in paths]
        steps = {str(step): dict(values) for step, values in metrics.items()}
        self._log({"op": "once", "mark": mark, "value": value, "time": now(), "metrics": steps, "files": kept})

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags."""
        self._log({"op": "tags", "tags": {key: redacted(value) for key, value in tags.items()}})

    def log_files(self, folder: str, files: Iterable[Path]) -> None:
        """Keep files as artifacts under `folder`, as they are now."""
        self._log({"op": "file", "files": [self.outbox.keep(folder, file.name, file) for file in files]})

    def _log(self, *ops: Op) -> None:
        if self.closed:
            return
        if ops:
            self.outbox.append(*ops)
            faults.reached("rows-logged")
        self.send()

    def send(self, *, forced: bool = False) -> None:
        """Send what is new, if it is time to; what was refused twice, once more at the end alone."""
        if self._refusals > 1 and not forced:
            return
        if self.tracker.store.may(forced=forced) and not self._sender.done:
            with self.tracker.store.exchange():
                self._sender.send()
            self._refusals = self._refusals + 1 if self.tracker.store.refused else 0

    def finish(self, status: str | None = "FINISHED", reason: str = "") -> None:
        """End the run as FINISHED, FAILED or KILLED, with the reason as a tag; without a status, stop telling it."""
        if self.closed:
            return
        self.outbox.append(end(status, redacted(reason)))
        faults.reached("end-logged")
        self.send(forced=True)
        if self._refusals == 1:  # of a run that was deleted, say: once more, from the start
            self.send(forced=True)
        self.closed = True
        if self._sender.done:
            self.outbox.remove()
            if self.tracker.behind:
                self.tracker.behind = self.tracker.deliver(most=OTHERS).waiting > 0
        else:
            self.outbox.settle()
            if self._refusals:
                self.tracker.refuse(self.outbox)
            else:
                self.tracker.behind = True
            self.outbox.release()

    def close(self) -> None:
        """Let the run go without an end, as a process does that dies."""
        self.closed = True
        self.outbox.release()

    @contextmanager
    def closing(self) -> Iterator[None]:
        """Let the run go where this is left by an error."""
        try:
            yield
        except BaseException:
            self.close()
            raise
