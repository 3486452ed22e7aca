"""A PostgreSQL that goes away for a moment costs a sweep nothing, at whatever transaction it is away."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import RDBStorage
from sqlalchemy.exc import OperationalError

import pipeline.sweep.coordinator
from pipeline.errors import InputError
from pipeline.stages import fetch, prepare
from pipeline.study import Study
from pipeline.sweep import Sweep, join, run
from pipeline.sweep.compat import PREFIX
from pipeline.sweep.coordinator import _join
from pipeline.sweep.database import Database
from pipeline.sweep.locks import locks
from tests.postgres import Postgres
from tests.workshop import check_sweep, make_study, rows

pytestmark = pytest.mark.slow

VARIANT = "mhvae"
CUT = OperationalError("select 1", {}, RuntimeError("server closed the connection unexpectedly"))  # of any driver
CUT.__cause__ = CUT.orig  # as SQLAlchemy raises it
PLOTS = "optuna.visualization.matplotlib.plot_slice"


@pytest.fixture
def url(postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return a fresh database, which every sweep of the test takes."""
    made = postgres.fresh()
    monkeypatch.setenv("CAVE_OPTUNA_URL", made)
    return made


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """Return a small study with its data prepared."""
    monkeypatch.setenv("CAVE_THREADS", "1")
    made = make_study(tmp_path, **{"sweep.trials": 2})
    fetch.run(made)
    prepare.run(made)
    return made


def once(expected: Callable[..., bool], real: Callable[..., Any], fault: BaseException = CUT) -> Callable[..., Any]:
    """Return a function that raises at the first call that is `wanted`, before it does anything."""
    done: list[bool] = []

    def calling(*args: Any, **kwargs: Any) -> Any:
        if not done and expected(*args, **kwargs):
            done.append(True)
            raise fault
        return real(*args, **kwargs)

    return calling


def plots(monkeypatch: pytest.MonkeyPatch, act: Callable[[], None]) -> None:
    """Act once in the middle of the drawing of plots, before Optuna is asked for what is drawn."""
    from optuna.visualization import matplotlib

    real, done = matplotlib.plot_slice, list[bool]()

    def drawing(study: optuna.Study, **options: Any) -> Any:
        if not done:
            done.append(True)
            act()
        return real(study, **options)

    monkeypatch.setattr(PLOTS, drawing)


