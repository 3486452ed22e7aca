"""The databases that the environment names: MLFLOW_TRACKING_URI and CAVE_OPTUNA_URL, or a file each at the root.

A relative SQLite path starts at the root, wherever a command is called. The two need a database each: both keep the
number of their last migration in a table of one name, and would take the other's for their own.
"""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote, unquote

from pipeline.errors import InputError
from pipeline.redaction import without_password

__all__ = ["DRIVER", "VARIABLES", "apart", "given", "shared", "sqlite_file"]

VARIABLES = {"mlflow": "MLFLOW_TRACKING_URI", "optuna": "CAVE_OPTUNA_URL"}
DRIVER = "{} names a PostgreSQL, and its driver is missing: pip install 'platos-cave[postgres]'"
HERE = ("", "localhost", "127.0.0.1", "::1")


def given(name: str, root: Path) -> str:
    """Return the address of `mlflow`'s or `optuna`'s store as it was given, or else of the file at the root."""
    return os.environ.get(VARIABLES[name]) or f"sqlite:///{quote(str(root / f'{name}.db'))}"


def sqlite_file(address: str, root: Path) -> Path | None:
    """Return the file of an SQLite database, or nothing where the store is another."""
    scheme, _, rest = address.partition(":///")
    path = unquote(rest.partition("?")[0]).removeprefix("file:")  # an address of SQLite's own
    return root / path if scheme.partition("+")[0] == "sqlite" and path not in ("", ":memory:") else None


def shared(root: Path) -> str | None:
    """Return the address, without a password, of the one database that both are pointed at, if they are."""
    first, second = (given(name, root) for name in VARIABLES)
    found = _identity(first, root)
    return without_password(second) if found is not None and found == _identity(second, root) else None


def apart(root: Path) -> None:
    """Raise `InputError` unless each has a database of its own."""
    if address := shared(root):
        raise InputError(
            f"MLflow and Optuna share the database {address}, and would spoil each other's tables;"
            f" give {' or '.join(VARIABLES.values())} another"
        )


def _identity(address: str, root: Path) -> tuple[str, ...] | None:
    """Return what tells one database from another; nothing where the address does not tell it."""
    if (path := sqlite_file(address, root)) is not None:
        return ("sqlite", str(path.resolve()))
    if not address.startswith("postgres"):
        return None
    import sqlalchemy

    try:
        url = sqlalchemy.make_url(address)
    except (sqlalchemy.exc.ArgumentError, ValueError):
        return None
    asked = {key: value if isinstance(value, str) else value[-1] for key, value in url.query.items()}
    host = url.host or asked.get("host") or os.environ.get("PGHOST", "")
    port = url.port or asked.get("port") or os.environ.get("PGPORT") or 5432
    user = url.username or asked.get("user") or os.environ.get("PGUSER", "")
    database = url.database or asked.get("dbname") or os.environ.get("PGDATABASE") or user
    return ("postgresql", "localhost" if host in HERE or host.startswith("/") else host.lower(), str(port), database)
