"""MLflow's own database may be a PostgreSQL, reached by psycopg 3; where it cannot be, that is one line."""

from __future__ import annotations

import importlib.util
import socket
from pathlib import Path
from typing import Any

import pytest

from pipeline.doctor import CHECKS, examine, find_target
from pipeline.errors import InputError
from pipeline.files import read_json
from pipeline.jobs import train_seed
from pipeline.stages import fetch, prepare, train
from pipeline.study import Study
from pipeline.sweep import Sweep, run
from pipeline.tracking import LoggedRun, Tracker, tracking_uri
from tests.postgres import PASSWORD, Postgres
from tests.workshop import make_study, rows
from tests.zygote import Program

SECRET = "correct-horse"
LIMIT = 60.0  # seconds, for what takes ten and the importing of libraries on a busy machine


@pytest.fixture(scope="module")
def url(postgres: Postgres) -> str:
    """Return a database for MLflow, which gets its tables from the first test that uses it."""
    return postgres.fresh()


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """Return a small study of one seed, on one thread."""
    monkeypatch.setenv("CAVE_THREADS", "1")
    monkeypatch.setenv("CAVE_WORKERS", "1")
    (tmp_path / "pyproject.toml").touch()
    return make_study(tmp_path, **{"train.seeds": [0], "sweep.trials": 2})


@pytest.mark.nightly
def test_a_study_runs_with_mlflow_on_postgresql(
    study: Study, url: str, postgres: Postgres, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A fresh database gets its tables; a sweep and a training are in it whole, and nothing shows the password."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
    fetch.run(study)
    prepare.run(study)
    run(Sweep(study, "mhvae"), 1)
    train.run(study, "mhvae")
    actual = rows(url, "select name, status from runs where lifecycle_stage = 'active' order by name")
    names = ["mhvae seed 0", "mhvae trial 0", "mhvae trial 1", "sweep mhvae"]
    assert actual == [(name, "FINISHED") for name in names]
    epochs = "select count(*) from metrics join runs using (run_uuid) where key = 'valid/elbo' and name like '%seed 0'"
    assert rows(url, epochs) == [(3,)]
    ((run_id,),) = rows(url, "select run_uuid from runs where name = 'mhvae seed 0'")
    assert sorted(LoggedRun.read(study, run_id).epochs) == [1, 2, 3]
    assert list(study.runs.glob("*/log.jsonl")) == []
    assert Tracker(study).server.address == f"postgresql://127.0.0.1:{postgres.port}/{url.rpartition('/')[2]}"
    output = capfd.readouterr()
    files = [path.read_text("latin-1") for path in study.out.rglob("*") if path.is_file()]
    for text in (output.out, output.err, *files):
        assert PASSWORD not in text
        assert PASSWORD.replace("/", "%2F") not in text
    (finding,) = (
        finding for _, finding in examine({"tracking": CHECKS["tracking"]}, find_target(study.root, study.folder))
    )
    assert finding.level == "ok"


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_postgresql_has_three_names_for_mlflow_too(study: Study, monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    """All of them lead to psycopg 3, with time limits; the address is shown without driver and password."""
    pytest.importorskip("psycopg")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{scheme}://me:{SECRET}@host:5433/db?sslmode=require")
    assert tracking_uri(study).startswith(f"postgresql+psycopg://me:{SECRET}@host:5433/db?")
    assert "connect_timeout=3" in tracking_uri(study)
    assert "sslmode=require" in tracking_uri(study)
    assert Tracker(study).server.address == "postgresql://host:5433/db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{scheme}://me:{SECRET}@host/db?connect_timeout=60")
    assert "connect_timeout=60" in tracking_uri(study)


def test_a_missing_driver_is_one_line(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without psycopg, the line says what installs it; psycopg2 alone is used; a driver that is named stays."""
    real, installed = importlib.util.find_spec, set[str]()

    def find_spec_without(name: str, *more: Any) -> Any:
        return (name if name in installed else None) if name.startswith("psycopg") else real(name, *more)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec_without)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"postgresql://me:{SECRET}@host/db")
    with pytest.raises(InputError, match=r"MLFLOW_TRACKING_URI names .* pip install 'platos-cave\[postgres\]'"):
        Tracker(study)
    installed.add("psycopg2")
    assert tracking_uri(study).startswith("postgresql+psycopg2://")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"postgresql+psycopg2://me:{SECRET}@host/db")
    with pytest.raises(InputError, match=r"MLflow at postgresql://host/db cannot be used: No module named 'psycopg2'"):
        Tracker(study).require()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["closed", pytest.param("silent", marks=pytest.mark.nightly), "wrong password"])
def test_a_postgresql_out_of_reach_is_one_line(how: str, study: Study, postgres: Postgres) -> None:
    """A closed port, a server that says nothing and a wrong password end a command in one line, with exit code 2."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = {"closed": 9, "silent": silent.getsockname()[1], "wrong password": postgres.port}[how]
        url = f"postgresql://cave:{SECRET}@127.0.0.1:{port}/postgres"
        done = Program(study.folder, "pipeline", "sync", MLFLOW_TRACKING_URI=url)
        assert done.wait(LIMIT) == 2, done.stderr
    assert done.stderr.startswith(f"error: MLflow at postgresql://127.0.0.1:{port}/postgres cannot be used: ")
    assert done.stderr.count("\n") == 1
    assert SECRET not in done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.nightly
def test_hosts_that_start_at_once_make_one_set_of_tables(study: Study, postgres: Postgres) -> None:
    """Of three commands that find a fresh PostgreSQL at the same time, each gets to its end."""
    url = postgres.fresh()
    started = [Program(study.folder, "pipeline", "sync", MLFLOW_TRACKING_URI=url) for _ in range(3)]
    ends = [(process.communicate()[1], process.returncode) for process in started]
    assert {code for _, code in ends} == {0}, ends


@pytest.mark.slow
def test_a_postgresql_that_goes_away_costs_a_training_nothing(
    study: Study, url: str, postgres: Postgres, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Training goes on, one line says so, and what waited is sent when the server is back."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
    monkeypatch.setattr("pipeline.tracking.server.BACK_OFF", 0.0)
    fetch.run(study)
    prepare.run(study)
    real, stopped = train_seed.print_progress, list[int]()

    def print_progress(*args: Any) -> None:
        real(*args)
        if not stopped:
            stopped.append(1)
            postgres.stop()

    monkeypatch.setattr(train_seed, "print_progress", print_progress)
    try:
        train.run(study, "mhvae")
    finally:
        postgres.start()
    output = capfd.readouterr()
    assert output.err.count("cannot be reached") == 1
    assert "Traceback" not in output.err
    assert "1 run waits for MLflow" in output.out
    assert Tracker(study).require().backlog.publish_all().done == 1
    run_id = read_json(study.train("mhvae") / "seed-0" / "mlflow.json")["run"]
    assert rows(url, "select name, status from runs where run_uuid = ?", run_id) == [("mhvae seed 0", "FINISHED")]
