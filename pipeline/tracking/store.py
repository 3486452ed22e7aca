"""MLflow's server or database as one process uses it: its address, its experiments, and when it may be asked.

Nothing is sent but by the process that logs, between two epochs, so sending is kept to a tenth of its time: after an
exchange that took d seconds comes none for 10 d, nor for a second. After a failure comes none for 5 seconds, then 10,
up to 60: a server that is down does not hold up a training.
"""

from __future__ import annotations

import gc
import importlib.util
import logging
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any

from pipeline import addresses
from pipeline.artifacts import FOLDER, folder_fault, local_folder, own_database, relocate
from pipeline.environment import set_defaults
from pipeline.errors import InputError
from pipeline.files import file_lock
from pipeline.processes.signals import defer_interrupts
from pipeline.redaction import redacted, without_password
from pipeline.study import Study
from pipeline.tracking.fresh import prepared

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = ["Store", "connect", "database", "identity", "ready", "telling", "told", "tracking_uri"]

PAUSE, SHARE, SLOW = 1.0, 10.0, 3.0  # seconds, parts, and the seconds from which an exchange is slow
BACK_OFF, LONGEST = 5.0, 60.0  # seconds
TURN = 5.0  # seconds for which others are waited for
TABLES = 60.0  # seconds in which another host has made MLflow's tables
REFUSED = (400, 404, 405, 409, 410, 411, 413, 414, 415, 422)  # answers that will be the same the next time
LIMITS = {  # of a PostgreSQL: what is tried three times at the start takes ten seconds at most
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
    # The outbox tries again, and knows what it has tried; a client that does so unasked might make two runs.
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


def told(study: Study) -> str:
    """Return MLflow's address as it is told, without a password."""
    return re.sub(r"^(postgresql)\+psycopg2?:", r"\1:", without_password(tracking_uri(study)))


def ready(uri: str = "http") -> None:
    """Import MLflow, and what a database needs of it, whole: half imported it is of no use to a clean end.

    Unless they are set, requests get short time-outs and no retries, and nothing is told to anyone.
    """
    set_defaults(SETTINGS)
    searched = gc.isenabled() and "mlflow" not in sys.modules
    with defer_interrupts(), ExitStack() as whole:
        if searched:  # imports leave no garbage, and to search for it takes a quarter of their time
            gc.disable()
            whole.callback(gc.enable)
            whole.callback(gc.freeze)
        importlib.import_module("mlflow")
        if not uri.startswith("http"):
            importlib.import_module("mlflow.store.tracking.sqlalchemy_store")
            # A database that cannot be opened is tried for a second and not for two minutes.
            vars(importlib.import_module("mlflow.store.db.utils"))["MAX_RETRY_COUNT"] = 3
    logging.getLogger("alembic").setLevel(logging.WARNING)
    for name in ("mlflow", "sqlalchemy"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what they tell with tracebacks is told in a line


def identity(study: Study) -> str:
    """Return what names the store wherever the project lies: a project's own database by its path in the root."""
    file = own_database(study.shared_root)
    return told(study) if file is None else f"sqlite:///{file.resolve().relative_to(study.shared_root).as_posix()}"


def connect(study: Study, *, read_only: bool = False) -> MlflowClient:
    """Return MLflow's client; an SQLite database that is not there is made."""
    uri = database(study, read_only=read_only)
    from mlflow import MlflowClient

    return MlflowClient(uri)


def database(study: Study, *, read_only: bool = False) -> str:
    """Return MLflow's address; an SQLite database that is not there is made, one that was moved follows its project.

    Where it cannot follow, `InputError` is raised; whoever only reads gets the same line on stderr and goes on.
    """
    uri = tracking_uri(study)
    ready(uri)
    prepared(uri, study.cache / "locks")
    try:
        relocate(study.shared_root)
    except InputError as error:
        if not read_only:
            raise
        print(error, file=sys.stderr, flush=True)
    return uri


@contextmanager
def telling(study: Study) -> Iterator[None]:
    """Turn what MLflow raises, or what it reaches its database by, into one line."""
    ready()
    from alembic.util import CommandError
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, OSError, SQLAlchemyError, CommandError, ImportError) as error:
        raise InputError(f"MLflow at {told(study)} cannot be used: {_reason(error)}") from None


def _reason(error: BaseException) -> str:
    """Say in a line what is behind an error: of a failed request, what the system said of it."""
    deepest: BaseException | None = error
    while deepest is not None:
        if isinstance(deepest, OSError) and deepest.strerror:
            return f"{deepest.filename}: {deepest.strerror}" if deepest.filename else str(deepest.strerror)
        if isinstance(deepest, TimeoutError):
            return "no answer in time"
        deepest = deepest.__cause__ or deepest.__context__
    return redacted(" ".join(str(getattr(error, "orig", None) or error).split()))[:200]


def _refusal(error: Exception) -> str:
    """Say why MLflow will never take what it was told; nothing where it may, being down, busy, or closed to us now."""
    from mlflow.exceptions import MlflowException
    from requests import HTTPError
    from sqlalchemy.exc import DataError, IntegrityError, SQLAlchemyError

    if isinstance(error, MlflowException):
        of_database = isinstance(error.__cause__, SQLAlchemyError)
        if of_database and not isinstance(error.__cause__, DataError | IntegrityError):
            return ""
        answered = error.error_code == "INVALID_STATE" or (
            error.get_http_status_code() in REFUSED and error.error_code != "ENDPOINT_NOT_FOUND"
        )
    elif isinstance(error, HTTPError):
        answered = error.response is not None and error.response.status_code in REFUSED
    else:  # what the outbox itself lacks
        lacks = isinstance(error, FileNotFoundError | KeyError | TypeError | ValueError | AttributeError)
        answered = lacks and (isinstance(error, FileNotFoundError) or not isinstance(error, OSError))
    return (_reason(error) or type(error).__name__) if answered else ""


class Store:
    """MLflow, asked not too often; it says on stderr when it is gone, and when it is back."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self.address = told(study)
        self.identity = identity(study)
        self.outboxes = study.cache / "outbox"
        self.experiments: dict[str, str] = {}
        self.refused = ""  # why MLflow has refused what the last exchange told it
        self._client: MlflowClient | None = None
        self._next, self._closed_until, self._took, self._back_off, self._making = 0.0, 0.0, 0.0, 0.0, 0.0

    @property
    def client(self) -> MlflowClient:
        """MLflow's client."""
        if self._client is None:
            start = time.monotonic()
            self._client = connect(self.study)
            self._making = time.monotonic() - start
        return self._client

    def experiment(self, about: Mapping[str, Any]) -> str:
        """Return the id of an experiment, which is made, or restored, if need be."""
        if (name := about["name"]) not in self.experiments:
            found = self.client.get_experiment_by_name(name)
            if found is None:  # of two processes at once one makes it, and the other is told so
                self.experiments[name] = self._made(name, self._location(name), {"mlflow.note.content": about["note"]})
            else:
                if found.lifecycle_stage == "deleted":
                    self.client.restore_experiment(found.experiment_id)
                self.experiments[name] = str(found.experiment_id)
        return self.experiments[name]

    def _location(self, name: str) -> str | None:
        """Return where the artifacts of a new experiment are to lie; a server says so itself."""
        if self.client.tracking_uri.startswith("http"):
            return None
        return (self.study.shared_root / FOLDER / name.rpartition("/")[2]).as_uri()

    def _made(self, name: str, location: str | None, tags: dict[str, str]) -> str:
        from mlflow.exceptions import MlflowException

        try:
            return str(self.client.create_experiment(name, location, tags=tags))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            return str(self.client.get_experiment_by_name(name).experiment_id)

    def may(self, *, forced: bool = False) -> bool:
        """Tell whether it is time to send; what is `forced` waits only for a server that is slow or down."""
        now = time.monotonic()
        return now >= (self._closed_until if forced and self._took < SLOW else max(self._next, self._closed_until))

    @contextmanager
    def exchange(self) -> Iterator[None]:
        """Talk to MLflow: whatever it raises is kept from the work, and puts off the next exchange.

        What it answers by refusing what it was told is in `refused`, and puts off nothing.
        """
        ready()
        start, self._making, self.refused = time.monotonic(), 0.0, ""
        try:
            with self._in_turn():
                yield
        except InputError:  # of the disk
            raise
        except BaseException as error:
            self.refused = _refusal(error) if isinstance(error, Exception) else ""
            if not self.refused:
                self._failed(error, start)
                return
        now = time.monotonic()
        self._took = now - start - self._making  # imports and the like say nothing of the server
        self._back_off, self._closed_until = 0.0, 0.0
        self._next = now + max(PAUSE, SHARE * self._took)
        self._is_back()

    def _failed(self, error: BaseException, start: float) -> None:
        now = time.monotonic()
        if isinstance(error, Exception) or now - start > SLOW:
            self._back_off = min(LONGEST, max(BACK_OFF, 2 * self._back_off))
            self._closed_until = now + max(self._back_off, SHARE * (now - start))
        if not isinstance(error, Exception):  # Ctrl-C
            raise error
        self._gone(error)

    @contextmanager
    def _in_turn(self) -> Iterator[None]:
        """Let the processes of this folder use an SQLite database one after the other.

        MLflow reads before it writes, in one transaction: of two that do so at once, SQLite refuses one.
        """
        with ExitStack() as turn:
            if tracking_uri(self.study).startswith("sqlite"):
                with suppress(BlockingIOError):  # of one that is stopped in its turn, say
                    turn.enter_context(file_lock(self.study.cache / "locks" / "mlflow-turn", TURN))
            yield

    @property
    def up(self) -> bool:
        """Did the last exchange succeed?"""
        return self._back_off == 0

    # Told once, whatever the number of workers: the mark is made, and taken away, by one of them.
    def _gone(self, error: Exception) -> None:
        try:
            self.outboxes.mkdir(parents=True, exist_ok=True)
            (self.outboxes / "gone").touch(exist_ok=False)
        except OSError:
            return
        where = os.path.relpath(self.outboxes, self.study.root)
        said = f"MLflow at {self.address} cannot be reached ({_reason(error)}); what is logged waits in {where}"
        print(redacted(said), file=sys.stderr, flush=True)

    def _is_back(self, *, told: bool = True) -> None:
        try:
            (self.outboxes / "gone").unlink()
        except OSError:
            return
        if told:
            print(f"MLflow at {self.address} is back", file=sys.stderr, flush=True)

    def require(self, about: Mapping[str, Any]) -> None:
        """Raise `InputError` unless MLflow is there, in a database of its own; the first run makes the experiment."""
        addresses.require_separate(self.study.shared_root)
        limit = time.monotonic() + TABLES
        with telling(self.study):
            from sqlalchemy.exc import IntegrityError, ProgrammingError

            while True:
                try:
                    self.experiments.clear()
                    found = self.client.get_experiment_by_name(about["name"])
                    if found is not None:
                        self.experiment(about)
                    break
                except (IntegrityError, ProgrammingError):  # another host makes the tables of a fresh PostgreSQL, too
                    if time.monotonic() > limit:
                        raise
                    time.sleep(1.0)
        address = self._location(about["name"]) if found is None else found.artifact_location
        folder = None if address is None else local_folder(address)
        if folder is not None and (reason := folder_fault(folder)):
            raise InputError(f"MLflow keeps this study's artifacts in {folder}, and {reason}")
        self._back_off = self._closed_until = 0.0
        self._is_back(told=False)
