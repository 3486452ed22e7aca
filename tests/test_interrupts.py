"""Whatever stops a stage, and however often, the same command goes on, to the same numbers."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline import faults
from pipeline.files import read_csv
from pipeline.processes import signals
from pipeline.stages import fetch, prepare
from pipeline.study import Study
from pipeline.tracking.artifacts import relocate
from tests.small import ROOT
from tests.workshop import check_sweep, make_study, rows
from tests.zygote import ENVIRONMENT, Program

pytestmark = pytest.mark.slow

LONG: dict[str, Any] = {"train.epochs": 40}
STOPPED = "stopped; run the same command to go on\n"
AT_ONCE = "stopped at once; run the same command to go on\n"
TRAIN = ["pipeline.stages", "train", "mhvae"]
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}


def until(condition: Callable[[], object], limit: float = 120) -> None:
    """Wait for a condition; the limit only ends what would hang."""
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def start(folder: Path, *words: str, workers: int = 1, **variables: str) -> Program:
    return Program(folder, *words, CAVE_WORKERS=str(workers), **variables)


def ended(process: Program | subprocess.Popen[str]) -> tuple[int | None, str]:
    """Return the exit code, and what was written to stderr."""
    _, stderr = process.communicate(timeout=300)
    return process.returncode, stderr


def holds(folder: Path, point: str, passes: int, count: int = 1) -> dict[str, str]:
    """Return the variables by which `count` processes each stand still at their n-th pass of a point."""
    marks = ";".join(f"{point}:{passes}:{folder / f'held-{n}'}" for n in range(count))
    return {faults.VARIABLE: marks, faults.SIGNAL: "SIGSTOP"}


def held(process: Program | subprocess.Popen[str], count: int = 1) -> list[psutil.Process]:
    """Wait until so many of a process and those below it stand still, and return them."""
    root, stopped = psutil.Process(process.pid), list[psutil.Process]()

    def still() -> bool:
        assert process.poll() is None, process.communicate()
        stopped.clear()
        for one in (root, *root.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                if one.status() == psutil.STATUS_STOPPED:
                    stopped.append(one)
        return len(stopped) == count

    until(still)
    return stopped


def asked(processes: list[psutil.Process]) -> None:
    """Let processes that stand still go on once each has been sent a signal."""
    pending = [Path(f"/proc/{one.pid}/status") for one in processes]
    until(lambda: all(re.search(r"^(Shd|Sig)Pnd:.*[1-9a-f]", path.read_text(), re.MULTILINE) for path in pending))
    for one in processes:
        one.resume()


def running(folder: Path) -> int:
    return int(rows(folder / "mlflow.db", "select count(*) from runs where status = 'RUNNING'")[0][0])


def results(study: Study) -> list[Any]:
    """Return every seed's weights, and its curve without the times."""
    values: list[Any] = []
    for seed in study.params.train.seeds:
        folder = study.train("mhvae") / f"seed-{seed}"
        curve = read_csv(folder / "curves.csv")
        assert [row["epoch"] for row in curve] == [str(epoch + 1) for epoch in range(study.params.train.epochs)]
        rest = [{name: value for name, value in row.items() if name not in ("seconds", "timestamp")} for row in curve]
        values += [(folder / "model.safetensors").read_bytes(), rest]
    return values


def prepared(folder: Path, **overrides: Any) -> Study:
    study = make_study(folder, **overrides)
    fetch.run(study)
    prepare.run(study)
    return study


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Return a study whose final models were trained and evaluated without a stop."""
    study = prepared(tmp_path_factory.mktemp("whole"), **LONG)
    for stage in ("train", "evaluate"):
        assert ended(start(study.folder, "pipeline.stages", stage, "mhvae")) == (0, "")
    return study


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return prepared(tmp_path, **LONG)


def goes_on(study: Study, whole: Study, workers: int = 1) -> None:
    """Assert that the same command ends well, with an uninterrupted run's curves and weights, in one run a seed."""
    assert ended(start(study.folder, *TRAIN, workers=workers)) == (0, "")
    assert results(study) == results(whole)
    runs = rows(study.shared_root / "mlflow.db", "select status from runs where lifecycle_stage = 'active'")
    assert runs == [("FINISHED",)] * 2


