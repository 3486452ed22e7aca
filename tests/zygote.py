"""`python -m MODULE` in a fork of a process that has imported everything: without the seconds of those imports.

A program that DVC runs is forked by DVC's own process, so that it is its child, as without this.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import itertools
import multiprocessing
import multiprocessing.forkserver
import multiprocessing.util
import os
import runpy
import shlex
import signal
import sys
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.small import ROOT

__all__ = ["ENVIRONMENT", "Program", "run"]

ENVIRONMENT = {
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "PYTHONPATH": str(ROOT),
    "CAVE_WORKERS": "1",
    "CAVE_THREADS": "1",
}
IMPORTS = """
torch torch._dynamo sympy pandas pyarrow.parquet matplotlib.pyplot matplotlib.backends.backend_agg PIL.JpegImagePlugin
jinja2 arviz_stats.base scipy.stats scipy.signal sklearn.ensemble sklearn.linear_model sklearn.model_selection
mlflow.tracking mlflow.store.tracking.sqlalchemy_workspace_store mlflow.store.workspace.utils alembic.command
sqlalchemy.dialects.sqlite optuna.importance optuna.terminator optuna.storages dvc.cli dvc.repo dvc.commands.repro
ruamel.yaml.clib._ruamel_yaml pygments.formatters.html tomllib psycopg pipeline.startup pipeline.doctor
pipeline.stages.fetch pipeline.stages.prepare pipeline.stages.sweep pipeline.stages.train pipeline.stages.evaluate
tests.zygote pipeline.stages.report pipeline.reproduce pipeline.links pipeline.removal typer rich.console
""".split()  # noqa: SIM905
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(IMPORTS)
multiprocessing.util.get_temp_dir()  # of the socket, before a test has a longer path for temporary files
_numbers = itertools.count()


@functools.cache
def _outputs() -> Path:
    """Return the folder of what the programs print."""
    # Not where a test has its own temporary files, which go with it.
    return Path(tempfile.mkdtemp(prefix="cave-programs-", dir=multiprocessing.util.get_temp_dir()))


class Program:
    """A running `python -m words` in a session of its own; its methods are those of `subprocess.Popen`."""

    def __init__(self, folder: Path, *words: str, **variables: str) -> None:
        before = os.environ.copy()
        os.environ.update({"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "MPLBACKEND": "Agg"})
        with contextlib.chdir(ROOT):
            multiprocessing.forkserver.ensure_running()
        os.environ.clear()
        os.environ.update(before)
        number = next(_numbers)
        self._files = [_outputs() / f"{number}-{name}" for name in ("out", "err")]
        arguments = (words, folder, before | ENVIRONMENT | variables, self._files)
        self._process = _context.Process(target=_become, args=arguments)
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        assert self._process.exitcode is not None, "still at work"
        return self._process.exitcode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        self.wait(timeout)
        return self.stdout, self.stderr

    @property
    def stdout(self) -> str:
        """What the program has printed so far."""
        return self._files[0].read_text() if self._files[0].exists() else ""

    @property
    def stderr(self) -> str:
        return self._files[1].read_text() if self._files[1].exists() else ""

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def run(folder: Path, *words: str, code: int | None = 0, **variables: str) -> Program:
    """Run a program to its end, which is with this exit code, or, if None, with any."""
    program = Program(folder, *words, **variables)
    assert program.wait() == code or code is None, program.stdout + program.stderr
    return program


def _become(words: Sequence[str], folder: Path, variables: Mapping[str, str], files: Sequence[Path]) -> None:
    """Be the program, to its end."""
    os.setsid()
    for number, path in enumerate(files, start=1):
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(opened, number)
        os.close(opened)
    _run(words, folder, variables)


def _run(words: Sequence[str], folder: Path, variables: Mapping[str, str]) -> None:
    gc.freeze()
    for number in SIGNALS:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    sys.stdin = open(os.devnull)  # noqa: SIM115
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(variables)
    sys.argv = list(words)
    sys.path.insert(0, str(folder))
    if variables["PYTHONPATH"] != str(ROOT):  # other code than this
        for name in [name for name in sys.modules if name.partition(".")[0] == "pipeline"]:
            del sys.modules[name]
        sys.path[1:1] = variables["PYTHONPATH"].split(os.pathsep)
    elif (folder / "pipeline").is_dir():  # a copy of this code
        sys.modules["pipeline.location"].PACKAGE = (folder / "pipeline").resolve()  # type: ignore[attr-defined]
    # The fonts of a PDF take half of the time of all figures.
    if "pipeline.figures" in sys.modules and variables.get("CAVE_NIGHTLY") != "1":
        sys.modules["pipeline.figures"].pdf = lambda figure: b"%PDF"  # type: ignore[attr-defined]
    if words[0] == "dvc":
        import dvc.stage.run

        dvc.stage.run.subprocess = _Forking  # type: ignore[attr-defined]
    if "reproduce" in words:
        import pipeline.processes.local

        pipeline.processes.local.subprocess = _Forking  # type: ignore[attr-defined]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of a module that was imported before it is run
            runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    finally:
        sys.stdout.flush()
        atexit._run_exitfuncs()


class _Forking:
    """What takes the place of `subprocess` in a program that starts others of this kind."""

    class Popen:
        """The part of `subprocess.Popen` that DVC and a launcher use, of `python -m words`, in a shell or not."""

        def __init__(self, command: Sequence[str], cwd: str | Path, env: Mapping[str, str], **_: Any) -> None:
            words = shlex.split(command[-1]) if "-c" in command else list(command)
            self.returncode: int | None = None
            sys.stdout.flush()
            self.pid = os.fork()
            if self.pid == 0:
                code: Any = 1
                try:
                    _run(words[words.index("-m") + 1 :], Path(cwd), env)
                    code = 0
                except SystemExit as end:
                    code = end.code
                finally:
                    os._exit(code if isinstance(code, int) else int(code is not None))

        def poll(self, options: int = os.WNOHANG) -> int | None:
            if self.returncode is None:
                ended, status = os.waitpid(self.pid, options)
                self.returncode = os.waitstatus_to_exitcode(status) if ended else None
            return self.returncode

        def communicate(self) -> None:
            self.poll(0)

        def send_signal(self, number: int) -> None:
            os.kill(self.pid, number)

        def kill(self) -> None:
            os.kill(self.pid, signal.SIGKILL)
