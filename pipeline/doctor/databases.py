"""The SQLite files of MLflow and Optuna: sound, unlocked, of the schema that the installed versions want.

They are opened to be read alone. What the installed versions want is read from their migrations, as text: importing
them takes seconds, and may be what fails.
"""

from __future__ import annotations

import os
import re
import shlex
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

from pipeline import addresses
from pipeline.addresses import VARIABLES
from pipeline.doctor import processes
from pipeline.doctor.finding import Finding, Target, fault, ok, warning

__all__ = ["database", "databases", "experiment", "read", "schema"]

PATIENCE = 5.0  # seconds that a lock may last
LONGEST = 20.0  # seconds that a database is looked through
MIGRATIONS = {"mlflow": "store/db_migrations/versions", "optuna": "storages/_rdb/alembic/versions"}
REVISION = re.compile(r"""^(down_)?revision(?::[^=]+)? = (.*)$""", re.MULTILINE)


def database(target: Target, name: str) -> Path | None:
    """Return the SQLite file of `mlflow` or `optuna`, or nothing where the store is another."""
    return addresses.sqlite_file(addresses.address(name, target.shared_root), target.shared_root)


def _existing(target: Target) -> dict[str, Path]:
    paths = {name: database(target, name) for name in VARIABLES}
    return {name: path for name, path in paths.items() if path is not None and path.is_file()}


def _open(path: Path, mode: str = "ro") -> sqlite3.Connection:
    return sqlite3.connect(f"file:{quote(str(path))}?mode={mode}", uri=True, timeout=PATIENCE, isolation_level=None)


def read(path: Path, query: str, *values: str) -> list[tuple[str, ...]]:
    """Return what a query finds; nothing where the file has no such table, or cannot be read."""
    try:
        with closing(_open(path)) as connection:
            return connection.execute(query, values).fetchall()
    except sqlite3.Error:
        return []


def databases(target: Target) -> Iterator[Finding]:
    """Are the databases sound, and free to be written to?"""
    paths = _existing(target)
    if address := addresses.shared_database(target.shared_root):
        yield fault(f"MLflow and Optuna share {address}; each needs its own", f"unset {' '.join(VARIABLES.values())}")
    if not paths:
        yield ok("none yet")
    for path in paths.values():
        yield from _health(path)


def _health(path: Path) -> Iterator[Finding]:
    move = f"mv {shlex.quote(str(path))} {shlex.quote(str(path) + '.damaged')}"
    recover = f"{move} && sqlite3 {shlex.quote(str(path) + '.damaged')} .recover | sqlite3 {shlex.quote(str(path))}"
    if not os.access(path, os.R_OK | os.W_OK):
        yield fault(f"{path} cannot be read and written", f"chmod u+rw {shlex.quote(str(path))}")
        return
    try:
        with closing(_open(path, "rw")) as connection:
            connection.execute("begin immediate")  # what every writer begins with; it changes nothing
            connection.execute("rollback")
        with closing(_open(path)) as connection:
            until = time.monotonic() + LONGEST
            connection.set_progress_handler(lambda: time.monotonic() > until, 100_000)
            (result,) = connection.execute("pragma quick_check(1)").fetchone()
    except sqlite3.OperationalError as error:
        if "interrupted" in str(error):
            yield ok(f"{path.name} is sound as far as could be looked in {LONGEST:.0f} s")
        elif "locked" in str(error):
            holders = processes.holders(path)
            named = ", ".join(f"{pid} ({command})" for pid, command in holders.items()) or "a process of another user"
            kill = f"kill {' '.join(map(str, holders))}" if holders else f"fuser {shlex.quote(str(path))}"
            yield fault(f"{path.name} has been locked for {PATIENCE:.0f} s; it is open in process {named}", kill)
        else:
            yield fault(f"{path.name} cannot be opened: {error}", f"ls -l {shlex.quote(str(path))}*")
    except sqlite3.DatabaseError as error:
        yield fault(f"{path.name} is damaged: {error}", recover)
    else:
        yield (
            ok(f"{path.name} is sound") if result == "ok" else fault(f"{path.name} is damaged: {result[:100]}", recover)
        )


def schema(target: Target) -> Iterator[Finding]:
    """Are the databases of the schema that the installed versions want?"""
    if not _existing(target):
        yield ok("no databases yet")
    for name, path in _existing(target).items():
        current = {row[0] for row in read(path, "select version_num from alembic_version")}
        heads, revisions = _revisions(name)
        url = shlex.quote(f"sqlite:///{path}")
        upgrade = {"mlflow": f"mlflow db upgrade {url}", "optuna": f"optuna storage upgrade --storage {url}"}[name]
        if not read(path, "select name from sqlite_master limit 1"):
            yield ok(f"{path.name} is empty or not readable")
        elif current == heads:
            yield ok(f"{path.name} is at {', '.join(sorted(current))}")
        elif current and not current <= revisions:
            at = ", ".join(sorted(current))
            newer = f"{path.name} is at {at}, which the installed {name} does not know: a newer one made it"
            yield fault(newer, f"pip install --upgrade {name}")
        else:
            at = ", ".join(sorted(current)) or "none"
            backup = f"cp {shlex.quote(str(path))} {shlex.quote(str(path) + '.before')} && "
            yield fault(
                f"{path.name} is at {at}, the installed {name} wants {', '.join(sorted(heads))}", backup + upgrade
            )


def _revisions(name: str) -> tuple[set[str], set[str]]:
    """Return the last revisions and all of them, from the migrations that a library brings."""
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise LookupError(f"{name} is not installed")
    revisions: set[str] = set()
    before: set[str] = set()
    for file in (Path(spec.origin).parent / MIGRATIONS[name]).glob("*.py"):
        for down, value in REVISION.findall(file.read_text(encoding="utf-8")):
            (before if down else revisions).update(re.findall(r"""["']([\w.]+)["']""", value))
    return revisions - before, revisions


def experiment(target: Target) -> Iterator[Finding]:
    """Is the study's experiment in MLflow, and not deleted?"""
    path = _existing(target).get("mlflow")
    if path is None or target.out is None:
        yield ok("not looked for")
        return
    name = f"platos-cave/{target.out.name}"
    rows = read(path, "select experiment_id, lifecycle_stage from experiments where name = ?", name)
    if not rows:
        yield ok(f"{name} is made by the first run")
    elif rows[0][1] == "deleted":
        url = shlex.quote(f"sqlite:///{path}")
        restore = f"MLFLOW_TRACKING_URI={url} mlflow experiments restore --experiment-id {rows[0][0]}"
        yield warning(f"{name} is deleted in MLflow; the next run brings it back", restore)
    else:
        yield ok(f"{name} is there")
