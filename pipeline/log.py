"""The log of a run: a file to which lines are appended, one JSON object a line, each with its `type`.

Training writes a line for every epoch; the other types are those of `pipeline.run_folders`. A line that a crash has
cut off counts as not written: readers stop before it, and the next writer removes it. Lines of epochs after the last
state are removed when training resumes.
"""

from __future__ import annotations

import errno
import json
import math
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline import faults
from pipeline.errors import InputError
from pipeline.files import write_bytes

__all__ = ["LOG", "STATE", "Entry", "Log", "Record"]

LOG, STATE = "log.jsonl", "state.safetensors"  # names in a run's folder
SYNC_SECONDS = 1.0  # between two times that the lines of epochs are brought to the disk
Entry = dict[str, Any]


@dataclass(frozen=True)
class Record:
    """What one epoch gave: `train/` terms are means over its steps, `valid/` ones a bound on the validation set."""

    epoch: int
    step: int  # updates so far
    seconds: float  # of training and validation so far
    timestamp: int  # milliseconds since 1970, kept so that sending a record again changes nothing
    metrics: dict[str, float]

    @property
    def row(self) -> dict[str, Any]:
        """The record as a row of a table, a column a metric."""
        return {name: value for name, value in asdict(self).items() if name != "metrics"} | self.metrics

    @property
    def entry(self) -> Entry:
        """The record as a line of the log."""
        return {"type": "epoch", **asdict(self)}


class Log:
    """The log in a folder. Several objects may read one; who writes holds the run's lock."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOG
        self.position = (0, 0)  # the file that was read, and how many bytes of it
        self._entries: list[Entry] = []
        self._synced = -math.inf

    def read(self) -> list[Entry]:
        """Return all whole lines; only those that were added since the last call are read from the disk.

        Raises:
            InputError: the file cannot be read.
        """
        try:
            with self.path.open("rb") as file:
                status = os.fstat(file.fileno())
                if status.st_ino != self.position[0] or status.st_size < self.position[1]:
                    self.position, self._entries = (status.st_ino, 0), []
                file.seek(self.position[1])
                for line in file.read().splitlines(keepends=True):
                    if (entry := _parse(line)) is None:
                        break
                    self._entries.append(entry)
                    self.position = (status.st_ino, self.position[1] + len(line))
        except FileNotFoundError:
            self.position, self._entries = (0, 0), []
        except OSError as error:
            raise InputError(f"{self.path}: cannot be read: {error.strerror}") from None
        return self._entries

    def records(self) -> list[Record]:
        """Return the records of all epochs; a `TypeError` is raised for a line that is not one."""
        lines = [entry for entry in self.read() if entry["type"] == "epoch"]
        return [Record(**{name: value for name, value in line.items() if name != "type"}) for line in lines]

    def repair(self) -> None:
        """Remove what a crash has left of a line, and whatever stands behind it."""
        self.read()
        if self.path.exists() and self.path.stat().st_size > self.position[1]:
            os.truncate(self.path, self.position[1])

    def append(self, *entries: Entry, sync: bool = False) -> bool:
        """Add lines in one write; with `sync`, bring the file to the disk unless that was done within a second.

        Returns whether it was brought to the disk.

        Raises:
            InputError: the file cannot be written; then none of the lines is in it.
        """
        lines = "".join(json.dumps(entry, separators=(",", ":")) + "\n" for entry in entries).encode()
        synced = sync and time.monotonic() > self._synced + SYNC_SECONDS
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab", buffering=0) as file:
                start = file.tell()
                try:
                    if file.write(lines) != len(lines):
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                    if synced:
                        os.fsync(file.fileno())
                except OSError:
                    file.truncate(start)
                    raise
        except OSError as error:
            raise InputError(f"{self.path}: cannot be written: {error.strerror}") from None
        if synced:
            self._synced = time.monotonic()
        faults.crash_point("line-appended")
        return synced

    def keep_epochs(self, last: int) -> None:
        """Remove the lines of later epochs, if there are any, by writing the file anew."""
        entries = self.read()
        remaining = [entry for entry in entries if entry["type"] != "epoch" or entry["epoch"] <= last]
        if len(remaining) < len(entries):
            write_bytes(
                self.path, "".join(json.dumps(entry, separators=(",", ":")) + "\n" for entry in remaining).encode()
            )


def _parse(line: bytes) -> Entry | None:
    """Return the object that a line holds; nothing for a line that is torn or is no entry."""
    try:
        entry = json.loads(line) if line.endswith(b"\n") else None
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, dict) and isinstance(entry.get("type"), str) else None
