"""The pieces of work and the loops that code marks as such, wherever they are, without passing a reporter on."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from pipeline.progress.reporter import EVERY, Loop, Reporter, is_connected
from pipeline.progress.status import count_text, time_left

__all__ = ["counting", "line_printed", "print_note", "reporting", "track_progress"]

T = TypeVar("T")

_current: ContextVar[Reporter | None] = ContextVar("reporter", default=None)


@contextmanager
def reporting(
    name: str, clock: Callable[[], float] = time.monotonic, *, counted: bool = True, beats: bool = True
) -> Iterator[Reporter]:
    """Report the progress of this block under a name.

    Args:
        name: of the piece of work.
        clock: gives the present second.
        counted: whether it is one of the pieces that a stage counts.
        beats: whether a thread prints a line when 30 seconds have passed without one.
    """
    reporter, ended = Reporter(name, clock, counted), threading.Event()
    token = _current.set(reporter)
    reporter.show(clock())
    thread = threading.Thread(target=_beat, args=(reporter, ended), daemon=True)
    if beats:
        thread.start()
    try:
        yield reporter
        reporter.show(clock(), ended=True)
    finally:
        ended.set()
        if beats:
            thread.join()
        _current.reset(token)


def _beat(reporter: Reporter, ended: threading.Event) -> None:
    """Print a line of the work whenever 30 seconds have passed without one."""
    wait = EVERY
    while not ended.wait(wait):
        age = reporter.clock() - reporter.last
        if age >= EVERY and not is_connected():
            reporter.beat()
        wait = EVERY - age if age < EVERY else EVERY


def line_printed() -> None:
    """Note that a line about the present piece of work was printed by other means."""
    if reporter := _current.get():
        reporter.last = reporter.clock()


def print_note(text: str) -> None:
    """Print a line under the name of the present piece of work, without one on the standard error."""
    reporter = _current.get()
    if reporter is not None:
        reporter.print(text)
    else:
        print(text, file=sys.stderr)


@contextmanager
def counting(what: str, unit: str, total: int, *, long: bool = False) -> Iterator[Callable[[int], None]]:
    """Yield a function that is called with how much of `total` is done, again and again.

    A `long` loop prints nothing in its first 30 seconds, because its caller prints when it ends.
    """
    reporter = _current.get()
    if reporter is None:
        yield lambda done: None
        return
    loop = Loop(what, unit, total, reporter.clock())
    reporter.loops.append(loop)

    def advance(done: int) -> None:
        loop.done, now = done, reporter.clock()
        seconds = now - loop.start
        if is_connected():
            reporter.show(now)
        elif reporter.due and not (long and seconds < EVERY):
            reporter.print(count_text(what, done, total, unit) + time_left(done, total, seconds))

    try:
        yield advance
    finally:
        reporter.loops = [other for other in reporter.loops if other is not loop]


def track_progress(items: Sequence[T], what: str, unit: str, *, long: bool = False) -> Iterator[T]:
    """Yield the items, and report how many of them are done (`counting`)."""
    with counting(what, unit, len(items), long=long) as advance:
        for done, item in enumerate(items):
            advance(done)
            yield item
