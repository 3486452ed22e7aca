"""Where a study's report lies and where its runs are shown, as it is now: the present store is asked by name.

No heavy library is loaded: an SQLite file is read as such, a server is asked over HTTP, and only other stores need
MLflow. What is not there is not printed; a sentence says why, and what to run.
"""

from __future__ import annotations

import errno
import re
import socket
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pipeline.addresses import FINAL, SEARCH, VIEW_TAG, address, run_page, runs_page, sqlite_file
from pipeline.environment import TrackingCredentials
from pipeline.errors import InputError
from pipeline.redaction import one_line, without_password
from pipeline.study import Study

__all__ = ["Runs", "experiment", "find_runs", "free_port", "report_line", "runs_line"]

PORT, LAST_PORT = 5000, 65535
HOST = "127.0.0.1"
FILTER = "tags.current = 'true'"
PATIENCE = 2.0  # seconds that a server has for each of two answers
LARGEST = 2**20  # bytes of an answer
EXPERIMENT = "select experiment_id, lifecycle_stage from experiments where name = ?"
VIEWS = f"select key from experiment_tags where experiment_id = ? and key like '{VIEW_TAG}%'"
MARKED = (
    "select 1 from runs join tags using (run_uuid) where experiment_id = ? and key = 'current' and value = 'true'"
    " and lifecycle_stage = 'active' limit 1"
)


@dataclass(frozen=True)
class Experiment:
    """A study's experiment in the present store."""

    id: str
    deleted: bool
    marked: bool  # does a run say that it belongs to the present results?
    views: frozenset[str] = frozenset()  # keys of its named views

    def link(self, address: str = f"http://{HOST}:{PORT}") -> str:
        """Return where the MLflow UI shows the runs of the present results: the final models or, before, the search.

        Of an experiment without named views, these are all `marked` runs or, if there are none, all runs.
        """
        view = next((key for key in (FINAL, SEARCH) if key in self.views), "")
        return address + runs_page(self.id, view, FILTER if self.marked else "")


@dataclass(frozen=True)
class Runs:
    """Where a study's runs are shown."""

    address: str  # empty where they are not shown
    reason: str  # why they are not
    server: bool  # whether a server that is there shows them, and not one that `cave ui` starts
    experiment: str = ""

    def page(self, run_id: str) -> str:
        """Return the address of a run's page; empty where runs are not shown."""
        return self.address.partition("/#/")[0] + run_page(self.experiment, run_id) if self.address else ""


def report_line(study: Study) -> str:
    """Say where the report lies, or what makes it."""
    path = study.report / "report.html"
    return f"report: {path}" if path.is_file() else f"study {study.name} has no report yet; {_made_by(study)}"


def runs_line(study: Study, port: int = PORT) -> str:
    """Say at which address the runs are shown, or why there is none."""
    runs = find_runs(study, port)
    if not runs.address:
        return runs.reason
    command = "cave ui" if study.folder == study.root else f"cave ui {study.name}"
    return f"runs:   {runs.address}" + ("" if runs.server else f"  (served by `{command}`)")


def find_runs(study: Study, port: int = PORT) -> Runs:
    """Return where the runs of a study are shown: by the server that the environment names, or by one at a port."""
    store = address("mlflow", study.shared_root)
    server = _is_server(store)
    shown = one_line(without_password(store).rstrip("/"))
    reason = ""
    try:
        record = experiment(study)
    except InputError as error:
        fix = "start that server, or unset MLFLOW_TRACKING_URI" if server else "`cave doctor` says how to fix that"
        return Runs("", f"the runs of study {study.name} cannot be shown: {error}; {fix}", server)
    if record is None and _results(study):
        reason = (
            f"the runs of study {study.name} are not in MLflow at {shown}: its results were made with another store;"
            " set MLFLOW_TRACKING_URI to that one"
        )
    elif record is None:
        reason = f"study {study.name} has no runs yet in MLflow at {shown}; {_made_by(study)}"
    elif record.deleted:
        reason = (
            f"the experiment of study {study.name} is deleted in MLflow at {shown};"
            " `cave doctor` says how to restore it"
        )
    link = "" if record is None or reason else record.link(shown if server else f"http://{HOST}:{port}")
    return Runs(link, reason, server, record.id if record and link else "")


def experiment(study: Study) -> Experiment | None:
    """Return a study's experiment in the store that the environment names; None where it has none of that name.

    Raises:
        InputError: the store does not answer.
    """
    store, name = address("mlflow", study.shared_root), f"platos-cave/{study.name}"
    if (file := sqlite_file(store, study.shared_root)) is not None:
        return _in_file(file, name)
    return _on_server(store.rstrip("/"), name) if _is_server(store) else _by_mlflow(study, name)


