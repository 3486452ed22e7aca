"""A sweep loses no finished trial and runs none twice, whatever stops it."""

from __future__ import annotations

import csv
import errno
import itertools
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from optuna.exceptions import DuplicatedStudyError, StorageInternalError
from optuna.storages import RDBStorage
from optuna.study import StudyDirection

import pipeline.sweep.worker
from pipeline.errors import InputError, RunError
from pipeline.files import read_json
from pipeline.jobs.final_models import settings
from pipeline.params import SweepParams
from pipeline.stages import fetch, prepare
from pipeline.study import Study
from pipeline.sweep import PRUNERS, SAMPLERS, Sweep, outputs, run
from pipeline.sweep.claims import MAX_ATTEMPTS
from pipeline.sweep.compat import set_internal
from pipeline.sweep.coordinator import _clear, _parent
from pipeline.sweep.database import Database
from pipeline.sweep.worker import work
from pipeline.training import NonFiniteError, Record, fit
from tests.workshop import check_sweep, make_study, rows, trial_of
from tests.zygote import Program
from tests.zygote import run as run_program

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_figures")]
DRAW = outputs._figures


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """Return a small study with its data prepared."""
    monkeypatch.setenv("CAVE_THREADS", "1")
    made = make_study(tmp_path)
    fetch.run(made)
    prepare.run(made)
    return made


def again(study: Study, **overrides: Any) -> Study:
    """Return the same study with other settings."""
    make_study(study.folder, **overrides)
    return Study.at(study.folder)


def trials(study: Study, variant: str = "mhvae") -> list[dict[str, str]]:
    with (study.sweep(variant) / "trials.csv").open() as file:
        return list(csv.DictReader(file))


def test_the_registries_are_the_choices() -> None:
    """Samplers and pruners are those that params.yaml may name."""
    assert set(SAMPLERS) == set(get_args(SweepParams.model_fields["sampler"].annotation))
    assert set(PRUNERS) == set(get_args(SweepParams.model_fields["pruner"].annotation))


