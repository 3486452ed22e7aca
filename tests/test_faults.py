"""`kill -9` at every step of the protocol, and at random ones: nothing is lost, doubled, or left running.

What is checked is read from the two databases by SQL that shares nothing with the sweep, and compared with an
undisturbed sweep of the same settings: every number must be the same, bit for bit. Where there are several workers, or
PostgreSQL, all trials are of the random ones that a search begins with. CAVE_NIGHTLY=1 makes it more than 100 kills.
"""

from __future__ import annotations

import os
import random
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from pipeline.faults import ANY, POINTS, VARIABLE
from pipeline.files import read_csv, read_json
from pipeline.stages import fetch, prepare
from pipeline.study import Study
from tests.postgres import Postgres
from tests.workshop import check_sweep, make_study, rows
from tests.zygote import Program, run

pytestmark = pytest.mark.slow

NIGHTLY = os.environ.get("CAVE_NIGHTLY") == "1"
VARIANT, TRIALS = "mhvae", 3
SETTINGS: dict[str, Any] = {"sweep.trials": TRIALS, "sweep.epochs": 2, "train.epochs": 3, "train.seeds": [0]}
SWEEP, TRAIN = ("pipeline.stages", "sweep", VARIANT), ("pipeline.stages", "train", VARIANT)
PRUNED: dict[str, Any] = {
    "sweep.pruner": "median",
    "sweep.epochs": 7,
    "sweep.startup_trials": 1,
    "sweep.trials": 4,
    "sweep.seed": 2,
}
KILLS: list[str] = []  # one word for each SIGKILL that a process has died of
Points = list[tuple[str, int]]  # with the pass at which the process dies
TRIAL: dict[str, Points] = {  # in the order of a trial's life; the first pass of what opens a run is the sweep's own
    "begins": [
        ("run-opened", 1),
        ("transaction-open", 1),
        ("trial-admitted", 1),
        ("run-opened", 2),
        ("epoch-reported", 1),
        ("rows-sent", 1),
        ("end-sent", 1),
    ],
    "goes on": [
        ("run-created", 1),
        ("transaction-open", 2),
        ("run-created", 2),  # on a slow machine before the first epoch: a third such kill would fail the trial
        ("epoch-reported", 1),
        ("state-written", 1),
        ("line-appended", 3),
        ("trial-ended", 1),
    ],
}
END: Points = [("end-sent", TRIALS + 1), *(("line-appended", number) for number in range(1, 6))]
"""Of the sweep's own run when all trials are finished: each line about the best one, and about the end."""


def study(folder: Path, **overrides: Any) -> Study:
    """Return a small study with its data prepared."""
    made = make_study(folder, **(SETTINGS | overrides))
    fetch.run(made)
    prepare.run(made)
    return made


def numbers(made: Study, url: str | None = None) -> tuple[list[Any], list[Any]]:
    """Return what a sweep has found: every trial's state, settings and bounds, and every row of its run in MLflow."""
    optuna = url or made.shared_root / "optuna.db"
    trials = rows(
        optuna,
        "select t.number, t.state, v.value, p.param_name, p.param_value from trials t"
        " left join trial_values v using (trial_id) join trial_params p using (trial_id)"
        " order by t.number, p.param_name",
    )
    trials += rows(
        optuna,
        "select t.number, i.step, i.intermediate_value from trials t"
        " join trial_intermediate_values i using (trial_id) order by t.number, i.step",
    )
    logged = rows(
        made.shared_root / "mlflow.db",
        "select g.value, m.key, m.step, m.value from metrics m join tags g on g.run_uuid = m.run_uuid"
        " and g.key = 'mlflow.runName' join tags s on s.run_uuid = m.run_uuid and s.key = 'stage' and s.value = 'trial'"
        " order by g.value, m.key, m.step",
    )
    return trials, logged


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Any], list[Any]]:
    """Return the numbers of a sweep that nothing has disturbed."""
    made = study(tmp_path_factory.mktemp("undisturbed"))
    run(made.folder, *SWEEP)
    check_sweep(made, VARIANT, TRIALS)
    return numbers(made)


def check(made: Study, expected: tuple[list[Any], list[Any]], url: str | None = None) -> None:
    """Assert every promise, and that each number is as if nothing had happened."""
    trials = made.params.sweep.trials
    check_sweep(made, VARIANT, trials, url)
    assert numbers(made, url) == expected
    assert list(made.runs.glob("*/")) == []
    table = read_csv(made.sweep(VARIANT) / "trials.csv")
    assert [row["number"] for row in table] == [str(number) for number in range(trials)]
    (search,) = read_json(made.sweep(VARIANT) / "mlflow.json")["searches"]
    assert list(search["trials"].values()) == [row["run_id"] for row in table]


