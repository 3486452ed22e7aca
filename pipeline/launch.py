"""Worker processes: how many, on how many threads, on what device, and the starting and ending of them.

Workers times threads is at most the cores: two processes of two threads each on two cores ran at a tenth of
the speed of two processes of one thread. Counts and devices come from the environment or the command line,
never from `params.yaml`: CAVE_WORKERS, CAVE_THREADS, CAVE_DEVICE.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import AGAIN, InputError, RunError
from pipeline.study import Study

if TYPE_CHECKING:
    import torch

__all__ = ["become_worker", "device", "heed", "run", "share", "workers"]

POLL = 0.2  # seconds
WORKER = "CAVE_WORKER_OF"  # set for a worker: how many there are
PARENT = "CAVE_WORKER_PARENT"  # and whose it is
GRACE = 10.0  # seconds that workers have to end by themselves


def _count(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not text.isdigit() or int(text) < 1:
        raise InputError(f"{name}: '{text}' given; allowed: a whole number from 1")
    return int(text)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def workers(most: int) -> int:
    """Return how many worker processes to use for `most` pieces of work: CAVE_WORKERS, else one a core."""
    return min(most, _count("CAVE_WORKERS", _cores()))


def share(module: str, study: Study, variant: str, work: Callable[[int], None]) -> None:
    """Call `work(seed)` for each final seed: here, or in worker processes `python -m module variant seed ...`."""
    seeds = study.params.train.seeds
    count = workers(len(seeds))
    if count == 1:
        become_worker()
        for seed in seeds:
            work(seed)
    else:
        run([[module, variant, *map(str, seeds[slot::count])] for slot in range(count)], study.folder, retries=3)


def become_worker() -> None:
    """Give this process its share of the cores (CAVE_THREADS, else cores / workers), and its parent's end."""
    import torch

    torch.set_num_threads(_count("CAVE_THREADS", max(1, _cores() // _count(WORKER, 1))))
    if WORKER in os.environ:
        _hear()  # a parent in the background ignores it
        _die_with_parent()


def device() -> torch.device:
    """Return the device that CAVE_DEVICE names; `auto`, or nothing, takes CUDA where there is one."""
    import torch

    name = os.environ.get("CAVE_DEVICE", "auto")
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(name)
        torch.zeros(1, device=found)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"CAVE_DEVICE: '{name}' is not usable here: {str(error).splitlines()[0]}") from None
    return found


def run(
    commands: Sequence[Sequence[str]],
    folder: Path,
    *,
    retries: int = 0,
    tick: Callable[[], None] = lambda: None,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Run Python modules with arguments side by side in `folder`, and call `tick` while they run.

    A worker killed by a signal, or one that asks for it, is started again, up to `retries` times in all. Workers
    do not hear the terminal: on Ctrl-C they are told once, here, and get time to end by themselves; none outlives
    this call. Their environment variables are this process's, or those of `environment`.

    Raises:
        InputError, RunError: a worker ended in one (it has said why on stderr), or was killed too often.
    """
    with _hearing():
        _run(commands, folder, retries, tick, environment)


def _run(
    commands: Sequence[Sequence[str]],
    folder: Path,
    retries: int,
    tick: Callable[[], None],
    environment: Mapping[str, str] | None,
) -> None:
    waiting = [list(command) for command in reversed(commands)]
    running: list[tuple[list[str], subprocess.Popen[bytes]]] = []
    given = os.environ if environment is None else environment
    variables = {**given, WORKER: str(len(commands)), PARENT: str(os.getpid())}
    try:
        while waiting or running:
            heed()
            while waiting:
                command = waiting.pop()
                words = [sys.executable, "-m", *command]
                process = subprocess.Popen(words, env=variables, cwd=folder, start_new_session=True)
                running.append((command, process))
            time.sleep(POLL)
            tick()
            for entry in [entry for entry in running if entry[1].poll() is not None]:
                running.remove(entry)
                command, code = entry[0], entry[1].returncode
                if (code < 0 or code == AGAIN) and retries > 0:
                    retries -= 1
                    waiting.append(command)
                elif code == 2:
                    raise InputError("a worker stopped (see above)")
                elif code != 0:
                    how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
                    raise RunError(f"a worker ({' '.join(command)}) {how}; what was finished is kept")
    finally:
        _end([process for _, process in running])
    tick()


_asked = threading.Event()  # to stop, by Ctrl-C


def heed() -> None:
    """Stop here if Ctrl-C was pressed. The interrupt itself is lost where it falls into a finalizer."""
    if _asked.is_set():
        raise KeyboardInterrupt


def _hear() -> None:
    """Hear Ctrl-C, note it, and leave out what Python says of an interrupt that is lost."""

    def stop(number: int, frame: object) -> None:
        _asked.set()
        raise KeyboardInterrupt

    def ignored(told: Any) -> None:
        if told.exc_type is not KeyboardInterrupt:
            sys.__unraisablehook__(told)

    signal.signal(signal.SIGINT, stop)
    sys.unraisablehook = ignored


@contextmanager
def _hearing() -> Iterator[None]:
    """Hear Ctrl-C as `_hear` does, where it is heard at all, and as before afterwards."""
    before, hook = signal.getsignal(signal.SIGINT), sys.unraisablehook
    if before is not signal.default_int_handler:
        yield
        return
    _hear()
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        sys.unraisablehook = hook
        _asked.clear()


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """End workers: ask them, then terminate, then kill."""
    for step, patience in ((signal.SIGINT, GRACE), (signal.SIGTERM, 2.0), (signal.SIGKILL, 2.0)):
        for process in processes:
            if process.poll() is None:
                process.send_signal(step)
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline and any(process.poll() is None for process in processes):
            time.sleep(POLL / 4)


def _die_with_parent() -> None:
    """End this process soon after its parent's end, however and whenever the parent ended."""
    parent = int(os.environ[PARENT])

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(POLL)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