def free_port(port: int | None, usual: int | None = None) -> tuple[int, str]:
    """Return a port that a server can listen on, and a line where it is not the usual one: by default MLflow's.

    Raises:
        InputError: the port that was given cannot be used.
    """
    usual = usual or PORT
    reason = _port_fault(port or usual)
    if not reason:
        return port or usual, ""
    if port is not None:
        raise InputError(f"--port: {port} given, and it {reason}; choose another, or stop what listens there")
    for other in range(usual + 1, LAST_PORT + 1):
        if not _port_fault(other):
            return other, f"port {usual} {reason}; taking {other}"
    raise InputError(f"no port above {usual} is free")


def _port_fault(port: int) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: a port just left is free
        try:
            probe.bind((HOST, port))
            probe.listen()
        except OSError as error:
            return (
                "is in use" if error.errno == errno.EADDRINUSE else f"cannot be used ({(error.strerror or '').lower()})"
            )
    return ""


def _is_server(store: str) -> bool:
    return store.lower().startswith(("http://", "https://"))


def _results(study: Study) -> bool:
    return any(study.out.glob("train/*/seed-*/mlflow.json")) or any(study.out.glob("sweep/*/mlflow.json"))


def _made_by(study: Study) -> str:
    return f"`{study.command('report')}` makes it"


def _in_file(file: Path, name: str) -> Experiment | None:
    if not file.is_file():
        return None
    try:
        with closing(sqlite3.connect(f"file:{quote(str(file))}?mode=ro", uri=True, timeout=PATIENCE)) as connection:
            row = connection.execute(EXPERIMENT, (name,)).fetchone()
            if row is None:
                return None
            marked = connection.execute(MARKED, (row[0],)).fetchone() is not None
            views = _views(key for (key,) in connection.execute(VIEWS, (row[0],)))
            return Experiment(str(row[0]), row[1] == "deleted", marked, views)
    except sqlite3.Error as error:
        if str(error).startswith("no such table"):
            return None
        raise InputError(f"{file}: {error}") from None


def _on_server(address: str, name: str) -> Experiment | None:
    answer = _answer(address, "get", "experiments/get-by-name", {"params": {"experiment_name": name}})
    if answer is None:
        return None
    about = answer.get("experiment")
    if not isinstance(about, dict) or not re.fullmatch(r"[\w-]{1,64}", str(about.get("experiment_id"))):
        raise InputError(f"{without_password(address)} does not answer as an MLflow server does")
    number = str(about["experiment_id"])
    asked = {"experiment_ids": [number], "filter": FILTER, "max_results": 1}
    runs = _answer(address, "post", "runs/search", {"json": asked}) or {}
    tags = [str(tag.get("key")) for tag in about.get("tags", []) if isinstance(tag, dict)]
    return Experiment(number, about.get("lifecycle_stage") == "deleted", bool(runs.get("runs")), _views(tags))


def _answer(address: str, method: str, path: str, what: dict[str, Any]) -> dict[str, Any] | None:
    """Return what an MLflow server answers; None where it does not know what was asked for."""
    import json

    import requests

    headers, auth = {}, None
    credentials = TrackingCredentials.read()
    if credentials.token:
        headers["Authorization"] = f"Bearer {credentials.token}"
    elif credentials.user:
        auth = (credentials.user, credentials.password)
    shown = without_password(address)
    try:
        with requests.request(
            method, f"{address}/api/2.0/mlflow/{path}", headers=headers, auth=auth, timeout=PATIENCE,
            verify=credentials.verify, stream=True, allow_redirects=False, **what,
        ) as answer:  # fmt: skip
            content = answer.raw.read(LARGEST, decode_content=True)
            if answer.status_code == 404 and b"RESOURCE_DOES_NOT_EXIST" in content:
                return None
            if answer.status_code != 200:
                raise InputError(f"MLflow at {shown} answers with HTTP {answer.status_code}")
            decoded = json.loads(content)
    except requests.Timeout:
        raise InputError(f"MLflow at {shown} does not answer within {PATIENCE:.0f} s") from None
    except requests.RequestException as error:
        raise InputError(f"MLflow at {shown} cannot be reached ({type(error).__name__})") from None
    except (ValueError, OSError):
        decoded = None
    if not isinstance(decoded, dict):
        raise InputError(f"{shown} does not answer as an MLflow server does")
    return decoded


def _by_mlflow(study: Study, name: str) -> Experiment | None:
    from pipeline.tracking.connection import connect
    from pipeline.tracking.failures import translate_mlflow_errors

    with translate_mlflow_errors(study):
        client = connect(study, read_only=True)
        record = client.get_experiment_by_name(name)
        if record is None:
            return None
        marked = bool(client.search_runs([record.experiment_id], FILTER, max_results=1))
        return Experiment(str(record.experiment_id), record.lifecycle_stage == "deleted", marked, _views(record.tags))


def _views(tags: Iterable[str]) -> frozenset[str]:
    """Return the keys of the views among an experiment's tags."""
    return frozenset(tag.removeprefix(VIEW_TAG) for tag in tags if tag.startswith(VIEW_TAG))