def killed(made: Study, point: str, passes: int, **environment: str) -> bool:
    """Run the sweep with a fault; return whether it was killed by it."""
    mark = made.folder / "mark"
    mark.unlink(missing_ok=True)
    fault = {VARIABLE: f"{point}:{passes}:{mark}"}
    program = Program(made.folder, *SWEEP, **environment, **fault)
    code = program.wait()
    assert code in (0, -signal.SIGKILL), program.stdout + program.stderr
    assert mark.exists() == (code != 0)
    KILLS.extend([point] * (code != 0))
    return code != 0


@pytest.mark.nightly
def test_kill_9_in_the_second_search_of_a_variant_doubles_nothing(tmp_path: Path) -> None:
    """Killed when one search is finished and another is not, the sweep ends with exactly its trials in each."""
    made = study(tmp_path, **{"sweep.searches": 2, "sweep.trials": 2, "train.seeds": [0, 1]})
    assert killed(made, "trial-ended", 3)
    assert not (made.sweep(VARIANT) / "best.json").exists()
    run(made.folder, *SWEEP, CAVE_WORKERS="2")
    check_sweep(made, VARIANT, 2, searches=2)
    table = [(row["search"], row["number"]) for row in read_csv(made.sweep(VARIANT) / "trials.csv")]
    assert table == [("0", "0"), ("0", "1"), ("1", "0"), ("1", "1")]
    assert list(made.runs.glob("*/")) == []


@pytest.mark.parametrize(
    "points",
    [*(pytest.param(TRIAL[name], marks=pytest.mark.nightly) for name in ("begins", "goes on")), END],
    ids=["begins", "goes on", "ends"],
)
def test_kill_9_at_any_step_of_a_sweep_changes_nothing(
    undisturbed: tuple[list[Any], list[Any]], tmp_path: Path, points: Points
) -> None:
    """Killed at one point after the other, a sweep ends as if nothing had happened."""
    made = study(tmp_path)
    for point, passes in points:
        assert killed(made, point, passes), point
    run(made.folder, *SWEEP)
    check(made, undisturbed)


@pytest.mark.parametrize(
    "points",
    [
        TRIAL["goes on"],
        pytest.param(TRIAL["begins"], marks=pytest.mark.nightly),
        pytest.param(END, marks=pytest.mark.nightly),
    ],
    ids=["goes on", "begins", "ends"],
)
def test_kill_9_at_any_step_of_a_sweep_over_postgresql_changes_nothing(
    undisturbed: tuple[list[Any], list[Any]], tmp_path: Path, postgres: Postgres, points: Points
) -> None:
    """The same where Optuna and the locks are in a PostgreSQL."""
    made, url = study(tmp_path), postgres.fresh()
    for point, passes in points:
        assert killed(made, point, passes, CAVE_OPTUNA_URL=url), point
    run(made.folder, *SWEEP, CAVE_OPTUNA_URL=url)
    check(made, undisturbed, url)


@pytest.mark.nightly
@pytest.mark.parametrize("group", [0, *(pytest.param(n, marks=pytest.mark.nightly) for n in (1, 2))])
@pytest.mark.parametrize("over", [None, pytest.param("postgresql", marks=pytest.mark.nightly)])
def test_kill_9_of_workers_side_by_side_changes_nothing(
    undisturbed: tuple[list[Any], list[Any]],
    tmp_path: Path,
    request: pytest.FixtureRequest,
    group: int,
    over: str | None,
) -> None:
    """At each point one of two workers dies and is started again, or the coordinator dies: all is done in the end."""
    points = list(POINTS)[group::3]
    made, url = study(tmp_path), request.getfixturevalue("postgres").fresh() if over else None
    marks = [made.folder / f"mark-{point}" for point in points]
    faults = ";".join(f"{point}:1:{mark}" for point, mark in zip(points, marks, strict=True))
    environment = {"CAVE_WORKERS": "2", VARIABLE: faults} | ({"CAVE_OPTUNA_URL": url} if url else {})
    codes = [-signal.SIGKILL]
    while codes[-1] == -signal.SIGKILL and len(codes) <= len(points) + 1:
        program = Program(made.folder, *SWEEP, **environment)
        codes.append(program.wait())
    assert codes[-1] == 0, program.stdout + program.stderr
    assert all(mark.exists() for mark in marks)
    KILLS.extend(points)
    check(made, undisturbed, url)


