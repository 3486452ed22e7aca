"""Two experiments of one study at once, as `dvc exp run --temp` makes them: each ends well, and they share a search."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.environment import Resources
from pipeline.files import exclusive, file_lock, read_json
from pipeline.jobs import train_seed
from pipeline.log import STATE
from pipeline.params import Params, dump_yaml
from pipeline.run_folders import RunSpec
from pipeline.stages import evaluate, fetch, prepare, train
from pipeline.study import Study
from pipeline.sweep import Sweep, run
from pipeline.sweep.coordinator import _clear, _held
from pipeline.training import fit
from tests.small import ROOT, splits
from tests.workshop import QUICK, check_sweep, make_study, rows
from tests.zygote import Program
from tests.zygote import run as run_program

pytestmark = pytest.mark.slow

VARIANT = "mhvae"
PATIENT = 300.0  # seconds for which a condition is waited for


def until(condition: Callable[[], object]) -> None:
    limit = time.monotonic() + PATIENT
    while not condition():
        assert time.monotonic() < limit, "waited in vain"
        time.sleep(0.05)


@pytest.fixture
def sides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Study, Study]:
    """Return one study in two folders, with common stores."""
    monkeypatch.setenv("CAVE_THREADS", "1")
    monkeypatch.setenv("CAVE_WORKERS", "1")
    make_study(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    return made(tmp_path / "one"), made(tmp_path / "two")


def made(folder: Path, **overrides: Any) -> Study:
    study = make_study(folder, **overrides)
    fetch.run(study)
    prepare.run(study)
    return study


def test_what_a_study_is_told_apart_by_is_where_its_outputs_lie(sides: tuple[Study, Study], tmp_path: Path) -> None:
    """Two folders of a study differ in it, one folder has one, and it moves with its root."""
    one, two = sides
    assert one.name == two.name == "default"
    assert one.unique_name != two.unique_name
    assert {one.unique_name[:8], two.unique_name[:8]} == {"default-"}
    assert Study.at(one.folder).unique_name == one.unique_name
    shutil.copytree(one.folder, tmp_path / "moved" / "one")
    os.environ["DVC_ROOT"] = str(tmp_path / "moved")  # which `monkeypatch` takes back
    assert Study.at(tmp_path / "moved" / "one").unique_name == one.unique_name


def test_an_experiment_trains_and_evaluates_beside_another(sides: tuple[Study, Study]) -> None:
    """While one holds the locks of its folder, the other does the same work, in runs of its own."""
    one, two = sides
    train.run(one, "vae")
    with (
        exclusive(one.locks / "train" / "vae" / "all", "one"),
        exclusive(one.locks / "evaluate" / "vae" / "all", "one"),
    ):
        train.run(two, "vae")
        evaluate.run(two, "vae")
    names = [read_json(study.train("vae") / "seed-0" / "mlflow.json") for study in sides]
    assert names[0]["run"] != names[1]["run"]
    assert names[0]["key"] != names[1]["key"]
    digest = "select value from tags where key = 'cave.weights_digest' and run_uuid = ?"
    digests = [rows(one.shared_root / "mlflow.db", digest, name["run"]) for name in names]
    assert digests[0] == digests[1]
    assert rows(one.shared_root / "mlflow.db", "select distinct status from runs") == [("FINISHED",)]


def test_a_training_that_was_stopped_goes_on_beside_another(
    sides: tuple[Study, Study], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state and the run of one folder are its own: the other's training of the same settings takes neither."""
    one, two = sides

    def stopped(*args: Any, **kwargs: Any) -> Any:
        yield next(fit(*args, **kwargs))
        raise KeyboardInterrupt

    with monkeypatch.context() as stopping:
        stopping.setattr(train_seed, "fit", stopped)
        with pytest.raises(KeyboardInterrupt):
            train.run(one, "vae")
    (remaining,) = rows(one.shared_root / "mlflow.db", "select run_uuid from runs")
    train.run(two, "vae")
    assert rows(one.shared_root / "mlflow.db", "select status from runs where run_uuid = ?", *remaining) == [
        ("KILLED",)
    ]
    train.run(one, "vae")
    assert (read_json(one.train("vae") / "seed-0" / "mlflow.json")["run"],) == remaining