def test_a_sweep_finishes_its_trials_and_writes_them_down(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every trial is in the table with its run, the best of them in best.json, and each promise holds."""
    monkeypatch.setattr(outputs, "_figures", DRAW)
    (best,) = run(Sweep(study, "mhvae"), 1)
    check_sweep(study, "mhvae", 4)
    table = trials(study)
    top = max(table, key=lambda row: float(row["value"]))
    assert {"searches": [best]} == read_json(study.sweep("mhvae") / "best.json")
    assert best["trial"] == int(top["number"])
    assert {str(value) for value in best["params"].values()} <= set(top.values())
    assert len({row["run_id"] for row in table}) == 4
    pictures = {path.name for path in (study.sweep("mhvae") / "figures").iterdir()}
    assert {"history.png", "parallel_coordinate.png", "slice.png", "depth_width.png"} <= pictures


def test_a_process_that_ends_takes_nothing_from_the_one_that_writes(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one process writes the results, another that has shared the sweep tidies up: all results are there."""
    monkeypatch.setattr(outputs, "_figures", lambda outcome: _clear(outcome.sweep) or [])
    run(Sweep(study, "mhvae"), 1)
    check_sweep(study, "mhvae", 4)
    (uri,) = rows(study.shared_root / "mlflow.db", "select artifact_uri from runs where name = 'sweep mhvae'")[0]
    assert {"trials.csv", "best.json"} <= {path.name for path in Path(uri.removeprefix("file://")).iterdir()}


def test_the_table_holds_rate_and_distortion_of_each_trial(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of its best epoch, as of its value: the bound is their difference; a pruned trial has them, a failed one not."""

    def failing(*args: Any, **kwargs: Any) -> Iterator[Record]:
        for record in fit(*args, **kwargs):
            if trial_of(kwargs["folder"]) == 2:
                raise NonFiniteError("not finite")
            yield record

    monkeypatch.setattr(pipeline.sweep.worker, "fit", failing)
    monkeypatch.setattr("optuna.trial.Trial.should_prune", lambda trial: trial.number == 1)
    run(Sweep(study, "mhvae"), 1)
    table = trials(study)
    assert {row["state"] for row in table[:3]} == {"COMPLETE", "PRUNED", "FAIL"}
    states = "select r.status, t.value from runs r join tags t using (run_uuid) where t.key = 'state' and r.name = ?"
    actual = [rows(study.shared_root / "mlflow.db", states, f"mhvae trial {number}") for number in range(3)]
    assert actual == [[("FINISHED", "complete")], [("KILLED", "pruned")], [("FAILED", "failed")]]
    assert {table[2][key] for key in ("valid/kl", "valid/reconstruction")} == {""}
    for row in (row for row in table if row["state"] != "FAIL"):
        assert float(row["valid/reconstruction"]) - float(row["valid/kl"]) == pytest.approx(float(row["value"]))


def test_a_finished_sweep_has_nothing_left_to_do(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run again, a sweep trains nothing, gives the same best trial and starts no run.

    Where Optuna has the id of a run that is gone, and MLflow is away at the start, the files have the present id.
    """
    first = run(Sweep(study, "mhvae"), 1)
    runs = rows(study.shared_root / "mlflow.db", "select run_uuid from runs")
    assert run(Sweep(study, "mhvae"), 1) == first
    assert rows(study.shared_root / "mlflow.db", "select run_uuid from runs") == runs
    entries = read_json(study.sweep("mhvae") / "mlflow.json")
    set_internal(Sweep(study, "mhvae").optuna, "mlflow_run_id", "gone")
    answers = iter([False])
    monkeypatch.setattr("pipeline.tracking.server.Server.can_send", lambda self, forced=False: next(answers, True))
    run(Sweep(study, "mhvae"), 1)
    assert read_json(study.sweep("mhvae") / "mlflow.json") == entries


def test_more_trials_extend_a_study_and_any_other_change_starts_a_new_one(study: Study) -> None:
    """The name in Optuna depends on all that a trial's number depends on, and not on how many there are."""
    name = Sweep(study, "mhvae").name
    assert Sweep(again(study, **{"sweep.trials": 9, "sweep.max_failures": 1}), "mhvae").name == name
    for change in (
        {"train.learning_rate": 0.01},
        {"sweep.epochs": 4},
        {"sweep.seed": 1},
        {"sweep.space": {"model.z_dim": {"low": 2, "high": 16}}},
        {"model.activation": "relu"},
    ):
        assert Sweep(again(study, **change), "mhvae").name != name
    run(Sweep(again(study, **{"sweep.trials": 2}), "mhvae"), 1)
    before = [row["value"] for row in trials(study)]
    run(Sweep(again(study, **{"sweep.trials": 3}), "mhvae"), 1)
    assert [row["value"] for row in trials(study)][:2] == before
    check_sweep(study, "mhvae", 3)
    check_parent(study)


def check_parent(study: Study) -> None:
    """Assert that the sweep's run has a point a trial, once, the best so far, and the best settings as parameters."""
    database, parent = study.shared_root / "mlflow.db", "join runs using (run_uuid) where name = 'sweep mhvae'"
    values = [float(row["value"]) for row in trials(study)]
    history = f"select step, value from metrics {parent} and key = ? order by step"
    assert rows(database, history, "search/value") == list(enumerate(values))
    assert rows(database, history, "search/best") == list(enumerate(itertools.accumulate(values, max)))
    params = dict(rows(database, f"select key, value from params {parent}"))
    outdated = rows(database, f"select value from tags {parent} and key = 'params_outdated'")
    best = read_json(study.sweep("mhvae") / "best.json")["searches"][0]["params"]
    assert ({key: str(value) for key, value in best.items()}.items() <= params.items()) != (outdated == [("true",)])


@pytest.mark.slow
def test_the_numbers_depend_on_the_seed_alone(tmp_path: Path, study: Study) -> None:
    """Two sweeps of one seed in two places, one worker each, give the same trials."""
    other = make_study(tmp_path / "other")
    fetch.run(other)
    prepare.run(other)
    run(Sweep(study, "mhvae"), 1)
    run(Sweep(other, "mhvae"), 1)
    volatile = ("run_id", "seconds")
    first, second = ([{k: v for k, v in row.items() if k not in volatile} for row in trials(s)] for s in (study, other))
    assert first == second


def test_what_a_variant_fixes_is_not_swept(study: Study) -> None:
    """A vae's depth and ratio are no part of its space, and every one of its trials has one level."""
    run(Sweep(again(study, **{"sweep.trials": 2}), "vae"), 1)
    assert "model.depth" not in trials(study, "vae")[0]
    depths = rows(
        study.shared_root / "mlflow.db",
        "select d.value from tags d join tags s on s.run_uuid = d.run_uuid and s.key = 'stage' and s.value = 'trial'"
        " where d.key = 'depth'",
    )
    assert depths == [("1",), ("1",)]


def test_ctrl_c_in_a_trial_loses_nothing(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial stopped in its second epoch is continued under its number, in its run, with the same curve."""

    def stopped(*args: Any, **kwargs: Any) -> Iterator[Record]:
        for record in fit(*args, **kwargs):
            yield record
            if trial_of(kwargs["folder"]) == 1 and record.epoch == 2:
                raise KeyboardInterrupt

    monkeypatch.setattr(pipeline.sweep.worker, "fit", stopped)
    with pytest.raises(KeyboardInterrupt):
        run(Sweep(study, "mhvae"), 1)
    killed = rows(study.shared_root / "mlflow.db", "select run_uuid from runs where status = 'KILLED'")
    finished = rows(study.shared_root / "optuna.db", "select trial_id from trials where state = 'COMPLETE'")
    assert len(finished) == 1
    monkeypatch.setattr(pipeline.sweep.worker, "fit", fit)
    run(Sweep(study, "mhvae"), 1)
    check_sweep(study, "mhvae", 4)
    assert (trials(study)[1]["run_id"],) in killed
    assert trials(study)[1]["epochs"] == "3"


def test_a_failed_trial_is_told_with_its_reason_and_the_sweep_goes_on(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bound that breaks fails its own trial in Optuna and MLflow; the others are run."""

    def broken(*args: Any, **kwargs: Any) -> Iterator[Record]:
        if trial_of(kwargs["folder"]) == 1:
            raise NonFiniteError("epoch 1, step 3: train/rate/z2 is nan")
        yield from fit(*args, **kwargs)

    monkeypatch.setattr(pipeline.sweep.worker, "fit", broken)
    run(Sweep(study, "mhvae"), 1)
    check_sweep(study, "mhvae", 4)
    assert [row["state"] for row in trials(study)] == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    assert trials(study)[1]["reason"] == "epoch 1, step 3: train/rate/z2 is nan"


def test_a_trial_without_memory_fails_alone(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial that asks for more than there is fails with the allocator's words in both stores; the others are run."""

    def greedy(*args: Any, **kwargs: Any) -> Iterator[Record]:
        for record in fit(*args, **kwargs):
            if trial_of(kwargs["folder"]) == 1 and record.epoch == 2:
                torch.empty(2**50)
            yield record

    monkeypatch.setattr(pipeline.sweep.worker, "fit", greedy)
    run(Sweep(study, "mhvae"), 1)
    check_sweep(study, "mhvae", 4)
    assert [row["state"] for row in trials(study)] == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    assert "can't allocate memory" in trials(study)[1]["reason"]
    query = "select r.status, t.value from runs r join tags t using (run_uuid) where t.key = 'reason'"
    assert rows(study.shared_root / "mlflow.db", query) == [("FAILED", trials(study)[1]["reason"])]


@pytest.mark.nightly
@pytest.mark.parametrize(
    "fault",
    [pytest.param(InputError("the disk is full"), marks=pytest.mark.nightly), KeyboardInterrupt()],
    ids=["disk", "Ctrl-C"],
)
def test_what_stops_a_trial_before_its_run_is_begun_takes_no_life(
    study: Study, monkeypatch: pytest.MonkeyPatch, fault: BaseException
) -> None:
    """Stopped three times while its run is begun, by whatever is no fault of its own, a trial is run all the same."""

    def stopped(*_: Any, **__: Any) -> Any:
        raise fault

    with monkeypatch.context() as stopping:
        stopping.setattr(pipeline.sweep.worker, "_open", stopped)
        for _ in range(MAX_ATTEMPTS):
            with pytest.raises(type(fault)):
                run(Sweep(study, "mhvae"), 1)
    run(Sweep(study, "mhvae"), 1)
    check_sweep(study, "mhvae", 4)
    assert {row["state"] for row in trials(study)} == {"COMPLETE"}


def test_a_trial_that_kills_its_workers_is_given_up(study: Study) -> None:
    """A trial of which three workers have died without an epoch, for want of memory, say, fails with that reason."""
    sweep = Sweep(study, "mhvae")
    trial = sweep.optuna.ask()
    trial.set_user_attr("attempts", MAX_ATTEMPTS)
    trial.set_user_attr("worker", "that has died")
    run(Sweep(study, "mhvae"), 1)
    check_sweep(study, "mhvae", 4)
    assert [row["state"] for row in trials(study)] == ["FAIL", "COMPLETE", "COMPLETE", "COMPLETE"]
    assert trials(study)[0]["reason"] == "killed 3 workers without finishing an epoch"


def wrapped(cause: Exception) -> Exception:
    """Return an error as MLflow raises it for one of a database."""
    from mlflow.exceptions import MlflowException

    error = MlflowException(str(cause))
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "fault",
    [
        OSError(errno.ENOSPC, "No space left on device", "/somewhere"),
        wrapped(sqlite3.OperationalError("database or disk is full")),
        *(
            pytest.param(fault, marks=pytest.mark.nightly)
            for fault in (
                OSError(errno.EROFS, "Read-only file system", "/somewhere"),
                sqlite3.OperationalError("unable to open database file"),
                wrapped(sqlite3.DatabaseError("database disk image is malformed")),
            )
        ),
    ],
    ids=str,
)
def test_what_is_wrong_with_the_disk_fails_no_trial(
    study: Study, fault: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever brings it up, the sweep ends in one line; the trial waits, as after Ctrl-C, and goes on."""

    def full(*args: Any, **kwargs: Any) -> Iterator[Record]:
        if trial_of(kwargs["folder"]) == 1:
            raise fault
        yield from fit(*args, **kwargs)

    monkeypatch.setattr(pipeline.sweep.worker, "fit", full)
    with pytest.raises(InputError, match=r"trial 1: .* cannot be used: .*; `cave doctor` shows how to fix it"):
        run(Sweep(study, "mhvae"), 1)
    states = rows(study.shared_root / "optuna.db", "select number, state from trials order by number")
    assert states == [(0, "COMPLETE"), (1, "RUNNING")]
    attempts = "trial_system_attributes join trials using (trial_id) where key = 'cave:attempts'"
    begun = f"select number, value_json from {attempts}"
    assert dict(rows(study.shared_root / "optuna.db", begun))[1] == "0"
    killed = rows(study.shared_root / "mlflow.db", "select name from runs where status = 'KILLED'")
    assert killed == [("mhvae trial 1",)]
    monkeypatch.setattr(pipeline.sweep.worker, "fit", fit)
    run(Sweep(study, "mhvae"), 1)
    check_sweep(study, "mhvae", 4)
    assert {row["state"] for row in trials(study)} == {"COMPLETE"}


def test_a_database_that_fails_in_a_trial_fails_no_trial(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite that takes no report ends the sweep in one line; the trial has lost no life by it, and goes on."""
    real, done = RDBStorage.set_trial_intermediate_value, list[bool]()

    def failing(self: RDBStorage, trial_id: int, step: int, value: float) -> None:
        if step == 1 and not done:
            done.append(True)
            raise StorageInternalError from sqlite3.OperationalError("disk I/O error")
        real(self, trial_id, step, value)

    monkeypatch.setattr(RDBStorage, "set_trial_intermediate_value", failing)
    with pytest.raises(InputError, match=r"Optuna at sqlite:///.*optuna.db: disk I/O error"):
        run(Sweep(study, "mhvae"), 1)
    assert rows(study.shared_root / "optuna.db", "select state from trials") == [("RUNNING",)]
    assert rows(
        study.shared_root / "optuna.db", "select value_json from trial_system_attributes where key = 'cave:attempts'"
    ) == [("0",)]
    assert rows(study.shared_root / "mlflow.db", "select count(*) from runs where status = 'RUNNING'") == [(0,)]
    run(Sweep(study, "mhvae"), 1)
    check_sweep(study, "mhvae", 4)


@pytest.mark.nightly
def test_a_disk_that_fills_in_a_sweep_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a real disk that is full, both databases on it, the stage says one line; with room again it finishes."""
    words = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(tmp_path)]
    if os.geteuid() != 0 or subprocess.run(words, capture_output=True).returncode != 0:
        pytest.skip("mounting a disk needs root")
    try:
        study = make_study(tmp_path / "work")
        fetch.run(study)
        prepare.run(study)
        code = (
            "import itertools, sys; from pathlib import Path; import pipeline.sweep.worker as worker\n"
            "from pipeline.processes.entry import run_main; from pipeline.stages import sweep\n"
            "from pipeline.study import Study\n"
            "from pipeline.training import fit\n"
            "from tests.workshop import trial_of\n"
            "def full(*args, **kwargs):\n"
            "    for record in fit(*args, **kwargs):\n"
            "        if trial_of(kwargs['folder']) == 1 and record.epoch == 2:\n"
            "            for size in (2**20, 2**12, 1):\n"
            "                with open(sys.argv[1], 'ab', buffering=0) as file:\n"
            "                    try:\n"
            "                        while file.write(bytes(size)) == size: pass\n"
            "                    except OSError: pass\n"
            "        yield record\n"
            "worker.fit = full\n"
            "run_main(lambda: sweep.run(Study.at(Path.cwd()), 'mhvae'))\n"
        )
        own = {"PYTHONPATH": str(Path(pipeline.sweep.__file__).parents[2]), "CAVE_WORKERS": "1", "CAVE_THREADS": "1"}
        filler = tmp_path / "filler"
        done = subprocess.run(
            [sys.executable, "-c", code, str(filler)],
            cwd=study.folder,
            env=os.environ | own,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 2, done.stderr
        assert "Traceback" not in done.stderr
        errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1
        assert set(done.stderr.splitlines()) - set(errors) <= {
            line for line in done.stderr.splitlines() if line.startswith("MLflow at ")
        }
        filler.unlink()
        assert rows(study.shared_root / "optuna.db", "select count(*) from trials where state = 'FAIL'") == [(0,)]
        monkeypatch.setenv("CAVE_THREADS", "1")
        run(Sweep(study, "mhvae"), 1)
        check_sweep(study, "mhvae", 4)
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)


def test_what_optuna_is_told_together_is_there_whole_or_not_at_all(study: Study) -> None:
    """An error in the middle of a transaction leaves no trial; without one, trial and attributes are there at once."""
    sweep, database = Sweep(study, "mhvae"), study.shared_root / "optuna.db"
    counts = "select (select count(*) from trials), (select count(*) from trial_user_attributes)"
    with pytest.raises(ValueError, match="in the middle"), sweep.transaction():  # noqa: PT012
        sweep.optuna.ask().set_user_attr("worker", "nobody")
        raise ValueError("in the middle")
    assert rows(database, counts) == [(0, 0)]
    with sweep.transaction():
        trial = sweep.optuna.ask()
        trial.set_user_attr("worker", "somebody")
        assert rows(database, counts) == [(0, 0)]
    assert rows(database, counts) == [(1, 1)]
    assert [trial.number for trial in sweep.trials()] == [0]


def test_nothing_of_a_transaction_stands_that_was_refused_in_part(study: Study) -> None:
    """Where Optuna swallows an insert that is refused, neither what came before it nor what comes after is there."""
    storage, direction = Database.of(study).storage(), [StudyDirection.MAXIMIZE]
    one = storage.create_new_study(direction, "one")
    for after in (["other"], []):
        with pytest.raises(StorageInternalError), storage.transaction():  # noqa: PT012
            storage.create_new_trial(one)
            with suppress(DuplicatedStudyError):
                storage.create_new_study(direction, "one")
            for name in after:
                storage.create_new_study(direction, name)
        counts = "select (select count(*) from trials), (select count(*) from studies)"
        assert rows(study.shared_root / "optuna.db", counts) == [(0, 1)]


def test_the_first_epoch_is_reported_at_once_and_all_by_the_end(study: Study) -> None:
    """The first epoch, which shows that a trial kills nobody, is reported at once; those soon after it by the end."""
    sweep, seen = Sweep(again(study, **{"sweep.epochs": 4, "sweep.trials": 1, "sweep.pruner": "none"}), "mhvae"), []
    sweep.tracker.require()
    _parent(sweep).finish(None)
    query = "select count(*), (select value_json from trial_system_attributes where key = 'cave:attempts')"
    work(
        sweep, lambda: seen.append(rows(study.shared_root / "optuna.db", f"{query} from trial_intermediate_values")[0])
    )
    assert seen[0] == (1, "0")
    assert seen[-1] == (4, "0")


def test_too_many_failures_end_a_sweep(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """With no failure allowed, the second trial is not begun after the first has failed."""

    def broken(*args: Any, **kwargs: Any) -> Iterator[Record]:
        raise NonFiniteError("epoch 1, step 0: train/reconstruction is nan")
        yield

    monkeypatch.setattr(pipeline.sweep.worker, "fit", broken)
    with pytest.raises(RunError, match=r"1 trial failed \(sweep.max_failures is 0\)"):
        run(Sweep(again(study, **{"sweep.max_failures": 0}), "mhvae"), 1)
    assert rows(study.shared_root / "optuna.db", "select state from trials") == [("FAIL",)]


def test_a_lost_state_starts_a_trial_anew_in_the_same_run(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the cache deleted after Ctrl-C, the trial starts again and goes on in its run: no step is doubled."""

    def stopped(*args: Any, **kwargs: Any) -> Iterator[Record]:
        for record in fit(*args, **kwargs):
            yield record
            raise KeyboardInterrupt

    monkeypatch.setattr(pipeline.sweep.worker, "fit", stopped)
    with pytest.raises(KeyboardInterrupt):
        run(Sweep(study, "mhvae"), 1)
    shutil.rmtree(study.cache)
    killed = rows(study.shared_root / "mlflow.db", "select run_uuid from runs order by start_time")
    monkeypatch.setattr(pipeline.sweep.worker, "fit", fit)
    run(Sweep(study, "mhvae"), 1)
    check_sweep(study, "mhvae", 4)
    assert rows(study.shared_root / "mlflow.db", "select run_uuid from runs order by start_time")[:2] == killed


@pytest.mark.nightly
def test_a_new_database_starts_new_runs(study: Study) -> None:
    """With optuna.db deleted, the sweep starts over in runs of its own; the finished old ones stay as they were."""
    (first,) = run(Sweep(study, "mhvae"), 1)
    before = rows(study.shared_root / "mlflow.db", "select run_uuid, end_time from runs order by run_uuid")
    (study.shared_root / "optuna.db").unlink()
    assert run(Sweep(study, "mhvae"), 1)[0]["params"] == first["params"]
    after = rows(study.shared_root / "mlflow.db", "select run_uuid, end_time from runs order by run_uuid")
    assert len(after) == 2 * len(before)
    assert set(before) <= set(after)


def test_a_database_that_cannot_be_used_gets_one_line(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong CAVE_OPTUNA_URL is an `InputError` without its password."""
    monkeypatch.setenv("CAVE_OPTUNA_URL", "nonsense://me:secret@nowhere/db")
    with pytest.raises(InputError, match=r"CAVE_OPTUNA_URL: 'nonsense://nowhere/db' given; allowed: sqlite") as caught:
        run(Sweep(study, "mhvae"), 1)
    assert "secret" not in str(caught.value)
    assert str(caught.value).endswith("postgresql://HOST/DATABASE")


@pytest.mark.nightly
def test_ctrl_c_on_a_terminal_loses_nothing(study: Study) -> None:
    """SIGINT to the whole process group, as a terminal sends it: every run is ended, and the sweep goes on later."""
    slow = again(study, **{"sweep.epochs": 60})
    words = ("pipeline.stages", "sweep", "mhvae")
    process = Program(slow.folder, *words, CAVE_WORKERS="2")
    query = "select count(*) from trial_intermediate_values"
    while not (slow.shared_root / "optuna.db").exists():
        time.sleep(0.05)
    while not rows(
        slow.shared_root / "optuna.db", "select name from sqlite_master where name = 'trial_intermediate_values'"
    ):
        time.sleep(0.05)
    while rows(slow.shared_root / "optuna.db", query)[0][0] < 5:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, output = process.communicate()
    assert process.returncode == 130
    assert output == "stopped; run the same command to go on\n"
    assert rows(slow.shared_root / "mlflow.db", "select count(*) from runs where status = 'RUNNING'") == [(0,)]
    run_program(slow.folder, *words)
    check_sweep(slow, "mhvae", 4)


@pytest.mark.nightly
@pytest.mark.parametrize("workers", ["1", "2"])
def test_kill_9_of_everything_loses_nothing(study: Study, workers: str) -> None:
    """Killed with all its workers in the middle of a trial, a sweep run again finishes exactly its trials."""
    slow = again(study, **{"sweep.epochs": 40, "data.cave.images": 120})
    words = ("pipeline.stages", "sweep", "mhvae")
    process = Program(slow.folder, *words, CAVE_WORKERS=workers)
    running = "select count(*) from trials where state = 'RUNNING'"
    begun = False
    while not begun:
        time.sleep(0.01)
        with suppress(sqlite3.OperationalError):  # no tables yet
            begun = rows(slow.shared_root / "optuna.db", running) != [(0,)]
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = rows(slow.shared_root / "optuna.db", "select number, state from trials where state = 'COMPLETE'")
    run_program(slow.folder, *words)
    check_sweep(slow, "mhvae", 4)
    assert set(done) <= set(rows(slow.shared_root / "optuna.db", "select number, state from trials"))


def test_an_empty_space_is_not_searched(study: Study) -> None:
    """Where nothing is searched, no trial and no run is made, and the settings are the variant's own."""
    nothing = again(study, **{"sweep.space": {}})
    (best,) = run(Sweep(nothing, "mhvae"), 2)
    assert (best["trial"], best["params"]) == (None, {})
    assert trials(nothing) == []
    assert read_json(nothing.sweep("mhvae") / "best.json") == {"searches": [best]}
    assert rows(nothing.shared_root / "mlflow.db", "select count(*) from runs") == [(0,)]
    assert settings(nothing, "mhvae", 0) == nothing.params.variant("mhvae")


def test_milestones_are_no_setting_of_a_trial(study: Study) -> None:
    """Epochs whose weights are kept change no trial's number: the study is the same, and no trial keeps any."""
    marked = again(study, **{"train.milestones": [1, 2]})
    assert Sweep(marked, "mhvae").name == Sweep(study, "mhvae").name
    trial = Sweep(marked, "mhvae").optuna.ask()
    assert Sweep(marked, "mhvae").settings(trial)[0].train.milestones == ()
