"""A fresh SQLite database for MLflow: whole or absent.

MLflow makes its tables in some fifty steps and does not take up what was left half way: killed in the second that
they take, it would leave a file that it can never open again. So they are made in a file aside, which is then given
the name.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from pipeline.errors import InputError
from pipeline.files import locked, sha256

__all__ = ["prepared"]


def prepared(uri: str, locks: Path) -> None:
    """Make the database that an address names, if it is an SQLite file and is not there; `locks` is a folder of ours.

    Raises:
        InputError: the file cannot be written.
    """
    kind, _, name = uri.partition(":///")
    file = Path(name)
    if kind != "sqlite" or not name or ":memory:" in name or "?" in name or file.exists():
        return
    with locked(locks / "mlflow"):
        if file.exists():
            return
        # Of two clones that share a database each has a file of its own, and the first gives it the name.
        aside = file.with_name(f".{file.name}.{sha256([str(locks.resolve()).encode()])[:8]}")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            aside.unlink(missing_ok=True)
            _make(aside)
            with suppress(FileExistsError):
                os.link(aside, file)
            aside.unlink()
        except OSError as error:
            raise InputError(f"{file}: cannot be written: {error.strerror}") from None


def _make(file: Path) -> None:
    from mlflow.store.tracking import DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    SqlAlchemyStore(f"sqlite:///{file}", DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH).engine.dispose()
