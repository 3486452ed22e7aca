"""An outbox: the folder in which everything that a run is told waits, line by line, until MLflow has it.

`ops.jsonl` is only ever appended to, one operation a line; `files` holds copies, so that what happens to the
originals changes nothing (a link would share what others rewrite in place). A lock is held by the process that
works on the run, as long as it does: what has no living owner may be sent by anyone. Operations:

    start   the run's name, tags, parameters, data, files, and which run of its key it takes; once a process
    attach  a run that is there already is told more
    record  one epoch's metrics
    once    metrics by step, tags and files that are told unless the tag `mark` has its value already
    tags, file, end (status or none, time, reason)
"""

from __future__ import annotations

import json
import os
import shutil
import time
import uuid
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pipeline import faults
from pipeline.addresses import sqlite_file
from pipeline.artifacts import local_folder
from pipeline.errors import InputError
from pipeline.files import file_lock

__all__ = ["DamagedError", "Op", "Outbox", "end", "meant_for", "now"]

Op = dict[str, Any]
OPS, FILES, LOCK = "ops.jsonl", "files", "lock"


class DamagedError(InputError):
    """An outbox that no run of this program has written."""


class Outbox:
    """One run's outbox, held by this process."""

    def __init__(self, folder: Path, held: ExitStack) -> None:
        self.folder, self._held = folder, held
        self.ops: list[Op] = []
        self._read()

    @classmethod
    def take(cls, folder: Path, patience: float = 0.0) -> Outbox:
        """Hold the outbox in `folder`, made if need be; `BlockingIOError` where another holder outlasts `patience`."""
        held = ExitStack()
        held.enter_context(file_lock(folder / LOCK, patience))
        try:
            return cls(folder, held)
        except OSError as error:
            raise InputError(f"{folder}: cannot be read: {error.strerror}") from None

    def _read(self) -> None:
        path = self.folder / OPS
        content = path.read_bytes() if path.exists() else b""
        whole = 0
        for line in content.splitlines(keepends=True):
            try:
                op = json.loads(line) if line.endswith(b"\n") else None
            except (ValueError, RecursionError):
                op = None
            if not isinstance(op, dict) or "op" not in op:
                break
            self.ops.append(op)
            whole += len(line)
        if whole < len(content):  # what a crash has torn was never told to anyone
            os.truncate(path, whole)

    def append(self, *ops: Op) -> None:
        """Add operations in one write."""
        lines = "".join(json.dumps(op, separators=(",", ":")) + "\n" for op in ops).encode()
        try:
            with (self.folder / OPS).open("ab", buffering=0) as file:
                start = file.tell()
                if file.write(lines) != len(lines):
                    file.truncate(start)
                    raise OSError(0, "no space left")
        except OSError as error:
            raise InputError(f"{self.folder / OPS}: cannot be written: {error.strerror}") from None
        self.ops += ops

    def keep(self, folder: str, name: str, source: Path | bytes) -> list[str]:
        """Copy a file, or write one; return where it belongs and where its copy is, as operations name it."""
        place = f"{FILES}/{uuid.uuid4().hex[:8]}/{name}"
        try:
            (self.folder / place).parent.mkdir(parents=True)
            if isinstance(source, bytes):
                (self.folder / place).write_bytes(source)
            else:
                shutil.copyfile(source, self.folder / place)
        except OSError as error:
            raise InputError(f"{self.folder / place}: cannot be written: {error.strerror}") from None
        return [folder, place]

    def whose(self) -> Op:
        """Return the first operation, which tells whose run it is."""
        first = self.ops[0]
        named = isinstance(first.get("experiment"), dict) and "name" in first["experiment"]
        if not named or first["op"] not in ("start", "attach") or not {"address", "key"} <= set(first):
            raise DamagedError(f"{self.folder}: its {OPS} does not tell whose run it is; remove the folder")
        return first

    def copy(self, place: str) -> Path:
        """Return a copy that `keep` has made, and no other file."""
        path = (self.folder / place).resolve()
        if not path.is_relative_to((self.folder / FILES).resolve()):
            raise DamagedError(f"{self.folder}: its {OPS} names a file outside of it; remove the folder")
        return path

    @property
    def ended(self) -> bool:
        """Is there nothing to come?"""
        return bool(self.ops) and self.ops[-1]["op"] == "end"

    @property
    def status(self) -> str | None:
        """The status that the run is to have at last; none while work goes on, or where it keeps what it has."""
        for op in reversed(self.ops):
            if op["op"] == "start" or (op["op"] == "end" and op["status"]):
                return op["status"] if op["op"] == "end" else None
        return None

    def settle(self) -> None:
        """Bring all of it from the system's memory to the disk."""
        for path in [*self.folder.rglob("*"), self.folder, self.folder.parent]:
            try:
                handle = os.open(path, os.O_RDONLY)
                try:
                    os.fsync(handle)
                finally:
                    os.close(handle)
            except OSError as error:
                raise InputError(f"{path}: cannot be written: {error.strerror}") from None

    @property
    def aside(self) -> bool:
        """Was it set aside, for other work to have its place?"""
        return "-" in self.folder.name

    def set_aside(self) -> None:
        """Give the folder another name and let it go: it waits for its sending, and its place is free."""
        self.folder = self.folder.rename(self.folder.with_name(f"{self.folder.name}-{uuid.uuid4().hex[:8]}"))
        self.release()

    def remove(self) -> None:
        """Delete what was sent, and let it go."""
        (self.folder / OPS).unlink(missing_ok=True)  # at once; without it, the rest is nothing
        shutil.rmtree(self.folder, ignore_errors=True)
        self.release()
        faults.reached("outbox-removed")

    def release(self) -> None:
        """Let go, as a process does that dies."""
        self._held.close()


def end(status: str | None, reason: str) -> Op:
    """Return the operation that ends a run."""
    return {"op": "end", "status": status, "time": now(), "reason": reason}


def meant_for(first: Op) -> str:
    """Return the store that an outbox was written for, by its first operation.

    A project's own database is named by its path in the root. Older outboxes name it absolutely; the location of their
    experiment tells the root that they were written in.
    """
    address, location = str(first["address"]), local_folder(str(first["experiment"].get("location") or ""))
    if location is None or (file := sqlite_file(address, location)) is None:
        return address
    root = location.parent.parent  # of <root>/mlartifacts/<study>
    return f"sqlite:///{file.relative_to(root).as_posix()}" if file.is_relative_to(root) else address


def now() -> int:
    """Return the milliseconds since 1970."""
    return time.time_ns() // 1_000_000
