"""A run that this process works on: what is logged goes into its folder, and is published from there at intervals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.log import Entry, Record
from pipeline.redaction import redacted
from pipeline.run_folders import RunFolder, end, now
from pipeline.tracking.describe import as_param
from pipeline.tracking.publish import Publisher
from pipeline.tracking.server import NOTE
from pipeline.tracking.system import monitor

if TYPE_CHECKING:
    from pipeline.tracking.tracker import Tracker

__all__ = ["Run"]

OTHERS = 4  # folders of other runs that are published at the end of one, when MLflow is back


class Run:
    """One run, whose folder this process has locked."""

    def __init__(self, tracker: Tracker, folder: RunFolder) -> None:
        self.tracker, self.folder = tracker, folder
        self.key = folder.header.key
        self._publisher = Publisher(tracker.server, folder)
        self._closed = False
        self._refusals = 0  # one after the other
        self._monitor: Any = None  # of the machine, once the run has an id

    @property
    def run_id(self) -> str | None:
        """The run's id in MLflow, once it is known."""
        return self._publisher.run_id

    @property
    def missing(self) -> bool:
        """Whether MLflow does not have the run that results were to be added to."""
        return self._publisher.missing

    def log_record(self, record: Record) -> None:
        """Log an epoch that was not trained here, unless the log has it."""
        if all(entry.get("epoch") != record.epoch for entry in self.folder.entries):
            self._append(record.entry)

    def log_result(
        self,
        name: str,
        digest: str,
        metrics: Mapping[int, Mapping[str, float]],
        files: Mapping[str, Sequence[Path]],
        contents: Mapping[str, bytes] | None = None,
    ) -> None:
        """Log metrics by their step and files by their folder, and then the tag `name`; not if it is this digest.

        `contents` are further files by artifact.
        """
        artifacts = [
            self.folder.add_file(f"{folder}/{path.name}".lstrip("/"), path)
            for folder, paths in files.items()
            for path in paths
        ]
        artifacts += [self.folder.add_file(artifact, content) for artifact, content in (contents or {}).items()]
        steps = {str(step): dict(values) for step, values in metrics.items()}
        entry = {"type": "result", "name": name, "digest": digest, "time": now(), "metrics": steps, "files": artifacts}
        self._append(entry)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags."""
        self._append({"type": "tags", "tags": {name: redacted(value) for name, value in tags.items()}})

    def describe(self, text: str) -> None:
        """Replace the description, to which the command that trains the run again is added."""
        self.set_tags({NOTE: text})

    def set_params(self, params: Mapping[str, Any]) -> None:
        """Set parameters; one that the run has already cannot change, and then a tag says so."""
        self._append({"type": "params", "params": {name: as_param(value) for name, value in params.items()}})

    def _append(self, entry: Entry) -> None:
        if not self._closed:
            self.folder.log.append(entry)
            self.publish()

    def publish(self, *, forced: bool = False) -> None:
        """Bring MLflow up to date, if it is time to; what it has refused twice, once more at the end alone."""
        if self._closed or self._publisher.complete or (self._refusals > 1 and not forced):
            return
        if self.tracker.server.can_send(forced=forced):
            with self.tracker.server.request():
                self._publisher.publish()
            self._refusals = self._refusals + 1 if self.tracker.server.refusal else 0
            if self._monitor is None and self.run_id and self.folder.header.reproducible and not self.folder.ended:
                self._monitor = monitor(self.run_id, self.tracker.server.client.tracking_uri)

    def finish(self, status: str | None = "FINISHED", reason: str = "") -> None:
        """End the work on the run as FINISHED, FAILED or KILLED, with the reason as a tag, or without a status."""
        if self._closed:
            return
        self.folder.log.append(end(status, redacted(reason)))
        self.publish(forced=True)
        if self._refusals == 1:  # of a run that was deleted, say: once more, from the start
            self.publish(forced=True)
        published = self._publisher.complete
        if published:
            self.folder.close_published()
        else:
            self.folder.sync()
            if self._refusals:
                self.tracker.backlog.report_refusal(self.folder)
            else:
                self.tracker.backlog.behind = True
        self.close()
        if self.tracker.backlog.behind and published:
            self.tracker.backlog.behind = self.tracker.backlog.publish_all(most=OTHERS).waiting > 0

    def close(self) -> None:
        """Release the run's folder without an end, as the death of the process does."""
        self._closed = True
        if self._monitor is not None:
            self._monitor.finish()
        self.folder.release()

    @contextmanager
    def closing(self) -> Iterator[None]:
        """Release the run's folder where this block is left by an error."""
        try:
            yield
        except BaseException:
            self.close()
            raise