@pytest.mark.parametrize(
    ("number", "workers"),
    [
        (signal.SIGINT, 1),
        pytest.param(signal.SIGINT, 2, marks=pytest.mark.nightly),
        pytest.param(signal.SIGTERM, 1, marks=pytest.mark.nightly),
        pytest.param(signal.SIGTERM, 2, marks=pytest.mark.nightly),
        pytest.param(signal.SIGHUP, 1, marks=pytest.mark.nightly),
    ],
)
def test_a_stopped_training_goes_on(study: Study, whole: Study, number: signal.Signals, workers: int) -> None:
    """Each signal ends it with its own code, one line and no run left open; the rest is as if nothing had been."""
    process = start(study.folder, *TRAIN, workers=workers, **holds(study.folder, "line-appended", 3, workers))
    at_work = held(process, workers)
    os.kill(process.pid, number)
    asked(at_work)
    assert ended(process) == (CODES[number], STOPPED)
    assert running(study.folder) == 0
    assert not (study.train("mhvae") / "seed-1").exists()
    goes_on(study, whole, workers)


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.nightly)])
def test_a_stopped_evaluation_goes_on(tmp_path: Path, whole: Study, number: signal.Signals) -> None:
    """Stopped between two seeds, it measures the same when it is called again."""
    shutil.copytree(whole.folder, tmp_path / "copy")
    study = Study.at(tmp_path / "copy")
    relocate(study.shared_root)
    shutil.rmtree(study.evaluate("mhvae"))
    words = ["pipeline.stages", "evaluate", "mhvae"]
    process = start(study.folder, *words)
    until((study.evaluate("mhvae") / "seed-0.json").exists)
    os.kill(process.pid, number)
    assert ended(process) == (CODES[number], STOPPED)
    assert running(study.folder) == 0
    assert ended(start(study.folder, *words)) == (0, "")
    for name in ("seed-0.json", "seed-1.json", "decomposition.json"):
        assert (study.evaluate("mhvae") / name).read_bytes() == (whole.evaluate("mhvae") / name).read_bytes()


@pytest.mark.nightly
@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.nightly), 2])
def test_sigterm_ends_a_sweep_as_ctrl_c_does(tmp_path: Path, workers: int) -> None:
    """It says how to go on, closes every run, and goes on to exactly its trials."""
    study, words = prepared(tmp_path), ["pipeline.stages", "sweep", "mhvae"]
    process = start(study.folder, *words, workers=workers, **holds(study.folder, "epoch-reported", 2, workers))
    at_work = held(process, workers)
    os.kill(process.pid, signal.SIGTERM)
    asked(at_work)
    assert ended(process) == (143, STOPPED)
    assert running(study.folder) == 0
    assert ended(start(study.folder, *words, workers=workers)) == (0, "")
    check_sweep(study, "mhvae", 4)


@pytest.mark.nightly
@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.nightly)])
def test_a_stopped_command_goes_on(tmp_path: Path, whole: Study, number: signal.Signals) -> None:
    """`cave train` too, from fetching to evaluating."""
    make_study(tmp_path, **LONG)
    (tmp_path / "pyproject.toml").touch()
    words = ["pipeline", "train", "--variant", "mhvae", "--study", "stopped"]
    process = start(tmp_path, *words, **holds(tmp_path, "line-appended", 3))
    at_work = held(process)
    os.kill(process.pid, number)
    asked(at_work)
    assert ended(process) == (CODES[number], STOPPED)
    assert running(tmp_path) == 0
    assert ended(start(tmp_path, *words)) == (0, "")
    assert results(Study.at(tmp_path / "experiments" / "stopped")) == results(whole)


@pytest.mark.nightly
def test_a_killed_worker_is_started_again_and_goes_on(study: Study, whole: Study) -> None:
    """After kill -9 of one of two workers, the stage still ends with the same curves and weights."""
    process = start(study.folder, *TRAIN, workers=2, **holds(study.folder, "line-appended", 3, 2))
    first, second = held(process, 2)
    first.kill()
    second.resume()
    assert ended(process) == (0, "")
    assert results(study) == results(whole)


@pytest.mark.nightly
@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_stage_goes_on(study: Study, whole: Study, workers: int) -> None:
    """After kill -9 of the stage its workers end too, and the next call goes on in the runs that were left open."""
    process = start(study.folder, *TRAIN, workers=workers, **holds(study.folder, "line-appended", 3, workers))
    held(process, workers)
    workers_before = psutil.Process(process.pid).children()
    assert len(workers_before) == (workers if workers > 1 else 0)
    process.kill()
    assert ended(process) == (-signal.SIGKILL, "")
    goes_on(study, whole, workers)
    assert not any(worker.is_running() for worker in workers_before)


