"""Workers: how many, the starting of them, and their ends.

A launcher starts a worker on some machine; restarts and the end are the same for all launchers. `Resources` says how
many workers there are, and what each of them may use.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from pipeline import display
from pipeline.environment import WORKER, Resources, WorkerRole, child_variables
from pipeline.errors import InputError, RunError
from pipeline.processes import machine, preforked, signals
from pipeline.processes.entry import EXIT_RESTART
from pipeline.processes.local import Local
from pipeline.processes.malloc import tune_malloc
from pipeline.processes.ray import Ray
from pipeline.processes.signals import POLL
from pipeline.study import Study
from pipeline.text import did_you_mean

__all__ = ["LAUNCHERS", "become_worker", "map_in_workers", "prefork", "run", "runs_inline", "worker_count"]

GRACE = 10.0  # seconds that workers have to end by themselves


class Worker(Protocol):
    """A worker that was started somewhere."""

    def poll(self) -> int | None:
        """Return the exit code of one that has ended: below 0 for one that was killed."""

    def interrupt(self) -> None:
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


LAUNCHERS: dict[str, Callable[[Resources], Launcher]] = {"local": Local, "ray": Ray}


def _launcher(resources: Resources) -> Launcher:
    name = resources.launcher
    if name not in LAUNCHERS:
        hint = did_you_mean(name, LAUNCHERS)
        raise InputError(f"CAVE_LAUNCHER: '{name}' given{hint}; allowed: {', '.join(LAUNCHERS)}")
    return LAUNCHERS[name](resources)


def worker_count(tasks: int, resources: Resources) -> int:
    """Return how many workers to use for so many tasks: `resources.workers`, else as many as there is room for."""
    return min(tasks, resources.workers or _launcher(resources).slots)


def runs_inline(count: int, resources: Resources) -> bool:
    """Return whether the work of `count` workers is done in this process."""
    return count == 1 and resources.launcher == "local"


def prefork(tasks: int, resources: Resources) -> None:
    """Fork the local workers for so many tasks ahead; to be called before this process does anything else."""
    if resources.launcher == "local" and not machine.slots(resources):
        preforked.fork(worker_count(tasks, resources))


def map_in_workers(
    stage: str, study: Study, variant: str, tasks: Sequence[str], work: Callable[[str], None], resources: Resources
) -> None:
    """Call `work(task)` for each task: here, or in workers `python -m pipeline.stages STAGE VARIANT TASK ...`."""
    count = worker_count(len(tasks), resources)
    display.count(len(tasks))
    if runs_inline(count, resources):
        become_worker(resources)
        for task in tasks:
            work(task)
    else:
        commands = [["pipeline.stages", stage, variant, *tasks[slot::count]] for slot in range(count)]
        run(commands, study.folder, resources, retries=3)


def become_worker(resources: Resources) -> None:
    """Limit this process to its share of the cores, and let it end with its parent if it is a worker process."""
    import torch

    tune_malloc()
    display.send_statuses()
    role = WorkerRole.read()
    if role is not None and role.parent is not None:
        signals.die_with_parent(role.parent, signal.SIGKILL)
    share = machine.cores() // (role.siblings if role else 1)
    torch.set_num_threads(resources.threads or max(1, share))


def run(
    commands: Sequence[Sequence[str]],
    folder: Path,
    resources: Resources,
    *,
    retries: int = 0,
    tick: Callable[[], None] = lambda: None,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Run Python modules with arguments side by side in `folder`, and call `tick` while they run.

    A worker that was killed, or that exits with EXIT_RESTART, is started again, up to `retries` times in all. Workers
    do not receive the terminal's signals: on Ctrl-C this process interrupts them once and waits a few seconds for them
    to end; none outlives this call. Their environment variables are this process's with those of `resources`, or those
    of `environment` alone.

    Raises:
        InputError, RunError: a worker ended in one (its error is on stderr), or was killed too often.
    """
    launcher, running = _launcher(resources), dict[int, Worker]()
    variables = dict(environment) if environment is not None else child_variables(resources.changed_variables())
    variables[WORKER] = str(len(commands))
    with signals.handle_signals():
        try:
            for slot, command in enumerate(commands):
                signals.raise_if_interrupted()
                running[slot] = launcher.start(command, folder, variables, slot)
            while running:
                signals.raise_if_interrupted()
                time.sleep(POLL)
                display.read()
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
                        running[slot] = launcher.start(commands[slot], folder, variables, slot)
                    elif code != 0:
                        raise _fault(" ".join(commands[slot]), code)
        finally:
            _end(list(running.values()))
            launcher.close()
    tick()


def _killed(code: int) -> bool:
    """Return whether a worker is to be started again: a signal ended it, or it exited with EXIT_RESTART."""
    return code < 0 or code > 128 or code == EXIT_RESTART


def _fault(command: str, code: int) -> InputError | RunError:
    if code == 2:
        return InputError("a worker stopped (see above)")
    how = f"ended with exit code {code}"
    if _killed(code) and code != EXIT_RESTART:
        how = f"was killed by signal {-code if code < 0 else code - 128}"
    return RunError(f"a worker ({command}) {how}; what was finished is kept")


def _end(workers: Sequence[Worker]) -> None:
    """End workers: interrupt them, then kill those that still run."""
    for step, patience in (("ask", GRACE), ("kill", 2.0)):
        running = [worker for worker in workers if worker.poll() is None]
        for worker in running:
            worker.interrupt() if step == "ask" else worker.kill()
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline and any(worker.poll() is None for worker in running):
            time.sleep(POLL / 4)
