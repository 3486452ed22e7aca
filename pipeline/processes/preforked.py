"""Workers forked ahead: children of a stage that has just imported what its workers need, each to become one worker.

Imports are the most of a short stage's time: PyTorch's and MLflow's take three seconds, and a worker that is started
as a program pays them again. So a stage that is young (it holds no lock and no connection, and has computed nothing)
forks the workers it may need, and they wait for what to do. A spare serves a worker whose environment is
that of its birth and becomes one as a program does: in a session of its own, with signals as they were before
handlers were installed, ending with its parent. It is never needed: where there is none, a program is started.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import final

from pipeline import display
from pipeline.display import Pipe
from pipeline.environment import PARENT, STATUS, WORKER, child_variables, replace_variables
from pipeline.processes import signals
from pipeline.processes.entry import run_main

__all__ = ["PreforkedWorker", "acquire", "fork"]

UNWRITTEN = 120  # Python's own code where what was printed cannot be written

_spares: list[PreforkedWorker] = []
_birth: dict[str, str] = {}  # the environment that they have


@final
class PreforkedWorker:
    """A process that waits for what to do, and then is a worker."""

    def __init__(self) -> None:
        source, self.sink = os.pipe()
        self.output = Pipe() if display.is_live() else None
        self.code: int | None = None
        parent = os.getpid()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of threads: those of libraries sleep, or look after themselves
            self.pid = os.fork()
        if self.pid == 0:
            if self.output:
                self.output.become_output()
            _live(source, [self.sink, *(spare.sink for spare in _spares)], parent)
        os.close(source)
        if self.output:
            self.output.close_sink()

    def start(self, command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> PreforkedWorker:
        """Become the worker `python -m command` in a folder."""
        signals.children.add(self)
        order = json.dumps([list(command), str(folder), dict(environment)]).encode()
        try:
            with open(self.sink, "wb") as pipe:
                pipe.write(order)
        except BrokenPipeError:  # it was killed meanwhile: `poll` says so
            pass
        return self

    def poll(self) -> int | None:
        """Return the exit code if the process has ended, below 0 for a signal, else None."""
        if self.code is None:
            try:
                ended, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:  # another thread has just waited for it
                return self.code
            if ended:
                self.code = os.waitstatus_to_exitcode(status)
                signals.children.discard(self)
                display.close(self.output)
        return self.code

    def interrupt(self) -> None:
        """Ask for a clean end."""
        self._send(signal.SIGINT)

    def kill(self) -> None:
        """End it at once."""
        self._send(signal.SIGKILL)

    def _send(self, number: int) -> None:
        if self.poll() is None:  # until it is waited for, its number is not another's
            os.kill(self.pid, number)


def fork(count: int) -> None:
    """Keep so many spares; to be called before this process does anything."""
    if count < 2 or sys.platform != "linux":  # elsewhere system libraries do not support a fork
        return
    _birth.update(child_variables())
    sys.stdout.flush()
    sys.stderr.flush()
    with signals.block_signals():  # until it resets them, a spare has its parent's handlers
        for _ in range(count):
            _spares.append(PreforkedWorker())


def acquire(environment: Mapping[str, str]) -> PreforkedWorker | None:
    """Return a spare for a worker with this environment, if there is one."""
    alike = {name: environment[name] for name in environment if name not in (WORKER, PARENT, STATUS)}
    return _spares.pop() if _spares and alike == _birth else None


def _live(source: int, sinks: Sequence[int], parent: int) -> None:
    """Wait for what to do, do it, and end."""
    code: int | str | None = 1
    try:
        os.setsid()
        signals.reset_handlers()
        signals.die_with_parent(parent, signal.SIGKILL)
        for sink in sinks:
            os.close(sink)
        with open(source, "rb") as pipe:
            order = pipe.read()
        if order:
            (module, *words), folder, environment = json.loads(order)
            replace_variables(environment)

            def main() -> None:
                os.chdir(folder)
                sys.argv = [module, *words]
                importlib.import_module(module).main()

            run_main(main)
        code = 0
    except SystemExit as end:
        code = end.code
    except KeyboardInterrupt:
        code = signals.status()
    finally:
        try:
            if isinstance(code, str):
                print(code, file=sys.stderr)
            sys.stdout.flush()
            sys.stderr.flush()
        except OSError:
            code = UNWRITTEN
        finally:  # whatever happens: what comes after a fork is the stage's
            os._exit(code if isinstance(code, int) else int(code is not None))
