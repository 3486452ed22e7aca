"""Progress lines of long work: at least one every 30 seconds, with the time that is left.

`reporting` names the piece of work; within it, `watched` goes through the steps of a loop, however deep below, and
prints a line when the last one is 30 seconds old. Outside of `reporting` nothing is printed.

    mhvae seed 0: annealing, 40 of 100 temperatures, about 40 s left
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

__all__ = ["EVERY", "Reporter", "print_note", "reporting", "time_left", "track_progress"]

T = TypeVar("T")

EVERY = 30.0  # seconds between two lines


class Reporter:
    """A named piece of work, and when it has printed its last line."""

    def __init__(self, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.name, self.clock = name, clock
        self.last = clock()

    @property
    def due(self) -> bool:
        """Whether the last line is 30 seconds old."""
        return self.clock() - self.last >= EVERY

    def print(self, text: str) -> None:
        """Print a line."""
        print(f"{self.name}: {text}", flush=True)
        self.last = self.clock()

    def step(self, done: int, total: int, text: str, seconds: float) -> None:
        """Print the text and the time left at the first, the last and each fifth step, and whenever a line is due."""
        if done in (1, total) or done % max(1, total // 5) == 0 or self.due:
            self.print(text + time_left(done, total, seconds))


_current: ContextVar[Reporter | None] = ContextVar("reporter", default=None)


@contextmanager
def reporting(name: str, clock: Callable[[], float] = time.monotonic) -> Iterator[Reporter]:
    """Print the progress of the loops that are `watched` in here, under a name."""
    reporter = Reporter(name, clock)
    token = _current.set(reporter)
    try:
        yield reporter
    finally:
        _current.reset(token)


def print_note(text: str) -> None:
    """Print a line under the name of the present piece of work, if there is one."""
    reporter = _current.get()
    if reporter is not None:
        reporter.print(text)


def track_progress(items: Sequence[T], what: str, unit: str, *, long: bool = False) -> Iterator[T]:
    """Yield the items; a `long` loop prints nothing in its first 30 seconds, because its caller prints when it ends."""
    reporter = _current.get()
    if reporter is None:
        yield from items
        return
    start = reporter.clock()
    for done, item in enumerate(items):
        seconds = reporter.clock() - start
        if reporter.due and not (long and seconds < EVERY):
            reporter.print(f"{what}, {done} of {len(items)} {unit}{time_left(done, len(items), seconds)}")
        yield item


def time_left(done: int, total: int, seconds: float) -> str:
    """Return the time that is left, at the rate of what was done in so many seconds; nothing where it is short."""
    rest = seconds * (total - done) / done if done else 0.0
    if rest < 1:
        return ""
    text = f"{rest:.0f} s" if rest < 120 else f"{rest / 60:.0f} min" if rest < 7200 else f"{rest / 3600:.1f} h"
    return f", about {text} left"
