"""Locks that die with their holder, shared by all who share a sweep's database.

On one machine (SQLite) a lock is the kernel's lock on a file in a folder beside the database. Over the network it is
an advisory lock of PostgreSQL, held by one connection that a process keeps for its life: a worker is alive as long as
the kernel or the database holds its lock.

A worker that is cut off must stop before the database gives its trial to another. So the client's end of the
connection gives up after 25 seconds without an answer, the server's after 90, and a worker asks over this very
connection (`check`) before it logs an epoch or ends a trial: an answer means that the lock is its own for another
minute at least. Advisory locks belong to a session: behind a proxy that pools by transaction they hold nothing.
"""

from __future__ import annotations

import hashlib
import math
import time
import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from pipeline import processes
from pipeline.addresses import lock_folder
from pipeline.errors import DisconnectedError, InputError
from pipeline.files import file_lock
from pipeline.sweep.database import CLIENT, Database

__all__ = ["Locks", "PostgresLocks", "locks"]

POLL = 1.0  # seconds between two attempts to reach a database that is away
SERVER = {
    "tcp_keepalives_idle": "60",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "90000",  # milliseconds; since PostgreSQL 12: one before holds a dead host's locks for longer
    "idle_session_timeout": "0",  # since 14; one before ends no idle session
}
"""What is asked of the server, as far as it knows of it."""
SET = "SELECT set_config(name, %(value)s, false) FROM pg_settings WHERE name = %(name)s"
HELD = (
    "SELECT (classid::bigint << 32) | objid::bigint FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1"
    " AND granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)


class Locks(ABC):
    """Locks by name."""

    @abstractmethod
    def hold(self, name: str, wait: bool = True) -> AbstractContextManager[None]:
        """Hold a lock; with `wait=False`, raise `BlockingIOError` where another process holds it."""

    @abstractmethod
    def announce(self, name: str) -> AbstractContextManager[None]:
        """Hold a lock whose holder counts as alive to the others."""

    @abstractmethod
    def held(self, names: Sequence[str]) -> set[str]:
        """Return the names of the locks that some process holds."""

    @abstractmethod
    def check(self) -> None:
        """Raise `DisconnectedError` if this process may have lost its locks."""

    @abstractmethod
    def close(self) -> None:
        """Release all locks."""


class FileLocks(Locks):
    """Locks of the kernel on files in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise InputError.of_disk(error, folder) from None

    def hold(self, name: str, wait: bool = True) -> AbstractContextManager[None]:
        """Lock the file of that name."""
        return file_lock(self.folder / name, math.inf if wait else 0.0)

    @contextmanager
    def announce(self, name: str) -> Iterator[None]:
        """Lock a file of one's own, and remove it in the end."""
        with self.hold(name):
            yield
            (self.folder / name).unlink(missing_ok=True)

    def held(self, names: Sequence[str]) -> set[str]:
        """Try each file's lock; the files of the dead are removed."""
        held = set()
        for name in names:
            try:
                with self.hold(name, wait=False):
                    (self.folder / name).unlink(missing_ok=True)
            except BlockingIOError:
                held.add(name)
        return held

    def check(self) -> None:
        """Do nothing: the kernel takes no lock away."""

    def close(self) -> None:
        """Do nothing: a lock ends with the block that holds it."""


class PostgresLocks(Locks):
    """Advisory locks on a separate connection, which is retried for `reconnect_timeout` seconds."""

    def __init__(self, database: Database, reconnect_timeout: float = 0.0) -> None:
        import psycopg

        self.database, self.error = database, psycopg.Error
        address = database.url.set(drivername="postgresql").render_as_string(hide_password=False)
        deadline = time.monotonic() + reconnect_timeout
        while True:
            try:
                with ExitStack() as made:
                    self.connection = psycopg.connect(address, autocommit=True, **CLIENT)
                    made.callback(self.connection.close)
                    for name, value in SERVER.items():
                        self.connection.execute(SET, {"name": name, "value": value})
                    weakref.finalize(self, made.pop_all().close)
                break
            except psycopg.Error as error:
                if time.monotonic() >= deadline:
                    raise InputError(f"Optuna at {database} cannot be used: {error}") from None
            time.sleep(POLL)
            processes.raise_if_interrupted()

    @contextmanager
    def hold(self, name: str, wait: bool = True) -> Iterator[None]:
        """Take the advisory lock of that name; of one that this connection holds already, once more."""
        key = _key(name)
        if wait:
            self._ask("SELECT pg_advisory_lock(%s)", key)
        elif not self._ask("SELECT pg_try_advisory_lock(%s)", key)[0][0]:
            raise BlockingIOError
        try:
            yield
        finally:
            with suppress(DisconnectedError):  # with the connection, the lock is gone too
                self._ask("SELECT pg_advisory_unlock(%s)", key)

    def announce(self, name: str) -> AbstractContextManager[None]:
        """Take the advisory lock of one's own."""
        return self.hold(name)

    def held(self, names: Sequence[str]) -> set[str]:
        """Ask for all locks that are held."""
        held = {key for (key,) in self._ask(HELD)} if names else set()
        return {name for name in names if _key(name) in held}

    def check(self) -> None:
        """Ask something over the connection: its answer is the proof."""
        self._ask("SELECT 1")

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()

    def _ask(self, query: str, *values: Any) -> list[Any]:
        try:
            return self.connection.execute(query.encode(), values).fetchall()
        except self.error as error:
            raise DisconnectedError(f"the connection to {self.database} is lost: {error}") from None


def locks(database: Database, reconnect_timeout: float = 0.0) -> Locks:
    """Return the locks that belong to a database."""
    if database.file is None:
        return PostgresLocks(database, reconnect_timeout)
    return FileLocks(lock_folder(database.file))


def _key(name: str) -> int:
    return int.from_bytes(hashlib.sha256(f"platos-cave/{name}".encode()).digest()[:8], signed=True)