@pytest.mark.nightly
def test_a_stage_ends_with_its_dvc(study: Study, whole: Study) -> None:
    """SIGTERM to `dvc repro` alone reaches the stage; a second stage waits for that end, and then goes on.

    The shell is `dash` where that is the system's: unlike `bash`, it stays unless it is given `exec`.
    """
    stage = f"stages:\n  train:\n    cmd: exec {sys.executable} -m {' '.join(TRAIN)}\n"
    (study.folder / "dvc.yaml").write_text(stage)
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q", "--no-scm"], cwd=study.folder, check=True)
    environment = os.environ | ENVIRONMENT | {"SHELL": "/bin/sh"} | holds(study.folder, "line-appended", 3)
    process = subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro"],
        cwd=study.folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    (holder,) = held(process)
    second = start(study.folder, *TRAIN)
    waits = psutil.Process(second.pid)
    until(lambda: any(path.path.endswith("/train/mhvae/all") for path in waits.open_files()))
    assert second.poll() is None
    process.terminate()
    asked([holder])
    code, stderr = ended(process)
    assert code != 0
    assert STOPPED in stderr
    until(lambda: not holder.is_running())
    assert ended(second) == (0, "")
    assert running(study.folder) == 0
    assert results(study) == results(whole)


def test_an_interrupt_waits_for_what_is_not_to_be_broken_off() -> None:
    """Within `later` a signal is noted and raised at its end; once it was raised, `later` raises it no second time."""
    steps = []
    with signals.handle_signals():
        with pytest.raises(KeyboardInterrupt):  # noqa: PT012
            with signals.defer_interrupts(), signals.defer_interrupts():
                os.kill(os.getpid(), signal.SIGTERM)
                steps.append("went on")
            steps.append("never")
        with signals.defer_interrupts():
            steps.append("cleaned up")
    assert steps == ["went on", "cleaned up"]


DEAF = """
import os, signal, time
from pathlib import Path
from pipeline import processes
from pipeline.environment import Resources
processes.become_worker(Resources.read())
signal.signal(signal.SIGINT, lambda *_: Path(f"asked-{os.getpid()}").touch())
Path(f"here-{os.getpid()}").touch()
while True:
    time.sleep(1)
"""
STARTS = """
from pathlib import Path
from pipeline import processes
from pipeline.processes.entry import run_main
from pipeline.environment import Resources
run_main(lambda: processes.run([["deaf"], ["deaf"]], Path.cwd(), Resources()))
"""
BUSY = """
import hashlib
from pathlib import Path
from pipeline.processes.entry import run_main

def work():
    Path("here-0").touch()
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)

run_main(work)
"""


def test_a_second_ctrl_c_stops_at_once(tmp_path: Path) -> None:
    """Workers that do not listen are killed, one line is printed, and nothing is left."""
    (tmp_path / "deaf.py").write_text(DEAF)
    (tmp_path / "starts.py").write_text(STARTS)
    process = start(tmp_path, "starts")
    until(lambda: len(list(tmp_path.glob("here-*"))) == 2)
    workers_before = psutil.Process(process.pid).children()
    os.kill(process.pid, signal.SIGINT)
    until(lambda: len(list(tmp_path.glob("asked-*"))) == 2)
    os.kill(process.pid, signal.SIGTERM)  # asking again is no order to stop at once
    os.kill(process.pid, signal.SIGINT)
    assert ended(process) == (130, AT_ONCE)
    until(lambda: not any(worker.is_running() for worker in workers_before))


def test_a_second_ctrl_c_does_not_wait_for_a_long_call(tmp_path: Path) -> None:
    """A process that is busy in C, where Python handles no signal, ends all the same."""
    (tmp_path / "busy.py").write_text(BUSY)
    process = start(tmp_path, "busy")
    until((tmp_path / "here-0").exists)

    def pressed() -> bool:
        os.kill(process.pid, signal.SIGINT)
        time.sleep(0.1)
        return process.poll() is not None

    until(pressed)
    assert ended(process) == (130, AT_ONCE)


def test_what_nohup_has_ignored_stays_ignored(tmp_path: Path) -> None:
    """A process started with SIGHUP ignored does not end with its terminal, and still ends at SIGTERM."""
    code = """
import os, signal
signal.signal(signal.SIGHUP, signal.SIG_IGN)
from pipeline.processes.entry import run_main

def work():
    os.kill(os.getpid(), signal.SIGHUP)
    print("goes on", flush=True)
    os.kill(os.getpid(), signal.SIGTERM)

run_main(work)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (143, "goes on\n", STOPPED)
