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

from pipeline import processes
from pipeline.environment import Resources
from pipeline.errors import InputError, RunError
from pipeline.processes import machine
from tests.small import ROOT

pytestmark = pytest.mark.slow


def module(folder: Path, name: str, code: str) -> str:
    """Write a module that a worker can run in `folder`."""
    (folder / f"{name}.py").write_text(textwrap.dedent(code))
    return name


def test_workers_are_as_many_as_asked_for_but_never_more_than_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """CAVE_WORKERS sets their number; one piece of work has one worker."""
    monkeypatch.setenv("CAVE_WORKERS", "3")
    assert [processes.worker_count(most, Resources.read()) for most in (1, 2, 9)] == [1, 2, 3]
    monkeypatch.setenv("CAVE_WORKERS", "0")
    with pytest.raises(InputError, match="CAVE_WORKERS: '0' given"):
        processes.worker_count(2, Resources.read())


def test_an_unknown_device_gets_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """CAVE_DEVICE must name a device that works here."""
    monkeypatch.setenv("CAVE_DEVICE", "abacus")
    with pytest.raises(InputError, match="CAVE_DEVICE: 'abacus' is not usable here"):
        processes.device(Resources.read().device)


def test_a_worker_gets_a_fraction_as_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six workers share a GPU, each with 0.16666666 of it, in whatever process that is read."""
    resources = Resources.read(gpus_per_worker=0.16666666)
    for name, text in resources.variables().items():
        monkeypatch.setenv(name, text)
    assert Resources.read() == resources


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
    processes.run([[module(tmp_path, "once", code)]], tmp_path, Resources.read(), retries=1)
    assert (tmp_path / "done").exists()


@pytest.mark.parametrize(
    ("code", "fault", "message"),
    [
        ("raise SystemExit(2)", InputError, "a worker stopped"),
        ("raise SystemExit(7)", RunError, "ended with exit code 7"),
        ("import os; os.kill(os.getpid(), 9)", RunError, "was killed by signal 9"),
    ],
)
def test_a_failing_worker_ends_the_run(tmp_path: Path, code: str, fault: type[Exception], message: str) -> None:
    """A worker's failure is reported as what it is, and its fellows are ended."""
    wait = "import os, pathlib, time\nwhile not pathlib.Path('pid').exists(): time.sleep(0.01)\n"
    write = "import os, pathlib, time; pathlib.Path('p').write_text(str(os.getpid()));"
    write += "os.rename('p', 'pid'); time.sleep(60)"
    name, other = module(tmp_path, "failing", wait + code), module(tmp_path, "sleeping", write)
    with pytest.raises(fault, match=message):
        processes.run([[name], [other]], tmp_path, Resources.read())
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_workers_do_not_outlive_their_parent(tmp_path: Path) -> None:
    """After kill -9 of the parent, its worker ends by itself."""
    code = """
        import os, pathlib, time
        from pipeline import processes
        from pipeline.environment import Resources
        processes.become_worker(Resources.read())
        pathlib.Path("pid").write_text(str(os.getpid()))
        time.sleep(60)
    """
    name = module(tmp_path, "worker", code)
    parent = "import pathlib; from pipeline import processes; from pipeline.environment import Resources;"
    parent += f"processes.run([['{name}']], pathlib.Path('.'), Resources())"
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


SMI = """#!/bin/sh
[ "$1" = -L ] || exit 9
cat <<LIST
GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-aaaa1111-0000)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-bbbb2222-0000)
  MIG 1g.5gb      Device  0: (UUID: MIG-cccc3333-0000)
GPU 2: NVIDIA A100-SXM4-40GB (UUID: GPU-dddd4444-0000)
LIST
"""


@pytest.fixture
def gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plant an `nvidia-smi` that lists three GPUs, there being none here."""
    tool = tmp_path / "bin" / "nvidia-smi"
    tool.parent.mkdir()
    tool.write_text(SMI)
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}{os.pathsep}{os.environ['PATH']}")
    for name in ("CUDA_VISIBLE_DEVICES", "CAVE_DEVICE", "CAVE_GPUS_PER_WORKER", "CAVE_WORKERS"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("share", "visible", "slots"),
    [
        (None, None, ["0", "1", "2"]),
        ("0.5", None, ["0", "1", "2", "0", "1", "2"]),
        ("0.3", "2", ["2", "2", "2"]),
        ("2", None, ["0,1"]),
        ("1", "2,0", ["2", "0"]),
        ("1", "GPU-dddd, MIG-cccc3333-0000", ["GPU-dddd", "MIG-cccc3333-0000"]),
        ("1", "1,7,0", ["1"]),  # CUDA too sees nothing after one that is not there
        ("1", "-1", []),
        ("1", "", []),
        ("0", None, []),
    ],
)
@pytest.mark.usefixtures("gpus")
def test_a_gpu_has_as_many_slots_as_shares(
    share: str | None, visible: str | None, slots: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slot names its GPUs as CUDA_VISIBLE_DEVICES, inherited or not, names them; without any slot, cores count."""
    if share is not None:
        monkeypatch.setenv("CAVE_GPUS_PER_WORKER", share)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert machine.slots(Resources.read()) == [{"CUDA_VISIBLE_DEVICES": slot} for slot in slots]
    assert processes.worker_count(100, Resources.read()) == (len(slots) or machine.cores())


