"""The database of a sweep: SQLite for one machine, PostgreSQL (psycopg 3) for several.

CAVE_OPTUNA_URL names it; without, it is `optuna.db` at the root. A relative SQLite path starts at the root too,
wherever a command is called.
"""

from __future__ import annotations

import importlib.util
import logging
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import ArgumentError
from sqlalchemy.orm import scoped_session, sessionmaker

from pipeline import addresses
from pipeline.errors import InputError
from pipeline.redaction import without_password
from pipeline.study import Study

__all__ = ["CLIENT", "Database", "Storage"]

CLIENT: dict[str, Any] = {
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,  # milliseconds
}
"""What libpq does to notice within 25 seconds that the server is out of reach; see `locks`."""


@dataclass(frozen=True)
class Database:
    """An address that was checked."""

    url: sqlalchemy.URL

    @classmethod
    def of(cls, study: Study) -> Database:
        """Return the store of a study's sweeps."""
        address = addresses.address("optuna", study.shared_root)
        wrong = InputError(
            f"CAVE_OPTUNA_URL: '{without_password(address)}' given;"
            " allowed: sqlite:///FILE and postgresql://HOST/DATABASE"
        )
        try:
            url = sqlalchemy.make_url(address)
        except (ArgumentError, ValueError):
            raise wrong from None
        if url.drivername == "sqlite":
            if url.database in (None, "", ":memory:"):
                raise wrong
            return cls(url.set(database=str(study.shared_root / str(url.database))))
        if url.drivername not in ("postgresql", "postgres", "postgresql+psycopg"):
            raise wrong
        if importlib.util.find_spec("psycopg") is None:
            raise InputError(addresses.DRIVER.format("CAVE_OPTUNA_URL"))
        return cls(url.set(drivername="postgresql+psycopg"))

    @property
    def file(self) -> Path | None:
        """The file of an SQLite database; None is a PostgreSQL."""
        return Path(str(self.url.database)) if self.url.drivername == "sqlite" else None

    def __str__(self) -> str:
        """Write the address without what may be secret in it."""
        return without_password(self.url.render_as_string()).replace("+psycopg", "", 1)

    def storage(self) -> Storage:
        """Open the database, and make its tables where there are none: for one process at a time.

        Tables of another version of Optuna are an `InputError`, whatever their age.
        """
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        logging.getLogger("sqlalchemy").setLevel(logging.CRITICAL)  # a lost connection is reported in one line
        options: dict[str, Any] = {"connect_args": {"timeout": 60}}
        if self.file is None:
            options = {"connect_args": dict(CLIENT), "pool_pre_ping": True}
        address = self.url.render_as_string(hide_password=False)
        storage = Storage(address.replace("{", "{{").replace("}", "}}"), engine_kwargs=options)
        current = storage.get_current_version()
        if current == storage.get_head_version():
            return storage
        if current in storage.get_all_versions():
            age, fix = "an older", f"upgrade them with: optuna storage upgrade --storage {self}"
        else:
            age, fix = "a newer", "upgrade Optuna with: pip install --upgrade optuna"
        raise InputError(f"Optuna at {self} cannot be used: its tables are of {age} Optuna; {fix}")


class Storage(optuna.storages.RDBStorage):
    """Optuna's storage, which closes its connections when it goes, and where it cannot be opened."""

    def __init__(self, url: str, **options: Any) -> None:
        try:
            super().__init__(url, skip_compatibility_check=True, **options)
        except BaseException:
            if "engine" in vars(self):
                self.engine.dispose()
            raise
        weakref.finalize(self, self.engine.dispose)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Make one transaction of all that is written in here, by one thread: a kill leaves all of it or nothing.

        Optuna commits after every value, and SQLite goes to the disk three times a commit. Where the database refuses a
        part, all of it is undone, and what would come after it is an error.
        """
        own = self.scoped_session
        with self.engine.begin() as connection:
            # Its sessions join the transaction of their connection: their commits end nothing, their roll-backs all.
            self.scoped_session = scoped_session(sessionmaker(bind=connection, join_transaction_mode="rollback_only"))
            try:
                yield
            finally:
                self.scoped_session.remove()
                self.scoped_session = own
            if not connection.in_transaction():
                raise StorageInternalError("a part of a transaction was refused")
