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
from pipeline.errors import DisconnectedError, InputError
from pipeline.files import locked
from pipeline.sweep.store import CLIENT, Store

__all__ = ["FileLocks", "Locks", "PostgresLocks", "locks"]

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
    def live(self, name: str) -> AbstractContextManager[None]:
        """Hold a lock of one's own that tells the others that one is alive."""

    @abstractmethod
    def living(self, names: Sequence[str]) -> set[str]:
        """Return those of the names that somebody holds."""

    @abstractmethod
    def check(self) -> None:
        """Raise `DisconnectedError` where what this process holds is not its own any more."""

    @abstractmethod
    def close(self) -> None:
        """Give up whatever is held."""


class FileLocks(Locks):
    """Locks of the kernel on files in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise InputError(f"{folder}: cannot be written: {error.strerror}") from None

    def hold(self, name: str, wait: bool = True) -> AbstractContextManager[None]:
        """Lock the file of that name."""
        return locked(self.folder / name, math.inf if wait else 0.0)

    @contextmanager
    def live(self, name: str) -> Iterator[None]:
        """Lock a file of one's own, and remove it in the end."""
        with self.hold(name):
            yield
            (self.folder / name).unlink(missing_ok=True)

    def living(self, names: Sequence[str]) -> set[str]:
        """Try each file's lock; the files of the dead are removed."""
        found = set()
        for name in names:
            try:
                with self.hold(name, wait=False):
                    (self.folder / name).unlink(missing_ok=True)
            except BlockingIOError:
                found.add(name)
        return found

    def check(self) -> None:
        """Do nothing: the kernel takes no lock away."""

    def close(self) -> None:
        """Do nothing: a lock ends with the block that holds it."""


class PostgresLocks(Locks):
    """Advisory locks on a connection of their own, for which a database that is away is waited `patience` seconds."""

    def __init__(self, store: Store, patience: float = 0.0) -> None:
        import psycopg

        self.store, self.error = store, psycopg.Error
        address = store.url.set(drivername="postgresql").render_as_string(hide_password=False)
        deadline = time.monotonic() + patience
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
                    raise InputError(f"Optuna at {store} cannot be used: {error}") from None
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

    def live(self, name: str) -> AbstractContextManager[None]:
        """Take the advisory lock of one's own."""
        return self.hold(name)

    def living(self, names: Sequence[str]) -> set[str]:
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
            raise DisconnectedError(f"the connection to {self.store} is lost: {error}") from None


def locks(store: Store, patience: float = 0.0) -> Locks:
    """Return the locks that belong to a database."""
    if store.file is None:
        return PostgresLocks(store, patience)
    return FileLocks(store.file.with_name(store.file.name + ".locks"))


def _key(name: str) -> int:
    return int.from_bytes(hashlib.sha256(f"platos-cave/{name}".encode()).digest()[:8], signed=True)
