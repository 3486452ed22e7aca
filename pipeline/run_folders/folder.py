"""A run's folder: everything that is known of a run, from which MLflow can be brought up to date at any time.

    spec.json           what is trained (`RunSpec`)
    log.jsonl           what happened, a line each (`pipeline.log`)
    state.safetensors   where training stands; without it, work starts anew
    files/              copies of what MLflow gets as artifacts, at the paths that they have there

The first line of the log says whose run it is (`Header`). The others:

    start       a process begins to work on the run: its address of MLflow, and what its numbers depend on
    epoch       a record, written by the training itself
    tags        tags that replace those of the same name
    result      metrics by step, and files, under a name; logged once for a digest
    end         the status (none: the run keeps the one it has), the time and the reason
    published   MLflow has all lines above this one

A lock is held by the process that works on a run, as long as it does: any process may publish what has no owner.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path

from pipeline.errors import InputError
from pipeline.files import file_lock
from pipeline.log import LOG, STATE, Entry, Log
from pipeline.run_folders.entries import DamagedError, Header, now, read_header

__all__ = ["PATCH", "SPEC", "RunFolder"]

SPEC, PATCH = "provenance/spec.json", "provenance/changes.patch"  # artifacts
FILES, LOCK = "files", "lock"


class RunFolder:
    """A run's folder, whose lock this process holds until `release`."""

    def __init__(self, path: Path, lock: ExitStack) -> None:
        self.path, self._lock, self.log = path, lock, Log(path)
        self.log.repair()

    @classmethod
    def open(cls, path: Path, patience: float = 0.0) -> RunFolder:
        """Lock a folder, which is made if need be.

        Raises:
            BlockingIOError: another process holds the lock for longer than `patience` seconds.
            InputError: the folder cannot be read or written.
        """
        with ExitStack() as lock:
            lock.enter_context(file_lock(path / LOCK, patience))
            try:
                return cls(path, lock.pop_all())
            except OSError as error:
                raise InputError(f"{path}: cannot be read: {error.strerror}") from None

    @property
    def entries(self) -> list[Entry]:
        """All lines of the log."""
        return self.log.read()

    @property
    def header(self) -> Header:
        """The first line; a `DamagedError` is raised where it is none."""
        return read_header(self.path, self.entries)

    @property
    def address(self) -> str:
        """The address of MLflow that the run was last logged for."""
        starts = [entry.get("address") for entry in self.entries if entry["type"] == "start"]
        return str([self.header.address, *starts][-1])

    @property
    def last_epoch(self) -> int:
        """The last epoch that is in the log, or 0."""
        return max((entry["epoch"] for entry in self.entries if entry["type"] == "epoch"), default=0)

    @property
    def last_time(self) -> int:
        """The latest time of a line, in milliseconds since 1970."""
        return max((int(entry.get("timestamp") or entry.get("time") or 0) for entry in self.entries), default=now())

    @property
    def ended(self) -> bool:
        """Whether no process means to add lines."""
        last = next((entry["type"] for entry in reversed(self.entries) if entry["type"] != "published"), None)
        return last == "end"

    @property
    def published(self) -> bool:
        """Whether MLflow has all of it."""
        return bool(self.entries) and self.entries[-1]["type"] == "published"

    @property
    def status(self) -> str | None:
        """The status that the run is to have; None while a process works on it, or where it keeps the one it has."""
        for entry in reversed(self.entries):
            if entry["type"] == "start" or (entry["type"] == "end" and entry.get("status")):
                return entry.get("status")
        return None

    @property
    def has_state(self) -> bool:
        """Whether work can go on from here."""
        return (self.path / STATE).exists()

    @property
    def is_replaced(self) -> bool:
        """Whether other work of the same key has taken the folder's name."""
        return self.path.name.endswith(".replaced")

    @property
    def ids_set_aside(self) -> set[str]:
        """The ids of undamaged folders that had this one's name (`set_aside`) and wait to be published."""
        ids = set()
        for path in self.path.parent.glob(f"{self.path.name}.*.replaced"):
            with suppress(DamagedError):
                ids.add(read_header(path, Log(path).read()).id)
        return ids

    def begin(self, header: Header, files: Mapping[str, Path | bytes], start: Entry) -> None:
        """Write the files and, after them, the first two lines."""
        for artifact, source in files.items():
            self.add_file(artifact, source)
        self.log.append(header.model_dump(), start)

    def add_file(self, artifact: str, source: Path | bytes) -> str:
        """Copy a file, or write one, as an artifact, and return the artifact's path."""
        path = self._located(artifact)
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(source, bytes):
                temporary.write_bytes(source)
            else:
                shutil.copyfile(source, temporary)
            temporary.rename(path)
        except OSError as error:
            raise InputError(f"{path}: cannot be written: {error.strerror}") from None
        return artifact

    def file(self, artifact: str) -> Path:
        """Return where an artifact lies; raise `DamagedError` for a path that leads out of the folder."""
        path, folder = self._located(artifact), self.path.resolve()
        if path.resolve() != folder / "spec.json" and not path.resolve().is_relative_to(folder / FILES):
            raise DamagedError(f"{self.path}: its {LOG} names a file outside of it; remove the folder")
        return path

    def _located(self, artifact: str) -> Path:
        return self.path / "spec.json" if artifact == SPEC else self.path / FILES / artifact

    def sync(self) -> None:
        """Bring all of it from the system's memory to the disk."""
        for path in [*self.path.rglob("*"), self.path, self.path.parent]:
            try:
                handle = os.open(path, os.O_RDONLY)
                try:
                    os.fsync(handle)
                finally:
                    os.close(handle)
            except OSError as error:
                raise InputError(f"{path}: cannot be written: {error.strerror}") from None

    def set_aside(self) -> None:
        """Give up the folder's name, and release it: it waits to be published."""
        self.path = self.path.rename(self.path.with_name(f"{self.path.name}.{uuid.uuid4().hex[:8]}.replaced"))
        self.release()

    def close_published(self) -> None:
        """Note that MLflow has all of an ended run, and remove the folder unless work can go on from it."""
        self.log.append({"type": "published", "time": now()})
        self.remove_if_done()

    def discard_state(self) -> None:
        """Remove what work would go on from and, if MLflow has all of it, the folder itself."""
        self._remove_state()
        self.remove_if_done()

    def remove_if_done(self) -> None:
        """Remove the folder if MLflow has all of it and no work can go on from it."""
        if not self.has_state and (self.published or not self.entries):
            self.remove()

    def remove(self) -> None:
        """Delete the folder and release it; until the end the log says whose run it was."""
        self._remove_state()  # first: work cannot go on from a state without the log
        shutil.rmtree(self.path / FILES, ignore_errors=True)
        (self.path / LOG).unlink(missing_ok=True)
        shutil.rmtree(self.path, ignore_errors=True)
        self.release()

    def _remove_state(self) -> None:
        """Remove the state, then the weights of milestones: work that goes on from a state has all of them."""
        for path in [self.path / STATE, *self.path.glob("*.safetensors")]:
            with suppress(OSError):
                path.unlink(missing_ok=True)

    def release(self) -> None:
        """Let the lock go, as the death of the process does."""
        self._lock.close()