@pytest.mark.nightly
def test_kill_9_changes_nothing_of_a_pruned_trial(tmp_path: Path) -> None:
    """Killed between the report that prunes a trial and its end, a sweep prunes it all the same, at that epoch."""
    whole, made = study(tmp_path / "whole", **PRUNED), study(tmp_path / "made", **PRUNED)
    run(whole.folder, *SWEEP)
    expected = numbers(whole)
    optuna = whole.shared_root / "optuna.db"
    pruned = rows(optuna, "select number from trials where state = 'PRUNED'")
    assert pruned
    assert len(pruned) < made.params.sweep.trials
    query = "select count(*) from trial_intermediate_values i join trials t using (trial_id) where t.number <= ?"
    reports = rows(optuna, query, pruned[0][0])[0][0]
    assert killed(made, "state-written", reports)  # of the epoch whose report prunes it
    for point in ("epoch-reported", "rows-sent", "end-sent", "trial-ended"):
        assert killed(made, point, 1), point
    run(made.folder, *SWEEP)
    check(made, expected)


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(12))
def test_kills_at_random_steps_change_nothing(
    undisturbed: tuple[list[Any], list[Any]], tmp_path: Path, seed: int
) -> None:
    """Killed again and again at steps drawn at random, a sweep gets to its end, and that is the undisturbed one's."""
    made, draws = study(tmp_path), random.Random(seed)
    for _ in range(6):
        if not killed(made, ANY, draws.randint(8, 60)):
            break
    run(made.folder, *SWEEP)
    check(made, undisturbed)


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(12 if NIGHTLY else 1))
def test_kills_at_random_moments_change_nothing(
    undisturbed: tuple[list[Any], list[Any]], tmp_path: Path, seed: int
) -> None:
    """Killed wherever it was, within a step or between two, a sweep gets to its end, and that is the undisturbed one's.

    A trial that three workers in a row have left without an epoch is given up: then it has no numbers to compare.
    """
    made, draws = study(tmp_path), random.Random(seed)
    for _ in range(3):
        seconds = draws.uniform(0.05, 1.5)
        program = Program(made.folder, *SWEEP)
        with suppress(AssertionError):
            program.wait(seconds)
        program.kill()
        code = program.wait()
        assert code in (0, -signal.SIGKILL)
        KILLS.extend(["at random"] * (code != 0))
    run(made.folder, *SWEEP)
    given_up = rows(made.shared_root / "optuna.db", "select count(*) from trials where state = 'FAIL'") != [(0,)]
    if given_up:
        check_sweep(made, VARIANT, TRIALS)
    else:
        check(made, undisturbed)


def trained(made: Study) -> tuple[str, list[Any]]:
    """Return the digest of a final training's weights, and every row of its run."""
    digest = "select value from tags where key = 'cave.weights_digest'"
    measured = "'training/seconds', 'training/images_per_second', 'training/peak_memory'"
    logged = f"select key, step, value from metrics where key not in ({measured}) order by key, step"
    assert rows(made.shared_root / "mlflow.db", "select status from runs where lifecycle_stage = 'active'") == [
        ("FINISHED",)
    ]
    return rows(made.shared_root / "mlflow.db", digest)[0][0], rows(made.shared_root / "mlflow.db", logged)


def test_kill_9_at_any_step_of_a_training_changes_nothing(tmp_path: Path) -> None:
    """Killed at every point that it comes by, one after the other, a final training has the same curve and weights."""
    whole, made = study(tmp_path / "whole"), study(tmp_path / "made")
    run(whole.folder, *TRAIN)
    points = [("run-opened", 1), ("run-created", 1), ("state-written", 1), ("line-appended", 2), ("rows-sent", 1)]
    points += [("line-appended", 3), ("end-sent", 1), ("line-appended", 2), ("line-appended", 3), ("line-appended", 4)]
    for number, (point, passes) in enumerate(points):
        mark = made.folder / f"mark-{number}"
        code = Program(made.folder, *TRAIN, **{VARIABLE: f"{point}:{passes}:{mark}"}).wait()
        assert (code, mark.exists()) == (-signal.SIGKILL, True), (number, point)
        KILLS.append(point)
    run(made.folder, *TRAIN)
    assert trained(made) == trained(whole)


@pytest.mark.nightly
def test_more_than_100_kills_were_survived() -> None:
    """All tests above together have killed a process more than 100 times, at every one of the points."""
    print(f"{len(KILLS)} kills")
    assert len(KILLS) > 100
    assert set(KILLS) >= set(POINTS)
