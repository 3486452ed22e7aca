"""Studies in temporary folders, and what the stores say of them, read by code that shares nothing with the sweep."""

from __future__ import annotations

import functools
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pipeline.log import Log
from pipeline.params import Params, dump_yaml
from pipeline.study import Study
from tests.small import ROOT

QUICK: dict[str, Any] = {
    "data.name": "cave",
    "data.cave.images": 120,
    "model.hidden": [[8]],
    "train.epochs": 3,
    "train.seeds": [0, 1],
    "train.batch_size": 32,
    "sweep.trials": 4,
    "sweep.epochs": 3,
    "sweep.pruner": "none",
    "evaluate.draws": 60,
    "evaluate.k": [1, 5, 60],
    "evaluate.active_draws": 20,
    "evaluate.milestone_draws": 50,
    "evaluate.decompose": None,
    "report.images": 3,
}

DECOMPOSE: dict[str, Any] = {
    "level_images": 8,
    "level_draws": 2,
    "inner_draws": 4,
    "simulated": 4,
    "queries": 10,
    "path_draws": 3,
    "pair_queries": 6,
    "aggregate": "test",
    "gap_images": 4,
    "gap_steps": 2,
    "gap_draws": 2,
    "gap_learning_rate": 0.1,
    "ais_images": 3,
    "ais_chains": 2,
    "ais_temperatures": 3,
    "ais_leapfrog_steps": 1,
    "factor_images": 100,
    "factor_draws": 2,
}
"""The smallest of every decomposition."""


@functools.cache
def _migrated() -> Path:
    """Make MLflow's database once for each version; a fresh one costs seconds."""
    path = ROOT / ".pytest_cache" / f"mlflow-{version('mlflow')}.db"
    if not path.exists():
        from mlflow import MlflowClient

        made = Path(tempfile.mkdtemp()) / "mlflow.db"
        MlflowClient(f"sqlite:///{made}").search_experiments(max_results=1)
        path.parent.mkdir(exist_ok=True)
        shutil.copy(made, f"{path}.{os.getpid()}")
        os.replace(f"{path}.{os.getpid()}", path)
    return path


def make_study(folder: Path, **overrides: Any) -> Study:
    """Make a study of its own in `folder`, stores and all, with settings that take a second."""
    folder.mkdir(parents=True, exist_ok=True)
    params = Params.read(ROOT / "params.yaml", QUICK | overrides)
    (folder / "params.yaml").write_text(dump_yaml(params))
    if not (folder / "mlflow.db").exists():
        shutil.copy(_migrated(), folder / "mlflow.db")
    return Study.at(folder)


@contextmanager
def registries_restored() -> Iterator[None]:
    """Remove the parts that are registered within this block."""
    from pipeline.extensions import REGISTRIES
    from pipeline.params import MEASURES
    from pipeline.params.own import NAMES

    registries = (*REGISTRIES.values(), MEASURES, *NAMES.values())
    before = [dict(registry) for registry in registries]
    yield
    for registry, content in zip(registries, before, strict=True):
        registry.clear()
        registry.update(content)


def trial_of(folder: Path) -> int:
    """Return the number of the trial whose run lies in a folder."""
    return int(Log(folder).read()[0]["key"].rpartition("/")[2])


def rows(database: Path | str, query: str, *values: Any) -> list[tuple[Any, ...]]:
    """Return what a query finds in an SQLite file, or in the PostgreSQL of an address."""
    if isinstance(database, str):
        import psycopg

        with psycopg.connect(database) as postgres:
            return postgres.execute(query.replace("%", "%%").replace("?", "%s").encode(), values).fetchall()
    connection = sqlite3.connect(database)
    try:
        return connection.execute(query, values).fetchall()
    finally:
        connection.close()


def check_sweep(study: Study, variant: str, trials: int, url: str | None = None, searches: int = 1) -> None:
    """Assert the promises of a finished sweep from the two databases alone; `url` is Optuna's, where not SQLite.

    Exactly `trials` trials a search, all finished; one MLflow run each, ended with the right status; the steps of
    every metric are 1, 2, ..., without a gap or a double, but of a trial that repeats another only the best epoch's;
    nothing is left running.
    """
    name = f"{study.name}/{variant}-%"
    trials_found = rows(
        url or study.shared_root / "optuna.db",
        "select s.study_name, t.number, t.state from trials t join studies s using (study_id)"
        " where s.study_name like ?",
        name,
    )
    names = sorted({name for name, *_ in trials_found})
    assert len(names) == searches
    expected = sorted((name, number) for name in names for number in range(trials))
    assert sorted((name, number) for name, number, _ in trials_found) == expected, trials_found
    assert {state for *_, state in trials_found} <= {"COMPLETE", "PRUNED", "FAIL"}
    mlflow = study.shared_root / "mlflow.db"
    runs = rows(
        mlflow,
        "select r.run_uuid, r.status, k.value from runs r join tags k on k.run_uuid = r.run_uuid and k.key = 'cave.key'"
        " join tags g on g.run_uuid = r.run_uuid and g.key = 'stage' and g.value = 'trial'"
        " where k.value like ? and r.lifecycle_stage = 'active'",
        name,
    )
    trial_of = {key: (key.rsplit("/", 2)[0], int(key.rpartition("/")[2])) for *_, key in runs}  # name/id/number
    assert sorted(trial_of[key] for *_, key in runs) == expected
    states = {(name, number): state for name, number, state in trials_found}
    statuses = {"COMPLETE": "FINISHED", "PRUNED": "KILLED", "FAIL": "FAILED"}
    for run_id, status, key in runs:
        assert status == statuses[states[trial_of[key]]]
        steps: dict[str, list[int]] = {}
        for metric, step in rows(
            study.shared_root / "mlflow.db",
            "select key, step from metrics where run_uuid = ? and key != 'search/value'",
            run_id,
        ):
            steps.setdefault(metric, []).append(step)
        repeats = rows(
            study.shared_root / "mlflow.db", "select 1 from tags where run_uuid = ? and key = 'repeats'", run_id
        )
        for taken in steps.values():
            assert len(taken) == 1 if repeats else sorted(taken) == list(range(1, len(taken) + 1))
    assert rows(mlflow, "select count(*) from runs where status = 'RUNNING'") == [(0,)]