@pytest.mark.usefixtures("gpus")
def test_gpus_are_not_looked_for_where_they_are_not_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    """With CAVE_DEVICE=cpu workers are as many as cores; a device with a number is used as it is, by all workers."""
    for name in ("cpu", "cuda:1"):
        monkeypatch.setenv("CAVE_DEVICE", name)
        assert machine.slots(Resources.read()) == []


@pytest.mark.usefixtures("gpus")
@pytest.mark.parametrize(
    ("share", "message"), [("4", "4 given, but there are 3 GPUs"), ("1.5", "'1.5' given"), ("some", "'some' given")]
)
def test_an_impossible_share_gets_one_line(share: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """More GPUs than there are, parts of more than one, or no number, are refused."""
    monkeypatch.setenv("CAVE_GPUS_PER_WORKER", share)
    with pytest.raises(InputError, match=f"CAVE_GPUS_PER_WORKER: {message}"):
        machine.slots(Resources.read())


@pytest.mark.usefixtures("gpus")
def test_each_worker_is_pinned_and_keeps_its_slot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of four workers on two GPUs two share each; one that is killed runs again on the GPU that it had."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,GPU-aaaa")
    monkeypatch.setenv("CAVE_GPUS_PER_WORKER", "0.5")
    code = """
        import os, pathlib, signal, sys
        name, visible = sys.argv[1], os.environ["CUDA_VISIBLE_DEVICES"]
        with open(f"slot-{name}", "a") as file:
            file.write(visible + " ")
        if name == "3" and not pathlib.Path("mark").exists():
            pathlib.Path("mark").touch()
            os.kill(os.getpid(), signal.SIGKILL)
    """
    name = module(tmp_path, "pinned", code)
    processes.run([[name, str(slot)] for slot in range(4)], tmp_path, Resources.read(), retries=1)
    slot_uses = [(tmp_path / f"slot-{slot}").read_text().split() for slot in range(4)]
    assert slot_uses == [["2"], ["GPU-aaaa"], ["2"], ["GPU-aaaa", "GPU-aaaa"]]


def test_an_unknown_launcher_gets_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """CAVE_LAUNCHER must be a launcher's name."""
    monkeypatch.setenv("CAVE_LAUNCHER", "rya")
    with pytest.raises(InputError, match=r"CAVE_LAUNCHER: 'rya' given \(did you mean 'ray'\?\); allowed: local, ray"):
        processes.run([], Path.cwd(), Resources.read())


def test_a_missing_ray_is_told_with_the_command_that_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Ray is not installed, one line says how to get it."""
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"'ray' is not installed; run: pip install 'platos-cave\[ray\]'"):
        processes.run([], Path.cwd(), Resources(launcher="ray"))


def test_an_interrupt_that_falls_into_a_finalizer_is_not_lost() -> None:
    """What Python swallows there is raised at the next safe place, and nothing is printed about it."""
    script = """
import os, signal
from pipeline.processes import signals

class Closing:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(1000):
            pass

signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored, where a shell has started it in the background
with signals.handle_signals():
    Closing()
    try:
        signals.raise_if_interrupted()
    except KeyboardInterrupt:
        print("raised")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert (done.stdout, done.stderr) == ("raised\n", "")


WRITES = """
    import os, sys
    from pathlib import Path

    def main():
        own = [str("brought" in sys.modules), str(os.getsid(0) == os.getpid()), *sys.argv[1:]]
        Path(f"record-{sys.argv[1]}").write_text(" ".join(own))
        if sys.argv[1] == "prints":
            print("to nowhere")
        if sys.argv[1] == "killed":
            os.kill(os.getpid(), 9)
        sys.exit(0)

    if __name__ == "__main__":
        Path(f"program-{sys.argv[1]}").touch()
"""


