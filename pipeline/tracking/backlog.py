"""The folders of runs that no process works on: what MLflow lacks of them is published, and what is done is removed."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.redaction import one_line
from pipeline.run_folders import DamagedError, RunFolder, end
from pipeline.study import Study
from pipeline.text import plural
from pipeline.tracking.publish import Publisher
from pipeline.tracking.server import Server

__all__ = ["Backlog", "Published"]


@dataclass
class Published:
    """How many folders were published, remain, belong to work that is going on, or to other addresses."""

    done: int = 0
    remaining: int = 0
    refused: int = 0  # of those left: MLflow takes them at no time
    busy: int = 0
    failed: bool = False
    elsewhere: dict[str, int] = field(default_factory=dict)  # by their address

    @property
    def waiting(self) -> int:
        """How many are left that MLflow will take."""
        return self.remaining - self.refused


class Backlog:
    """The folders of a study's runs that wait to be published, or to be removed."""

    def __init__(self, study: Study, server: Server, experiment: str) -> None:
        self.study, self.server, self.experiment = study, server, experiment
        self.behind = False  # whether a run of this process has left a folder that MLflow lacks
        self._refused: set[Path] = set()  # folders that MLflow was found to refuse

    def publish_all(
        self, *, everything: bool = False, most: int | None = None, seconds: float | None = None
    ) -> Published:
        """Publish the folders that have no living owner: of this study, or everything; at most so much.

        It stops where MLflow fails, and passes over a folder that is damaged, or that MLflow refuses, in one line.
        A run without an end was killed, and ends as such.
        """
        result = Published()
        deadline = None if seconds is None else time.monotonic() + seconds
        for path in sorted(self.study.runs.glob("*/")):
            try:
                folder = RunFolder.open(path)
            except BlockingIOError:
                result.busy += 1
                continue
            try:
                if not folder.entries or folder.published:
                    folder.remove_if_done()
                elif folder.address != self.server.identity:
                    result.elsewhere[folder.address] = result.elsewhere.get(folder.address, 0) + 1
                elif path in self._refused and not everything:
                    result.remaining, result.refused = result.remaining + 1, result.refused + 1
                elif everything or folder.header.experiment == self.experiment:
                    late = deadline is not None and time.monotonic() > deadline
                    enough = most is not None and result.done >= most
                    if result.failed or late or enough or not self._publish(folder, result):
                        result.remaining += 1
            except DamagedError as error:  # which is no reason to stop the work of the caller
                print(error, file=sys.stderr, flush=True)
                result.failed, result.remaining, result.refused = False, result.remaining + 1, result.refused + 1
            finally:
                folder.release()
            if result.waiting and most is not None:
                break
        return result

    def _publish(self, folder: RunFolder, result: Published) -> bool:
        """Publish a folder without an owner; return whether MLflow has all of it."""
        if not folder.ended:
            begun = folder.header.type == "run" and folder.status is None
            folder.log.append(end("KILLED" if begun else None, "", folder.last_time))  # not of today
        result.failed = True
        with self.server.request():
            Publisher(self.server, folder).publish(owned=False)
            result.failed = False
        if self.server.refusal:
            result.failed, result.refused = False, result.refused + 1
            self.report_refusal(folder)
            return False
        if result.failed:
            return False
        folder.close_published()
        result.done += 1
        return True

    def report_refusal(self, folder: RunFolder) -> None:
        """Print once that MLflow refuses a folder, which stays where it is."""
        if folder.path in self._refused:
            return
        self._refused.add(folder.path)
        header, where = folder.header, os.path.relpath(folder.path, self.study.root)
        line = (
            f"MLflow at {self.server.address} refuses what run {header.name or header.key} has logged"
            f" ({self.server.refusal}); `cave sync` tries again, and who gives it up removes {where}"
        )
        print(one_line(line), file=sys.stderr, flush=True)

    def discard_states(self, *paths: Path) -> None:
        """Remove the states of runs whose work is done, and the folders that MLflow has all of."""
        for path in paths:
            if path.exists():
                try:
                    folder = RunFolder.open(path)
                except BlockingIOError:  # another process publishes it, and removes it
                    continue
                folder.discard_state()
                folder.release()

    def flush_at_exit(self) -> None:
        """At the end of a stage, publish what is left, for a minute, and print a line if something stays."""
        waiting = self.publish_all(seconds=60.0).waiting
        if waiting:
            wait = "waits" if waiting == 1 else "wait"
            print(
                f"{self.study.name}: {plural(waiting, 'run')} {wait} for MLflow; `cave sync` sends what is left",
                flush=True,
            )
