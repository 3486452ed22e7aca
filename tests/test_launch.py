"""Worker processes: their share of the cores, their end, and what becomes of a killed one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from pipeline import launch
from pipeline.errors import InputError, RunError
from tests.small import ROOT


def module(folder: Path, name: str, code: str) -> str:
    """Write a module that a worker can run in `folder`."""
    (folder / f"{name}.py").write_text(textwrap.dedent(code))
    return name


def test_workers_are_as_many_as_asked_for_but_never_more_than_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """CAVE_WORKERS sets their number; one piece of work has one worker."""
    monkeypatch.setenv("CAVE_WORKERS", "3")
    assert [launch.workers(most) for most in (1, 2, 9)] == [1, 2, 3]
    monkeypatch.setenv("CAVE_WORKERS", "0")
    with pytest.raises(InputError, match="CAVE_WORKERS: '0' given"):
        launch.workers(2)


def test_an_unknown_device_gets_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """CAVE_DEVICE must name a device that works here."""
    monkeypatch.setenv("CAVE_DEVICE", "abacus")
    with pytest.raises(InputError, match="CAVE_DEVICE: 'abacus' is not usable here"):
        launch.device()


def test_a_killed_worker_is_started_again(tmp_path: Path) -> None:
    """A worker that a signal kills runs again and finishes its work."""
    code = """
        import os, pathlib, signal
        mark = pathlib.Path("mark")
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        pathlib.Path("done").touch()
    """
    launch.run([[module(tmp_path, "once", code)]], tmp_path, retries=1)
    assert (tmp_path / "done").exists()


@pytest.mark.parametrize(
    ("code", "fault", "told"),
    [
        ("raise SystemExit(2)", InputError, "a worker stopped"),
        ("raise SystemExit(7)", RunError, "ended with exit code 7"),
        ("import os; os.kill(os.getpid(), 9)", RunError, "was killed by signal 9"),
    ],
)
def test_a_failing_worker_ends_the_run(tmp_path: Path, code: str, fault: type[Exception], told: str) -> None:
    """A worker's failure is told as what it is, and its fellows are ended."""
    wait = "import os, pathlib, time\nwhile not pathlib.Path('pid').exists(): time.sleep(0.01)\n"
    write = "import os, pathlib, time; pathlib.Path('p').write_text(str(os.getpid()));"
    write += "os.rename('p', 'pid'); time.sleep(60)"
    name, other = module(tmp_path, "failing", wait + code), module(tmp_path, "sleeping", write)
    with pytest.raises(fault, match=told):
        launch.run([[name], [other]], tmp_path)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_workers_do_not_outlive_their_parent(tmp_path: Path) -> None:
    """After kill -9 of the parent, its worker ends by itself."""
    code = """
        import os, pathlib, time
        from pipeline import launch
        launch.become_worker()
        pathlib.Path("pid").write_text(str(os.getpid()))
        time.sleep(60)
    """
    name = module(tmp_path, "worker", code)
    parent = f"import pathlib; from pipeline import launch; launch.run([['{name}']], pathlib.Path('.'))"
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
    process = subprocess.Popen([sys.executable, "-c", parent], cwd=tmp_path, env=environment)
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        time.sleep(0.05)
    worker = int((tmp_path / "pid").read_text())
    process.send_signal(signal.SIGKILL)
    process.wait()
    for _ in range(200):
        if not Path(f"/proc/{worker}").exists():
            break
        time.sleep(0.05)
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)


def test_an_interrupt_that_falls_into_a_finalizer_is_not_lost() -> None:
    """What Python swallows there is heard at the next safe place, and nothing is told of it."""
    script = """
import os, signal
from pipeline import signals

class Closing:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(1000):
            pass

signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored, where a shell has started it in the background
with signals.hearing():
    Closing()
    try:
        signals.heed()
    except KeyboardInterrupt:
        print("heard")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert (done.stdout, done.stderr) == ("heard\n", "")
