"""The addresses that are printed lead somewhere: the present store is asked, and what is not there is said."""

from __future__ import annotations

import contextlib
import json
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pipeline import links
from pipeline.addresses import BOUND, FINAL, SEARCH, VIEW_TAG, run_page, runs_page
from pipeline.errors import InputError
from pipeline.files import write_json, write_text
from pipeline.links import Experiment, free_port, report_line, runs_line
from pipeline.study import Study
from pipeline.tracking import Tracker
from tests.test_cli import cave
from tests.workshop import make_study

FILTER = "&searchFilter=tags.current%20%3D%20%27true%27"


@pytest.fixture(autouse=True)
def _own_stores(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "DVC_ROOT", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_TOKEN"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    (tmp_path / "pyproject.toml").touch()
    return make_study(tmp_path)


def change(study: Study, *statements: str) -> None:
    with contextlib.closing(sqlite3.connect(study.shared_root / "mlflow.db")) as connection, connection:
        for statement in statements:
            connection.execute(statement)


class Server(ThreadingHTTPServer):
    """Answers as an MLflow server that has one experiment, or as `answer` says."""

    answer: tuple[int, bytes] | None = None


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        about = {"experiment": {"experiment_id": "77", "name": "platos-cave/default", "lifecycle_stage": "active"}}
        self._send(*(self.server.answer or (200, json.dumps(about).encode())))

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        answer_runs = {"runs": [{}]} if asked["filter"] == "tags.current = 'true'" else {}
        self._send(200, json.dumps(answer_runs).encode())

    def _send(self, code: int, content: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


def test_the_link_opens_the_runs_of_the_present_results() -> None:
    """The address names the experiment, the view in which MLflow shows training runs, and which of them."""
    link = "http://127.0.0.1:5000/#/experiments/7/runs?workflowType=machine_learning"
    assert Experiment("7", deleted=False, marked=True).link() == link + FILTER
    assert Experiment("7", deleted=False, marked=False).link() == link
    assert Experiment("7", False, True, frozenset({BOUND, FINAL, SEARCH})).link() == f"{link}&viewStateShareKey={FINAL}"
    charts = "&compareRunsMode=CHART"
    assert Experiment("7", False, True, frozenset({SEARCH})).link() == f"{link}{charts}&viewStateShareKey={SEARCH}"
    assert run_page("7", "a", "r.html") == "/#/experiments/7/runs/a/artifacts/r.html?workflowType=machine_learning"


def test_the_present_store_says_where_the_runs_are(study: Study) -> None:
    """The experiment is asked for by its name; the id that another store gave to it leads to another study."""
    write_json(study.train("vae") / "seed-0" / "mlflow.json", {"experiment": "1", "run": "a", "key": "a"})
    change(study, "insert into experiments (name, lifecycle_stage, workspace) values ('other', 'active', 'default')")
    tracker = Tracker(study).require()
    assert tracker.server.experiment(tracker.name, tracker.note) == "2"
    assert "/#/experiments/2/runs?" in runs_line(study)
    assert FILTER not in runs_line(study)  # no run says that it is current: all are shown
    tracker.server.client.create_run("2", tags={"current": "true"})
    link = Experiment("2", deleted=False, marked=True).link("http://127.0.0.1:5003")
    assert runs_line(study, 5003) == f"runs:   {link}  (served by `cave ui`)"
    tracker.server.client.set_experiment_tag("2", VIEW_TAG + FINAL, "{}")
    assert runs_page("2", FINAL) in runs_line(study)


def test_without_runs_there_is_no_link(study: Study) -> None:
    """No experiment, one of another store and a deleted one are said, with what to run."""
    store = f"sqlite:///{study.shared_root / 'mlflow.db'}".replace("%", "%25")
    assert runs_line(study) == f"study default has no runs yet in MLflow at {store}; `dvc repro` makes it"
    write_json(study.train("vae") / "seed-0" / "mlflow.json", {"experiment": "1", "run": "a", "key": "a"})
    assert "set MLFLOW_TRACKING_URI to that one" in runs_line(study)
    tracker = Tracker(study).require()
    tracker.server.experiment(tracker.name, tracker.note)
    change(study, "update experiments set lifecycle_stage = 'deleted' where name like 'platos%'")
    assert "is deleted in MLflow at " in runs_line(study)
    (study.shared_root / "mlflow.db").write_bytes(b"no database" * 1000)
    assert "cannot be shown: " in runs_line(study)


def test_a_server_is_asked_and_shown(study: Study, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a server, the link begins with its address and holds no password."""
    address = f"127.0.0.1:{server.server_port}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:correct-horse@{address}/")
    link = Experiment("77", deleted=False, marked=True).link(f"http://{address}")
    assert runs_line(study) == f"runs:   {link}"
    server.answer = (404, b'{"error_code": "RESOURCE_DOES_NOT_EXIST"}')
    assert runs_line(study).startswith(f"study default has no runs yet in MLflow at http://{address}; ")


@pytest.mark.slow
@pytest.mark.parametrize("answer", [(200, b"<html>"), (200, b'{"experiment": {"experiment_id": "\\u001b[2J"}}'),
                                    (401, b""), (404, b"not here"), (200, b"[1]")])  # fmt: skip
def test_a_server_that_is_none_of_mlflow_gets_a_sentence(
    study: Study, server: Server, answer: tuple[int, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What does not answer as MLflow does is said, and no link is printed."""
    server.answer = answer
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.server_port}")
    line = runs_line(study)
    assert line.startswith("the runs of study default cannot be shown: ")
    assert line.endswith("; start that server, or unset MLFLOW_TRACKING_URI")
    assert line.isprintable()


def test_a_server_that_is_away_gets_a_sentence(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dead port and a server that never answers are said within seconds."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert "MLflow at http://127.0.0.1:9 cannot be reached (ConnectionError); start that server" in runs_line(study)
    monkeypatch.setattr(links, "PATIENCE", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert "does not answer within" in runs_line(study)


def test_a_report_is_named_where_it_is(study: Study) -> None:
    """A report that does not exist is not pointed to."""
    assert report_line(study).startswith("study default has no report yet; ")
    write_text(study.report / "report.html", "")
    assert report_line(study) == f"report: {study.report / 'report.html'}"


def test_a_link_loads_no_heavy_library(study: Study) -> None:
    """`cave link` of the project's own database is part of a `make repro` that has nothing to do."""
    tracker = Tracker(study).require()
    tracker.server.experiment(tracker.name, tracker.note)
    code = (
        "import sys; from pathlib import Path; from pipeline.study import Study; from pipeline.links import *;"
        "study = Study.at(Path.cwd()); print(runs_line(study), report_line(study));"
        "print(sorted({'torch', 'mlflow', 'sqlalchemy', 'requests', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=study.root, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "/#/experiments/1/runs?" in done.stdout


def test_a_busy_port_is_seen_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """The usual port gives way to the next that is free, with a line; one that was asked for is an error."""
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        with pytest.raises(InputError, match=f"^--port: {port} given, and it is in use; choose another"):
            free_port(port)
        monkeypatch.setattr(links, "PORT", port)
        other, notice = free_port(None)
        assert other > port
        assert notice == f"port {port} is in use; taking {other}"
    assert free_port(None) == (port, "")
    with socket.create_server(("0.0.0.0", 0)) as everywhere, pytest.raises(InputError, match="is in use"):
        free_port(everywhere.getsockname()[1])


@pytest.mark.slow
def test_the_ui_does_not_start_on_a_busy_port(study: Study) -> None:
    """`cave ui --port` on a port that another process has ends with one line and exit code 2."""
    with socket.create_server(("127.0.0.1", 0)) as busy:
        done = cave(study.root, "ui", "--port", str(busy.getsockname()[1]))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert "is in use" in done.stderr


def test_shown_links_are_of_what_is_there(study: Study) -> None:
    """`cave link` says what is missing instead of an address that leads nowhere."""
    done = cave(study.root, "link")
    assert (done.returncode, done.stderr) == (0, "")
    first, second = done.stdout.splitlines()
    assert first.startswith("study default has no report yet; ")
    assert second.startswith("study default has no runs yet in MLflow at ")
