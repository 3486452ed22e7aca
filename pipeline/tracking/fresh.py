"""A fresh SQLite database for MLflow: whole or absent.

MLflow makes its tables in some fifty steps and does not take up what was left half way: killed in the second that
they take, it would leave a file that it can never open again. So they are made in a file aside, which is then given
the name.
"""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote

from pipeline.addresses import sqlite_file
from pipeline.errors import InputError
from pipeline.files import file_lock, sha256

__all__ = ["prepared"]


def prepared(uri: str, locks: Path) -> None:
    """Make the database that an address names, if it is an SQLite file and is not there; `locks` is a folder of ours.

    Raises:
        InputError: the file cannot be written.
    """
    file = sqlite_file(uri, Path.cwd())
    if file is None or "?" in uri or file.exists():
        return
    with file_lock(locks / "mlflow"):
        if file.exists():
            return
        # Of two clones that share a database each has a file of its own, and the first gives it the name.
        aside = file.with_name(f".{file.name}.{sha256([str(locks.resolve()).encode()])[:8]}")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            aside.unlink(missing_ok=True)
            _make(aside)
            _name(aside, file)
            aside.unlink(missing_ok=True)
        except OSError as error:
            raise InputError(f"{file}: cannot be written: {error.strerror}") from None


def _make(file: Path) -> None:
    from mlflow.store.tracking import DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    SqlAlchemyStore(f"sqlite:///{quote(str(file))}", DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH).engine.dispose()


def _name(aside: Path, file: Path) -> None:
    """Give the file its name, unless another has it."""
    try:
        os.link(aside, file)
    except FileExistsError:
        pass
    except OSError:  # a file system without links, on which two clones at once are not told apart
        if not file.exists():
            aside.rename(file)
