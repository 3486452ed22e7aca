"""Signals: the first Ctrl-C, SIGTERM or SIGHUP asks for a clean end, a second Ctrl-C ends everything at once.

The first signal is recorded and raised as KeyboardInterrupt; `raise_if_interrupted` raises it again at safe places,
because an exception that is raised in a finalizer is lost. A thread of its own handles the second, because Python's
handlers wait for long calls in C. A worker handles only the first; its parent kills it where necessary. A signal that
was ignored stays ignored (`nohup`, or Ctrl-C in a shell's background), except SIGINT in workers, which is how their
parent asks them to stop.
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

from pipeline.environment import WorkerRole

__all__ = [
    "block_signals",
    "children",
    "defer_interrupts",
    "die_with_parent",
    "handle_signals",
    "ignore_signals",
    "raise_if_interrupted",
    "request_end",
    "reset_handlers",
    "status",
]

HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
POLL = 0.2  # seconds
PR_SET_PDEATHSIG = 1


class Killed(Protocol):
    """A process that can be killed."""

    def kill(self) -> None:
        """End it at once."""


children: set[Killed] = set()
"""What a second Ctrl-C kills."""

_received: list[int] = []  # the signal that has asked for an end
_deferrals: list[None] = []  # blocks of `defer_interrupts` that are open


def raise_if_interrupted() -> None:
    """Raise KeyboardInterrupt if a signal has asked this process to end."""
    if _received:
        raise KeyboardInterrupt


def request_end(number: int) -> None:
    """Ask this process for a clean end, as if the signal had come: raise KeyboardInterrupt, here or at a safe place."""
    _handle(number, None)


def status() -> int:
    """Return the exit code of a process that a signal has asked to end: 128 and the signal's number."""
    return 128 + (_received[0] if _received else signal.SIGINT)


@contextmanager
def handle_signals() -> Iterator[None]:
    """Handle signals inside this block; inside another `handle_signals`, or off the main thread, do nothing."""
    worker, before = WorkerRole.read() is not None, {number: signal.getsignal(number) for number in HANDLED}
    handled = [n for n, how in before.items() if how in (signal.SIG_DFL, signal.default_int_handler)]
    if worker and before[signal.SIGINT] is signal.SIG_IGN:
        handled.append(signal.SIGINT)
    if not handled or threading.current_thread() is not threading.main_thread():
        yield
        return
    hook, sys.unraisablehook = sys.unraisablehook, _unraisable
    source, sink = os.pipe()
    os.set_blocking(sink, False)
    threading.Thread(target=_watch, args=(source, worker), daemon=True).start()
    wakeup = signal.set_wakeup_fd(sink, warn_on_full_buffer=False)
    for number in handled:
        signal.signal(number, _handle)
    if worker:  # Ray's processes hold SIGINT back, and pass that on
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)
    try:
        yield
    finally:
        for number in handled:
            signal.signal(number, before[number])
        signal.set_wakeup_fd(wakeup)
        os.close(sink)
        sys.unraisablehook = hook
        _received.clear()


def reset_handlers() -> None:
    """In a process that was forked within `block_signals`, restore the default handlers and unblock signals."""
    for number in HANDLED:
        if signal.getsignal(number) is _handle:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    signal.set_wakeup_fd(-1)
    sys.unraisablehook = sys.__unraisablehook__
    _received.clear()
    _deferrals.clear()
    children.clear()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)


@contextmanager
def block_signals() -> Iterator[None]:
    """Block signals for a process that is forked inside this block, until it calls `reset_handlers`."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def defer_interrupts() -> Iterator[None]:
    """Delay the KeyboardInterrupt of a signal that arrives inside this block until its end."""
    before = bool(_received)
    _deferrals.append(None)
    try:
        yield
    finally:
        _deferrals.pop()
    if not before and not _deferrals:
        raise_if_interrupted()


@contextmanager
def ignore_signals() -> Iterator[None]:
    """Ignore signals inside this block, which removes what an interrupted operation has left."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in HANDLED}
    try:
        yield
    finally:
        for number, how in before.items():
            signal.signal(number, how)


def die_with_parent(parent: int, number: int) -> None:
    """Arrange that this process receives signal `number` soon after its parent has ended."""
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


def _handle(number: int, frame: object) -> None:
    if not _received:
        _received.append(number)
        if not _deferrals:
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


def _unraisable(error: Any) -> None:
    """Print nothing for a KeyboardInterrupt that is lost in a finalizer."""
    if error.exc_type is not KeyboardInterrupt:
        sys.__unraisablehook__(error)
