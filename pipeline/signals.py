"""Signals: the first Ctrl-C, SIGTERM or SIGHUP asks for a clean end, a second Ctrl-C ends everything at once.

The first is noted and raised as KeyboardInterrupt; `heed` raises it again at safe places, since one that falls into
a finalizer is lost. The second is heard by a thread of its own, since Python's handlers wait for long calls in C.
A worker hears only the first: its parent kills it where that is wanted. What was ignored stays ignored (`nohup`, or
Ctrl-C in a shell's background), but for SIGINT in workers, which is how their parent asks.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

__all__ = [
    "PARENT",
    "WORKER",
    "children",
    "follow",
    "hearing",
    "heed",
    "held",
    "later",
    "request_end",
    "status",
    "undisturbed",
    "unheard",
]

HEARD = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
WORKER = "CAVE_WORKER_OF"  # set for a worker: how many there are
PARENT = "CAVE_WORKER_PARENT"  # and whose it is
POLL = 0.2  # seconds
PR_SET_PDEATHSIG = 1


class Killed(Protocol):
    """A process that can be killed."""

    def kill(self) -> None:
        """End it at once."""


children: set[Killed] = set()
"""What a second Ctrl-C kills."""

_first: list[int] = []  # the signal that has asked for an end
_later: list[None] = []  # what goes on that is not to be broken off


def heed() -> None:
    """Stop here if a signal has asked for it."""
    if _first:
        raise KeyboardInterrupt


def request_end(number: int) -> None:
    """Ask this process for a clean end, as if the signal had come: raise KeyboardInterrupt, here or at a safe place."""
    _ask(number, None)


def status() -> int:
    """Return the exit code of a process that a signal has asked to end: 128 and the signal's number."""
    return 128 + (_first[0] if _first else signal.SIGINT)


@contextmanager
def hearing() -> Iterator[None]:
    """Hear signals as long as this lasts; within another `hearing`, or off the main thread, this does nothing."""
    worker, before = WORKER in os.environ, {number: signal.getsignal(number) for number in HEARD}
    heard = [n for n, how in before.items() if how in (signal.SIG_DFL, signal.default_int_handler)]
    if worker and before[signal.SIGINT] is signal.SIG_IGN:
        heard.append(signal.SIGINT)
    if not heard or threading.current_thread() is not threading.main_thread():
        yield
        return
    hook, sys.unraisablehook = sys.unraisablehook, _unraisable
    source, sink = os.pipe()
    os.set_blocking(sink, False)
    threading.Thread(target=_watch, args=(source, worker), daemon=True).start()
    wakeup = signal.set_wakeup_fd(sink, warn_on_full_buffer=False)
    for number in heard:
        signal.signal(number, _ask)
    if worker:  # Ray's processes hold SIGINT back, and pass that on
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HEARD)
    try:
        yield
    finally:
        for number in heard:
            signal.signal(number, before[number])
        signal.set_wakeup_fd(wakeup)
        os.close(sink)
        sys.unraisablehook = hook
        _first.clear()


def unheard() -> None:
    """In a process that was forked within `held`, leave signals as they were before the parent heard them."""
    for number in HEARD:
        if signal.getsignal(number) is _ask:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    signal.set_wakeup_fd(-1)
    sys.unraisablehook = sys.__unraisablehook__
    _first.clear()
    _later.clear()
    children.clear()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HEARD)


@contextmanager
def held() -> Iterator[None]:
    """Hold signals back from a process that is forked in here, until it calls `unheard`; other threads hear theirs."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, HEARD)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def later() -> Iterator[None]:
    """Raise what comes meanwhile at the end."""
    before = bool(_first)
    _later.append(None)
    try:
        yield
    finally:
        _later.pop()
    if not before and not _later:
        heed()


@contextmanager
def undisturbed() -> Iterator[None]:
    """Hold signals off while what was made is removed."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in HEARD}
    try:
        yield
    finally:
        for number, how in before.items():
            signal.signal(number, how)


def follow(parent: int, number: int) -> None:
    """Send this process the signal soon after its parent's end, however and whenever that came."""
    # Linux sends it when the thread that started this process ends: ours wait for what they have started.
    if sys.platform == "linux" and ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number) == 0:
        if os.getppid() != parent:
            os.kill(os.getpid(), number)
        return

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(POLL)
        os.kill(os.getpid(), number)

    threading.Thread(target=watch, daemon=True).start()


def _ask(number: int, frame: object) -> None:
    if not _first:
        _first.append(number)
        if not _later:
            raise KeyboardInterrupt


def _watch(source: int, worker: bool) -> None:
    """Read the numbers of signals as they come; end everything at a Ctrl-C that is not the first of them."""
    asked = False
    while number := os.read(source, 1):
        if asked and number[0] == signal.SIGINT and not worker:
            for process in list(children):
                process.kill()
            os.write(2, b"stopped at once; run the same command to go on\n")
            os._exit(128 + signal.SIGINT)
        asked = True
    os.close(source)


def _unraisable(told: Any) -> None:
    """Say nothing of an interrupt that is lost."""
    if told.exc_type is not KeyboardInterrupt:
        sys.__unraisablehook__(told)
