"""Workers: how many, the starting of them, and their ends.

A launcher starts a worker somewhere; what starts it again, and what ends it, is the same for all. Nothing of this
stands in `params.yaml`: CAVE_WORKERS, CAVE_THREADS, CAVE_DEVICE, CAVE_GPUS_PER_WORKER, CAVE_LAUNCHER.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from pipeline.errors import InputError, RunError
from pipeline.processes import machine, preforked, signals
from pipeline.processes.entry import EXIT_RESTART
from pipeline.processes.local import Local
from pipeline.processes.ray import Ray
from pipeline.processes.signals import POLL
from pipeline.study import Study
from pipeline.text import nearest

__all__ = ["LAUNCHERS", "become_worker", "map_in_workers", "prefork", "run", "runs_inline", "workers"]

GRACE = 10.0  # seconds that workers have to end by themselves


class Worker(Protocol):
    """A worker that was started somewhere."""

    def poll(self) -> int | None:
        """Return the exit code of one that has ended: below 0 for one that was killed."""

    def ask(self) -> None:
        """Ask for a clean end."""

    def kill(self) -> None:
        """End it at once."""


class Launcher(Protocol):
    """A way to start workers."""

    slots: int  # workers that there is room for at a time

    def start(self, command: Sequence[str], folder: Path, environment: Mapping[str, str], slot: int) -> Worker:
        """Start a Python module with its arguments in a folder; one that is started again keeps its slot."""

    def close(self) -> None:
        """Let go of what workers were started with, once they have ended."""


LAUNCHERS: dict[str, Callable[[], Launcher]] = {"local": Local, "ray": Ray}


def _launcher(name: str | None = None) -> Launcher:
    name = name or os.environ.get("CAVE_LAUNCHER") or "local"
    if name not in LAUNCHERS:
        hint = nearest(name, LAUNCHERS)
        raise InputError(f"CAVE_LAUNCHER: '{name}' given{hint}; allowed: {', '.join(LAUNCHERS)}")
    return LAUNCHERS[name]()


def workers(most: int) -> int:
    """Return how many workers to use for `most` pieces of work: CAVE_WORKERS, else as many as there is room for."""
    given = machine.count("CAVE_WORKERS", 1) if "CAVE_WORKERS" in os.environ else _launcher().slots
    return min(most, given)


def runs_inline(count: int) -> bool:
    """Tell whether the work of `count` workers is done in this process."""
    return count == 1 and (os.environ.get("CAVE_LAUNCHER") or "local") == "local"


def prefork(most: int) -> None:
    """Keep processes for the workers of `most` pieces of work, where these are local; before anything else is done."""
    if (os.environ.get("CAVE_LAUNCHER") or "local") == "local" and not machine.slots():
        preforked.fork(workers(most))


def map_in_workers(module: str, study: Study, variant: str, pieces: Sequence[str], work: Callable[[str], None]) -> None:
    """Call `work(piece)` for each piece: here, or in worker processes `python -m module variant piece ...`."""
    count = workers(len(pieces))
    if runs_inline(count):
        become_worker()
        for piece in pieces:
            work(piece)
    else:
        run([[module, variant, *pieces[slot::count]] for slot in range(count)], study.folder, retries=3)


def become_worker() -> None:
    """Give this process its share of the cores (CAVE_THREADS, else cores / workers), and its parent's end."""
    import torch

    if signals.WORKER in os.environ:
        signals.die_with_parent(int(os.environ[signals.PARENT]), signal.SIGKILL)
    torch.set_num_threads(machine.count("CAVE_THREADS", max(1, machine.cores() // machine.count(signals.WORKER, 1))))


def run(
    commands: Sequence[Sequence[str]],
    folder: Path,
    *,
    retries: int = 0,
    tick: Callable[[], None] = lambda: None,
    environment: Mapping[str, str] | None = None,
    launcher: str | None = None,
) -> None:
    """Run Python modules with arguments side by side in `folder`, and call `tick` while they run.

    A worker that was killed, or asks for it, is started again, up to `retries` times in all. Workers do not hear
    the terminal: on Ctrl-C they are told once, here, and get time to end by themselves; none outlives this call. Their
    environment variables are this process's, or those of `environment`; the launcher is CAVE_LAUNCHER, or `launcher`.

    Raises:
        InputError, RunError: a worker ended in one (it has said why on stderr), or was killed too often.
    """
    chosen, running = _launcher(launcher), dict[int, Worker]()
    given = {**(os.environ if environment is None else environment), signals.WORKER: str(len(commands))}
    with signals.handle_signals():
        try:
            for slot, command in enumerate(commands):
                signals.raise_if_interrupted()
                running[slot] = chosen.start(command, folder, given, slot)
            while running:
                signals.raise_if_interrupted()
                time.sleep(POLL)
                tick()
                for slot, worker in list(running.items()):
                    code = worker.poll()
                    if code is None:
                        continue
                    del running[slot]
                    if code == 128 + signal.SIGPIPE:  # the reader of its output has gone, which is that of ours
                        signals.request_end(signal.SIGPIPE)
                    if _killed(code) and retries > 0:
                        retries -= 1
                        running[slot] = chosen.start(commands[slot], folder, given, slot)
                    elif code != 0:
                        raise _fault(" ".join(commands[slot]), code)
        finally:
            _end(list(running.values()))
            chosen.close()
    tick()


def _killed(code: int) -> bool:
    """Tell whether a worker is to be started again: a signal ended it, heard or not, or it asks for it."""
    return code < 0 or code > 128 or code == EXIT_RESTART


def _fault(command: str, code: int) -> InputError | RunError:
    if code == 2:
        return InputError("a worker stopped (see above)")
    how = f"ended with exit code {code}"
    if _killed(code) and code != EXIT_RESTART:
        how = f"was killed by signal {-code if code < 0 else code - 128}"
    return RunError(f"a worker ({command}) {how}; what was finished is kept")


def _end(workers: Sequence[Worker]) -> None:
    """End workers: ask them, then kill."""
    for step, patience in (("ask", GRACE), ("kill", 2.0)):
        left = [worker for worker in workers if worker.poll() is None]
        for worker in left:
            worker.ask() if step == "ask" else worker.kill()
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline and any(worker.poll() is None for worker in left):
            time.sleep(POLL / 4)