def cut(point: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut the connection once at a place of the coordinator's work, or of the first trial's beginning."""
    if point == "plots":

        def act() -> None:
            raise CUT

        plots(monkeypatch, act)
    elif point == "tables":
        monkeypatch.setattr(Database, "storage", once(lambda _: True, Database.storage))
    elif point == "outputs":
        monkeypatch.setattr(optuna.Study, "get_trials", once(written, optuna.Study.get_trials))
    elif point == "run of a trial":
        real = RDBStorage.set_trial_system_attr
        monkeypatch.setattr(
            RDBStorage, "set_trial_system_attr", once(lambda _, trial, key, value: key.endswith("mlflow_run_id"), real)
        )
    else:
        monkeypatch.setattr(
            RDBStorage,
            "set_study_system_attr",
            once(lambda _, study, key, value: key == f"{PREFIX}{point}", RDBStorage.set_study_system_attr),
        )


def nightly(*values: str) -> list[Any]:
    return [pytest.param(value, marks=pytest.mark.nightly) for value in values]


def written(study: optuna.Study, *args: Any, **kwargs: Any) -> bool:
    """Are all trials finished, so that the next who asks for them writes them down?"""
    return len(study._storage.get_all_trials(study._study_id, states=(optuna.trial.TrialState.COMPLETE,))) == 2


@pytest.mark.parametrize(
    "point",
    ["run of a trial", "outputs", *nightly("tables", "id", "coordinator", "mlflow_run_id", "plots")],
)
def test_a_sweep_goes_on_where_its_database_was_away(
    point: str, study: Study, url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where the connection ends in one of these transactions, the coordinator prints a line and repeats it."""
    cut(point, monkeypatch)
    (best,) = run(Sweep(study, VARIANT), 1)
    output = capsys.readouterr()
    assert output.out.count("goes on when it is back") == 1
    assert "Traceback" not in output.err
    check_sweep(study, VARIANT, 2, url)
    assert best["trial"] in (0, 1)


@pytest.mark.nightly
@pytest.mark.parametrize("point", ["coordinator", *nightly("mlflow_run_id", "plots", "outputs")])
def test_a_worker_that_joins_goes_on_where_its_database_was_away(
    point: str, study: Study, url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What `cave worker` does beside its workers' trials is done once more, too, and nothing is left open."""
    if point != "mlflow_run_id":
        run(Sweep(study, VARIANT), 1)
    else:
        monkeypatch.setattr(
            "pipeline.processes.run", lambda *_, **__: pipeline.sweep.work(Sweep(study, VARIANT))
        )  # here, where no trial is the test's matter
    capsys.readouterr()
    cut(point, monkeypatch)
    join(Sweep(study, VARIANT), 1)
    output = capsys.readouterr()
    assert output.out.count("goes on when it is back") == 1
    assert "best trial" in output.out
    check_sweep(study, VARIANT, 2, url)
    assert list(study.runs.glob("*/log.jsonl")) == []


@pytest.mark.nightly
@pytest.mark.parametrize("point", ["holder", pytest.param("plots", marks=pytest.mark.nightly)])
def test_a_server_that_starts_again_finds_the_sweep_going_on(
    point: str, study: Study, url: str, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real server that stops while the coordinator writes its name, or draws, and comes back costs nothing."""
    starting: list[threading.Thread] = []

    def restart() -> None:
        postgres.stop()
        starting.append(threading.Timer(1.0, postgres.start))
        starting[-1].start()

    if point == "plots":
        plots(monkeypatch, restart)
    else:
        real = pipeline.sweep.coordinator.platform.node

        def node() -> str:  # what is asked for just before the name is written
            if not starting:
                restart()
            return real()

        monkeypatch.setattr("pipeline.sweep.coordinator.platform.node", node)
    run(Sweep(study, VARIANT), 1)
    assert len(starting) == 1
    check_sweep(study, VARIANT, 2, url)


@pytest.mark.nightly
def test_a_file_that_fails_is_one_line(
    study: Study, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """SQLite that cannot be asked any more does not come back: the sweep ends in an `InputError`, its run as failed."""
    monkeypatch.delenv("CAVE_OPTUNA_URL", raising=False)
    cut("plots", monkeypatch)
    with pytest.raises(InputError, match=r"Optuna at sqlite:///.*: .*closed the connection"):
        run(Sweep(study, VARIANT), 1)
    query = "select status from runs r join tags t on t.run_uuid = r.run_uuid and t.key = 'stage' and t.value = 'sweep'"
    assert rows(study.shared_root / "mlflow.db", query) == [("FAILED",)]


@pytest.mark.nightly
def test_a_worker_waits_for_what_its_lost_connection_holds(study: Study, url: str, postgres: Postgres) -> None:
    """While the server has not given up the connection that was lost, a worker does not take itself for another."""
    run(Sweep(study, VARIANT), 1)
    best = study.sweep(VARIANT) / "best.json"
    best.unlink()
    again = replace(Sweep(study, VARIANT), reconnect_timeout=60.0)
    lost = locks(Database.of(study))
    with lost.hold(f"{again.name}/coordinator"):
        joining = threading.Thread(target=_join, args=(again, 1))
        joining.start()
        limit = time.monotonic() + 120
        while not postgres.ask("select 1 from pg_locks where locktype = 'advisory' and not granted"):
            assert joining.is_alive()
            assert time.monotonic() < limit
            time.sleep(0.05)
    joining.join()
    assert best.exists()
