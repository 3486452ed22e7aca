"""MLflow's server or database as one process uses it: its experiments, and when the next request may be sent.

Requests are sent by the process that trains, between two epochs, and take a tenth of its time at most: after requests
that took d seconds there are none for 10 d, nor for a second. After a failure there are none for 5 seconds, then for
10, up to 60: a server that is down does not hold up a training.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING

from pipeline import addresses
from pipeline.environment import mlflow_retries
from pipeline.errors import InputError
from pipeline.files import file_lock
from pipeline.redaction import redacted
from pipeline.study import Study
from pipeline.tracking.artifacts import FOLDER, folder_fault, local_folder
from pipeline.tracking.connection import (
    connect,
    display_address,
    identity,
    import_mlflow,
    tracking_uri,
)
from pipeline.tracking.failures import reason_of, refusal_of, translate_mlflow_errors

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = ["NOTE", "Server"]

NOTE = "mlflow.note.content"  # the tag of a description
PAUSE, FACTOR, SLOW = 1.0, 10.0, 3.0  # seconds, times, and the seconds from which requests are slow
BACK_OFF, LONGEST = 5.0, 60.0  # seconds
TURN = 5.0  # seconds for which the other processes of a folder are waited for
TABLES = 60.0  # seconds in which another host has made MLflow's tables


class Server:
    """MLflow, asked not too often; a line on stderr says when it is gone, and when it is back."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self.address = display_address(study)
        self.identity = identity(study)
        self.experiments: dict[str, str] = {}  # ids by name
        self.refusal = ""  # why MLflow has refused the last requests
        self.repeats_requests = mlflow_retries() > 0  # the client itself does, and may so make a second run
        self._client: MlflowClient | None = None
        self._next, self._closed_until, self._took, self._back_off, self._connecting = 0.0, 0.0, 0.0, 0.0, 0.0

    @property
    def client(self) -> MlflowClient:
        """MLflow's client."""
        if self._client is None:
            start = time.monotonic()
            self._client = connect(self.study)
            self._connecting = time.monotonic() - start
        return self._client

    def experiment(self, name: str, note: str) -> str:
        """Return the id of an experiment, which is created, or restored, if need be."""
        if name not in self.experiments:
            experiment = self.client.get_experiment_by_name(name)
            if experiment is None:
                self.experiments[name] = self._create_experiment(name, note)
            else:
                if experiment.lifecycle_stage == "deleted":
                    self.client.restore_experiment(experiment.experiment_id)
                self.experiments[name] = str(experiment.experiment_id)
        return self.experiments[name]

    def _location(self, name: str) -> str | None:
        """Return where the artifacts of a new experiment are to lie; a server decides that by itself."""
        if self.client.tracking_uri.startswith("http"):
            return None
        return (self.study.shared_root / FOLDER / name.rpartition("/")[2]).as_uri()

    def _create_experiment(self, name: str, note: str) -> str:
        from mlflow.exceptions import MlflowException

        try:
            return str(self.client.create_experiment(name, self._location(name), tags={NOTE: note}))
        except MlflowException as error:  # of two processes at once, one creates it
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            return str(self.client.get_experiment_by_name(name).experiment_id)

    def can_send(self, *, forced: bool = False) -> bool:
        """Return whether requests may be sent now; `forced` ones wait only for a server that is slow or down."""
        now = time.monotonic()
        return now >= (self._closed_until if forced and self._took < SLOW else max(self._next, self._closed_until))

    @contextmanager
    def request(self) -> Iterator[None]:
        """Send requests in here: what MLflow raises is kept from the caller, and puts off the next requests.

        Where it refuses what was sent, the reason is in `refusal`, and nothing is put off.

        Raises:
            InputError: the disk is full, say.
        """
        import_mlflow()
        start, self._connecting, self.refusal = time.monotonic(), 0.0, ""
        try:
            with self._take_turn():
                yield
        except InputError:
            raise
        except BaseException as error:
            self.refusal = refusal_of(error) if isinstance(error, Exception) else ""
            if not self.refusal:
                self._put_off(error, start)
                return
        now = time.monotonic()
        self._took = now - start - self._connecting  # imports and the like say nothing of the server
        self._back_off, self._closed_until = 0.0, 0.0
        self._next = now + max(PAUSE, FACTOR * self._took)
        self._report_back()

    def _put_off(self, error: BaseException, start: float) -> None:
        now = time.monotonic()
        if isinstance(error, Exception) or now - start > SLOW:
            self._back_off = min(LONGEST, max(BACK_OFF, 2 * self._back_off))
            self._closed_until = now + max(self._back_off, FACTOR * (now - start))
        if not isinstance(error, Exception):  # Ctrl-C
            raise error
        self._report_gone(error)

    @contextmanager
    def _take_turn(self) -> Iterator[None]:
        """Let the processes of this folder use an SQLite database one after the other.

        MLflow reads before it writes, in one transaction: of two that do so at once, SQLite refuses one.
        """
        with ExitStack() as turn:
            if tracking_uri(self.study).startswith("sqlite"):
                with suppress(BlockingIOError):  # a process that is stopped in its turn, say
                    turn.enter_context(file_lock(self.study.cache / "locks" / "mlflow-turn", TURN))
            yield

    @property
    def reachable(self) -> bool:
        """Whether the last requests succeeded."""
        return self._back_off == 0

    # The line is printed once, whatever the number of workers: one of them makes the mark, and one removes it.
    def _report_gone(self, error: Exception) -> None:
        runs = self.study.runs
        try:
            runs.mkdir(parents=True, exist_ok=True)
            (runs / "gone").touch(exist_ok=False)
        except OSError:
            return
        where = os.path.relpath(runs, self.study.root)
        line = f"MLflow at {self.address} cannot be reached ({reason_of(error)}); what is logged waits in {where}"
        print(redacted(line), file=sys.stderr, flush=True)

    def _report_back(self, *, silent: bool = False) -> None:
        try:
            (self.study.runs / "gone").unlink()
        except OSError:
            return
        if not silent:
            print(f"MLflow at {self.address} is back", file=sys.stderr, flush=True)

    def require(self, name: str, note: str) -> None:
        """Raise `InputError` unless MLflow can be used, in a database of its own; the experiment may be missing."""
        addresses.require_separate(self.study.shared_root)
        limit = time.monotonic() + TABLES
        with translate_mlflow_errors(self.study):
            from sqlalchemy.exc import IntegrityError, ProgrammingError

            while True:
                try:
                    self.experiments.clear()
                    experiment = self.client.get_experiment_by_name(name)
                    if experiment is not None:
                        self.experiment(name, note)
                    break
                except (IntegrityError, ProgrammingError):  # another host makes the tables of a fresh PostgreSQL, too
                    if time.monotonic() > limit:
                        raise
                    time.sleep(1.0)
        address = self._location(name) if experiment is None else experiment.artifact_location
        folder = None if address is None else local_folder(address)
        if folder is not None and (fault := folder_fault(folder)):
            raise InputError(f"MLflow keeps this study's artifacts in {folder}, and {fault}")
        self._back_off = self._closed_until = 0.0
        self._report_back(silent=True)
