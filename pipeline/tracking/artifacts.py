"""The artifact addresses in a project's own MLflow database, which follow the project when it is moved or copied.

MLflow stores every address absolutely, of an experiment and of each run. A database is a project's own if it is an
SQLite file inside the root. Addresses below another root in the project's layout, `<root>/mlartifacts/<study>/...`, are
changed to the present root in one transaction, if that other root is gone, has no artifacts, or has the database that
this one is a copy of. All others stay: a user has chosen them.
"""

from __future__ import annotations

import os
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from pipeline.addresses import address, sqlite_file
from pipeline.errors import InputError

__all__ = ["FOLDER", "folder_fault", "local_folder", "moved_roots", "own_database", "relocate"]

FOLDER = "mlartifacts"  # at the root: a folder for each study
FOLDERS = (FOLDER, "mlruns")  # the second is MLflow's default
COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
    ("trace_tags", "value"),
)
ADDRESSES = "select artifact_location from experiments union select artifact_uri from runs"
MADE = "select name, creation_time from experiments where artifact_location is not null and experiment_id > 0"
PATIENCE = 10.0  # seconds that another writer is waited for


def own_database(root: Path) -> Path | None:
    """Return the file of the MLflow database of the project at `root`, or None where the store is another."""
    file = sqlite_file(address("mlflow", root), root)
    return file if file is not None and file.resolve().is_relative_to(root.resolve()) else None


def local_folder(address: str) -> Path | None:
    """Return the folder that an artifact address names, or None where it is not on a file system of this machine."""
    parts = urlsplit(address)
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        return Path(unquote(parts.path))
    return Path(address) if address.startswith("/") else None


def relocate(root: Path) -> None:
    """Change the addresses of a project's own database that point to a former root, and say so in a line.

    Raises:
        InputError: such addresses are there, and the database cannot be written.
    """
    file = own_database(root)
    if file is None or not os.path.isfile(file):
        return
    try:
        with closing(_open(file)) as connection:
            if not _former(connection, root, file):  # without a lock, as almost always
                return
            connection.execute("begin immediate")
            former = _former(connection, root, file)  # another process may have done it meanwhile
            for prefix, path in former.items():
                _replace(connection, prefix, path, root)
            connection.execute("commit")
    except sqlite3.DatabaseError as error:
        if _unrelated(error):  # MLflow itself says what is wrong with it
            return
        raise InputError(f"{file}: its artifact addresses cannot be changed to {root}: {error}") from None
    for path in dict.fromkeys(former.values()):
        line = f"{file.name} was made in {path}; its artifact addresses now point to {root}"
        print(line, file=sys.stderr, flush=True)


def folder_fault(folder: Path) -> str:
    """Say why artifacts cannot be written below a folder, which need not be there yet; nothing where they can."""
    above = next(path for path in [folder, *folder.parents] if os.path.lexists(path))
    if not os.path.isdir(above):
        return f"{above} is not a folder" if above.exists() else f"{above} leads nowhere"
    return "" if os.access(above, os.W_OK | os.X_OK) else f"{above} cannot be written"


def moved_roots(root: Path) -> list[Path]:
    """Return the former roots that a project's own database still names, and that `relocate` would replace."""
    file = own_database(root)
    if file is None or not os.path.isfile(file):
        return []
    try:
        with closing(_open(file)) as connection:
            return list(dict.fromkeys(_former(connection, root, file).values()))
    except sqlite3.DatabaseError:
        return []


def _open(file: Path) -> sqlite3.Connection:
    # A file that is write-protected opens too, and is then only read.
    return sqlite3.connect(f"file:{quote(str(file))}?mode=rw", uri=True, timeout=PATIENCE, isolation_level=None)


def _unrelated(error: sqlite3.DatabaseError) -> bool:
    """Return whether a file is not a database, or not yet one of MLflow's."""
    return not isinstance(error, sqlite3.OperationalError) or str(error).startswith("no such")


def _former(connection: sqlite3.Connection, root: Path, file: Path) -> dict[str, Path]:
    """Return the beginnings of addresses below former roots, as they are written, with the folder each names."""
    present = root.resolve()
    database = file.resolve().relative_to(present)
    prefixes = dict.fromkeys(p for (a,) in connection.execute(ADDRESSES) if a for p in _prefixes(a))
    made = set(connection.execute(MADE))

    def is_former(folder: Path) -> bool:
        if not os.path.isdir(folder):
            return True
        if os.path.samefile(folder, present):
            return False
        return not os.path.isdir(folder / FOLDER) or _holds(folder / database, made)

    roots = {prefix: folder for prefix in prefixes if (folder := local_folder(prefix)) is not None}
    return {prefix: folder for prefix, folder in roots.items() if is_former(folder)}


def _prefixes(address: str) -> Iterator[str]:
    """Yield what stands before `/mlartifacts/<study>` or `/mlartifacts/<study>/<run>/artifacts`."""
    parts = address.rstrip("/").split("/")
    for below in (2, 4):
        if len(parts) > below and parts[-below] == FOLDER and (below == 2 or parts[-1] == "artifacts"):
            yield "/".join(parts[:-below])


def _holds(file: Path, made: set[tuple[str, int]]) -> bool:
    """Return whether a database has one of these experiments: the project's database was copied from there.

    Where it has none, another project logs to this database, and keeps its artifacts where it lies.
    """
    if not os.path.isfile(file):
        return False
    try:
        with closing(sqlite3.connect(f"file:{quote(str(file))}?mode=ro", uri=True, timeout=PATIENCE)) as connection:
            return not made.isdisjoint(connection.execute(MADE))
    except sqlite3.DatabaseError:
        return False


def _replace(connection: sqlite3.Connection, prefix: str, path: Path, root: Path) -> None:
    """Put the present root in the place of a former one at the beginning of every address."""
    tables = {row[0] for row in connection.execute("select name from sqlite_master where type = 'table'")}
    own = root.resolve()
    beginnings = {str(path): str(own), path.as_uri(): own.as_uri()}
    beginnings[prefix] = own.as_uri() if prefix.startswith("file:") else str(own)
    for table, column in COLUMNS:
        for old, new in beginnings.items() if table in tables else ():
            for name in FOLDERS:
                text = f"{old}/{name}/"
                connection.execute(
                    f"update {table} set {column} = ? || substr({column}, ?) where substr({column}, 1, ?) = ?",
                    (f"{new}/{name}/", len(text) + 1, len(text), text),
                )