def _young(folder: Path, *lines: str) -> subprocess.CompletedProcess[str]:
    """Run a program that has just imported something, and forks."""
    module(folder, "brought", "")
    module(folder, "writes", WRITES)
    code = "\n".join(
        [
            "import brought, os, pathlib, time",
            "from pipeline import processes",
            "from pipeline.environment import Resources",
            "here = pathlib.Path('.')",
            *lines,
        ]
    )
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{folder}", "CAVE_WORKERS": "2"}
    environment |= {"CAVE_DEVICE": "cpu", "PYTHONUNBUFFERED": ""}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )


@pytest.mark.skipif(sys.platform != "linux", reason="spares are forked on Linux alone")
def test_a_spare_becomes_a_worker_with_what_its_parent_has_imported(tmp_path: Path) -> None:
    """Workers that were forked ahead find the imports done, in sessions of their own; a third is a program."""
    done = _young(
        tmp_path,
        "processes.prefork(9, Resources.read())",
        "processes.run([['writes', name] for name in 'abc'], here, Resources.read())",
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert [(tmp_path / f"record-{name}").read_text() for name in "ab"] == ["True True a", "True True b"]
    assert sorted(path.name for path in tmp_path.glob("program-*")) == ["program-c"]


@pytest.mark.skipif(sys.platform != "linux", reason="spares are forked on Linux alone")
def test_a_spare_that_is_killed_is_followed_by_a_program(tmp_path: Path) -> None:
    """A worker that was forked and is killed is started again as any other."""
    done = _young(
        tmp_path,
        "processes.prefork(2, Resources.read())",
        "processes.run([['writes', name] for name in ('a', 'killed')], here, Resources.read(), retries=1)",
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "record-killed").exists()
    assert (tmp_path / "program-killed").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="spares are forked on Linux alone")
def test_a_fault_before_a_spare_is_at_work_is_told(tmp_path: Path) -> None:
    """A worker that was forked and cannot import its module says so, as a program does."""
    done = _young(
        tmp_path,
        "processes.prefork(2, Resources.read())",
        "processes.run([['writes', 'a'], ['absent']], here, Resources.read(), retries=0)",
    )
    assert done.returncode == 1
    assert "ModuleNotFoundError: No module named 'absent'" in done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="spares are forked on Linux alone")
def test_what_a_spare_hears_is_not_its_parents(tmp_path: Path) -> None:
    """SIGINT to two spares that are not yet themselves ends them, and is no second Ctrl-C for the parent."""
    done = _young(
        tmp_path,
        "import signal",
        "signal.signal(signal.SIGINT, signal.default_int_handler)",  # a shell's background job ignores it
        "from pipeline.processes import signals",
        "source, sink = os.pipe()",
        "setsid = os.setsid",
        "os.setsid = lambda: (os.read(source, 1), setsid())",
        "with signals.handle_signals():",
        "    processes.prefork(2, Resources.read())",
        "    from pipeline.processes.preforked import _spares",
        "    [os.kill(spare.pid, signal.SIGINT) for spare in _spares]",
        "    os.write(sink, b'on')",
        "    print([os.waitstatus_to_exitcode(os.waitpid(spare.pid, 0)[1]) for spare in _spares])",
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "[130, 130]\n", "")


@pytest.mark.skipif(sys.platform != "linux", reason="spares are forked on Linux alone")
def test_a_spare_that_cannot_write_ends_all_the_same(tmp_path: Path) -> None:
    """Where its reader has gone, which is its parent's too, both end, and the spare not in its parent's code."""
    lines = ["source, sink = os.pipe()", "os.close(source)", "os.dup2(sink, 1)"]
    lines += [
        "processes.prefork(2, Resources.read())",
        "processes.run([['writes', name] for name in ('a', 'prints')], here, Resources.read())",
    ]
    done = _young(tmp_path, *lines)
    assert done.returncode == -signal.SIGINT
    assert done.stderr.count("Traceback") == 1
    assert done.stderr.endswith("KeyboardInterrupt\n")


@pytest.mark.skipif(sys.platform != "linux", reason="spares are forked on Linux alone")
def test_a_spare_serves_its_own_environment_alone(tmp_path: Path) -> None:
    """Where a variable has changed since, workers are programs; spares that nobody needed end with their parent."""
    lines = [
        "processes.prefork(2, Resources.read())",
        "os.environ['OMP_NUM_THREADS'] = '7'",
        "processes.run([['writes', 'a']], here, Resources.read())",
    ]
    lines += ["from pipeline.processes.preforked import _spares", "print(*(spare.pid for spare in _spares))"]
    done = _young(tmp_path, *lines)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "program-a").exists()
    stats = [Path(f"/proc/{pid}/stat") for pid in done.stdout.split()]
    assert len(stats) == 2
    deadline = time.monotonic() + 60
    while any(path.exists() for path in stats) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(path.exists() for path in stats)
