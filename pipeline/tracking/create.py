"""Creation of MLflow's SQLite database, which is there whole or not at all.

MLflow makes its tables in some fifty steps and does not go on from half of them: a kill in the second that they take
would leave a file that it can never open. So the tables are made in a file of another name, which is then renamed.
"""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote

from pipeline.addresses import sqlite_file
from pipeline.errors import InputError
from pipeline.files import file_lock, sha256

__all__ = ["create_sqlite"]


def create_sqlite(uri: str, locks: Path) -> None:
    """Create the database of an address, if it is an SQLite file that does not exist; `locks` is a folder of ours.

    Raises:
        InputError: the file cannot be written.
    """
    file = sqlite_file(uri, Path.cwd())
    if file is None or "?" in uri or file.exists():
        return
    with file_lock(locks / "mlflow"):
        if file.exists():
            return
        # Two clones that share a database have locks of their own: each makes a file, and the first is renamed.
        temporary = file.with_name(f".{file.name}.{sha256([str(locks.resolve()).encode()])[:8]}")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            temporary.unlink(missing_ok=True)
            _create_tables(temporary)
            _rename(temporary, file)
            temporary.unlink(missing_ok=True)
        except OSError as error:
            raise InputError(f"{file}: cannot be written: {error.strerror}") from None


def _create_tables(file: Path) -> None:
    from mlflow.store.tracking import DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    SqlAlchemyStore(f"sqlite:///{quote(str(file))}", DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH).engine.dispose()


def _rename(temporary: Path, file: Path) -> None:
    """Give `temporary` the name `file`, unless that exists."""
    try:
        os.link(temporary, file)
    except FileExistsError:
        pass
    except OSError:  # a file system without links, where two clones at once may replace each other's file
        if not file.exists():
            temporary.rename(file)
