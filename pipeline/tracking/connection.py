"""The address of MLflow, its import with our settings, and its client."""

from __future__ import annotations

import gc
import importlib.util
import logging
import re
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

from pipeline import addresses
from pipeline.environment import set_defaults
from pipeline.errors import InputError
from pipeline.processes.signals import defer_interrupts
from pipeline.redaction import without_password
from pipeline.study import Study
from pipeline.tracking.artifacts import own_database, relocate
from pipeline.tracking.create import create_sqlite

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = [
    "connect",
    "display_address",
    "identity",
    "import_mlflow",
    "open_database",
    "quoted",
    "tracking_uri",
]

LIMITS = {  # of a PostgreSQL: three attempts at the start take ten seconds at most
    "connect_timeout": "3",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "20000",  # milliseconds
}
SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # which asks for the run again
    # `publish` tries again, and knows what it has tried; a client that does so by itself might make two runs.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
}


def tracking_uri(study: Study) -> str:
    """Return MLFLOW_TRACKING_URI, or the database at the root; a PostgreSQL as MLflow reaches it by psycopg 3."""
    uri = addresses.address("mlflow", study.shared_root)
    if addresses.sqlite_file(uri, study.shared_root) is not None:
        scheme, sign, path = uri.partition(":///")
        return uri if path.startswith("file:") else f"{scheme}{sign}{study.shared_root / path}"
    return _postgres(uri) if uri.startswith("postgres") else uri


def _postgres(uri: str) -> str:
    import sqlalchemy

    try:
        url = sqlalchemy.make_url(uri)
    except (sqlalchemy.exc.ArgumentError, ValueError):
        raise InputError(f"MLFLOW_TRACKING_URI: '{without_password(uri)}' is no address of a PostgreSQL") from None
    if url.drivername in ("postgres", "postgresql", "postgresql+psycopg"):
        drivers = [name for name in ("psycopg", "psycopg2") if importlib.util.find_spec(name) is not None]
        if not drivers:
            raise InputError(addresses.DRIVER.format("MLFLOW_TRACKING_URI"))
        url = url.set(drivername=f"postgresql+{drivers[0]}")
    elif url.drivername != "postgresql+psycopg2":
        return uri
    limits = {name: value for name, value in LIMITS.items() if name not in url.query}
    return url.update_query_dict(limits).render_as_string(hide_password=False)


def display_address(study: Study) -> str:
    """Return MLflow's address as messages show it, without a password."""
    return re.sub(r"^(postgresql)\+psycopg2?:", r"\1:", without_password(tracking_uri(study)))


def identity(study: Study) -> str:
    """Return what names the store wherever the project lies: a project's own database by its path in the root."""
    file = own_database(study.shared_root)
    return (
        display_address(study)
        if file is None
        else f"sqlite:///{file.resolve().relative_to(study.shared_root).as_posix()}"
    )


def import_mlflow(uri: str = "http") -> None:
    """Import MLflow, and what it needs for a database, without being interrupted half way.

    Unless they are set, requests get short time-outs and no retries, and nothing is sent to anyone else.
    """
    set_defaults(SETTINGS)
    collects = gc.isenabled() and "mlflow" not in sys.modules
    with defer_interrupts(), ExitStack() as restored:
        if collects:  # imports leave no garbage, and to search for it takes a quarter of their time
            gc.disable()
            restored.callback(gc.enable)
            restored.callback(gc.freeze)
        importlib.import_module("mlflow")
        if not uri.startswith("http"):
            importlib.import_module("mlflow.store.tracking.sqlalchemy_store")
            # A database that cannot be opened is tried for a second and not for two minutes.
            vars(importlib.import_module("mlflow.store.db.utils"))["MAX_RETRY_COUNT"] = 3
    logging.getLogger("alembic").setLevel(logging.WARNING)
    for name in ("mlflow", "sqlalchemy"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # we print in one line what they log with tracebacks


def connect(study: Study, *, read_only: bool = False) -> MlflowClient:
    """Return MLflow's client; an SQLite database that is not there is created."""
    uri = open_database(study, read_only=read_only)
    from mlflow import MlflowClient

    return MlflowClient(uri)


def open_database(study: Study, *, read_only: bool = False) -> str:
    """Return MLflow's address; an SQLite database that is missing is created, one that was moved is adapted.

    Raises:
        InputError: it cannot be adapted; with `read_only`, the same line is printed to stderr instead.
    """
    uri = tracking_uri(study)
    import_mlflow(uri)
    create_sqlite(uri, study.cache / "locks")
    try:
        relocate(study.shared_root)
    except InputError as error:
        if not read_only:
            raise
        print(error, file=sys.stderr, flush=True)
    return uri


def quoted(text: str) -> str:
    """Write a text as MLflow's search reads it."""
    return f'"{text}"' if "'" in text else f"'{text}'"