def test_a_second_command_in_one_folder_waits(sides: tuple[Study, Study], capsys: pytest.CaptureFixture[str]) -> None:
    """It says who is at work, and goes on when that has ended."""
    one, _ = sides
    waiting = threading.Thread(target=train.run, args=(one, "vae"))
    with exclusive(one.locks / "train" / "vae" / "all", "one"):
        waiting.start()
        time.sleep(0.5)
        assert waiting.is_alive()
        assert not one.curves("vae").exists()
    waiting.join()
    assert one.curves("vae").exists()
    output = (
        f"vae: training: process {os.getpid()} on {os.uname().nodename} is at work in this folder; waits for its end"
    )
    assert output in capsys.readouterr().out


def test_a_seed_waits_for_a_worker_of_a_killed_stage(
    sides: tuple[Study, Study], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a worker that has outlived its stage still trains a seed, no second one begins it."""
    one, _ = sides
    begun = threading.Event()
    monkeypatch.setattr(train_seed, "_train", lambda *_: begun.set())
    waiting = threading.Thread(target=train_seed.train_seed, args=(one, "vae", 0, Resources.read()))
    with file_lock(one.locks / "train" / "vae" / "0"):
        waiting.start()
        assert not begun.wait(0.5)
    waiting.join()
    assert begun.is_set()


def test_a_second_process_shares_a_sweep(
    sides: tuple[Study, Study], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It runs trials, waits until the coordinator is done, and then writes the same results into its own folder."""
    one, two = sides
    assert Sweep(one, VARIANT).name == Sweep(two, VARIANT).name
    finished = "select count(*) from trials where state = 'COMPLETE'"
    helping = threading.Thread(target=run, args=(Sweep(two, VARIANT), 1))
    with _held(Sweep(one, VARIANT)):
        helping.start()
        until(lambda: rows(one.shared_root / "optuna.db", finished) == [(4,)])
        assert helping.is_alive()
        assert not (two.sweep(VARIANT) / "best.json").exists()
    helping.join()
    check_sweep(two, VARIANT, 4)
    output = capsys.readouterr().out
    assert f"{VARIANT}: {shares(os.getpid())}" in output
    run(Sweep(one, VARIANT), 1)
    same(one, two)
    assert rows(one.shared_root / "mlflow.db", "select distinct status from runs") == [("FINISHED",)]


def shares(pid: int) -> str:
    """Return what a process says that shares the sweep of another."""
    return f"process {pid} on host {os.uname().nodename} works on this sweep already; shares it with 1 worker"


def same(one: Study, two: Study) -> None:
    """Assert that two folders have the same results of a sweep."""
    for name in ("best.json", "trials.csv", "mlflow.json"):
        assert (one.sweep(VARIANT) / name).read_bytes() == (two.sweep(VARIANT) / name).read_bytes()
    assert read_json(one.sweep(VARIANT) / "best.json")["searches"][0]["trial"] is not None


def test_states_of_trials_stay_as_long_as_a_trial_runs(sides: tuple[Study, Study]) -> None:
    """A folder with a trial's state may be of another who shares the sweep: the last one removes it."""
    sweep = Sweep(sides[0], VARIANT)
    trial = sweep.optuna.ask()
    spec = RunSpec(stage="trial", variant=VARIANT, seed=0, params=sides[0].params, rng_seed=0)
    run = sweep.tracker.start(spec, key=f"{sweep.key}/0", name="a", splits=splits(), about="a run")
    (run.folder.path / STATE).touch()
    run.finish()
    _clear(sweep)
    assert run.folder.has_state
    sweep.optuna.tell(trial, 1.0)
    _clear(sweep)
    assert not run.folder.path.exists()


@pytest.mark.nightly
@pytest.mark.parametrize(
    "killed", [pytest.param(False, marks=pytest.mark.nightly), True], ids=["both end", "coordinator is killed"]
)
def test_two_coordinators_of_one_sweep(sides: tuple[Study, Study], killed: bool) -> None:
    """Two stages that are started for the same sweep both end well; of a killed one, the other takes the part."""
    one, two = sides
    stage, database, mark = ["pipeline.stages", "sweep", VARIANT], one.shared_root / "optuna.db", one.folder / "held"
    first = Program(one.folder, *stage, CAVE_FAULT=f"state-written:2:{mark}", CAVE_FAULT_SIGNAL="SIGSTOP")
    until(mark.exists)
    processes = [first, Program(two.folder, *stage)]
    workers = "select count(distinct value_json) from trial_system_attributes where key = 'cave:worker'"
    until(lambda: rows(database, workers) == [(2,)])
    os.killpg(first.pid, signal.SIGKILL if killed else signal.SIGCONT)
    output = ["".join(process.communicate(timeout=PATIENT)) for process in processes]
    assert [process.returncode for process in processes] == [-signal.SIGKILL if killed else 0, 0], output
    assert shares(first.pid) in output[1]
    check_sweep(two, VARIANT, 4)
    if killed:
        assert "Traceback" not in run_program(one.folder, *stage).stderr
    same(one, two)
    assert not list(one.runs.glob("*/"))


@pytest.mark.nightly
def test_two_queued_experiments_run_at_once(tmp_path: Path) -> None:
    """`dvc exp run --queue` twice and `dvc queue start -j 2`: both succeed, with the results that each has alone."""
    text = dump_yaml(Params.read(ROOT / "params.yaml", QUICK | {"variants": {"vae": {"model.depth": 1}}}))
    shutil.copytree(ROOT / "pipeline", tmp_path / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", ".dvcignore", ".gitignore", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / ".dvc").mkdir()
    shutil.copy(ROOT / ".dvc" / "config", tmp_path / ".dvc" / "config")
    (tmp_path / "params.yaml").write_text(text)
    for words in (["init", "-q"], ["add", "-A"], ["-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "all"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)

    def dvc(*words: str) -> str:
        return run_program(tmp_path, "dvc", *words).stdout

    settings = {
        "fewer": ["--set-param", "evaluate.draws=120", "-S", "evaluate.k=[1,5,120]"],
        "more": ["--set-param", "evaluate.draws=60"],
    }
    queued = list(settings)
    try:
        for _ in range(3):
            for name in queued:
                dvc("exp", "run", "--queue", "--force", "--name", name, *settings[name])
            dvc("queue", "start", "--jobs", "2")
            until(lambda: not any(word in dvc("queue", "status") for word in ("Queued", "Running")))
            # DVC 3.67 fails now and then where two experiments store the same stage in its run cache at one moment:
            # one removes the other's temporary file. Nothing else may fail, and the same command goes on.
            finished = {line.split()[1] for line in dvc("queue", "status").splitlines() if line.endswith("Success")}
            queued = [name for name in settings if name not in finished]
            for name in queued:
                log = dvc("queue", "logs", name)
                assert re.search(r"No such file or directory: '[^']*\.dvc/cache/runs/", log), log
            dvc("queue", "remove", "--failed")
            if not queued:
                break
        assert not queued
    finally:
        dvc("queue", "stop", "--kill")
    assert rows(tmp_path / "mlflow.db", "select distinct status from runs") == [("FINISHED",)]
    stages = dict(rows(tmp_path / "mlflow.db", "select value, count(*) from tags where key = 'stage' group by value"))
    assert stages == {"sweep": 1, "trial": 4, "train": 4}
    study = Study.at(tmp_path)
    check_sweep(study, "vae", 4)
    dvc("exp", "apply", "more")
    first = study.metrics("vae").read_bytes()
    dvc("exp", "apply", "fewer")
    second = study.metrics("vae").read_bytes()
    dvc("exp", "run", "-S", "evaluate.draws=60", "-S", "evaluate.k=[1,5,60]")
    assert study.metrics("vae").read_bytes() == first != second
