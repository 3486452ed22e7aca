"""A named piece of work: it prints lines, and gives its status to a display where one was connected."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from pipeline.progress.status import Status, seconds_text, time_left

__all__ = ["EVERY", "Loop", "Reporter", "connect", "is_connected"]

EVERY = 30.0  # seconds between two lines
OFTEN = 0.25  # seconds between two statuses


@dataclass
class Loop:
    """A loop that is at work."""

    what: str
    unit: str
    total: int
    start: float
    done: int = 0


_display: list[Callable[[Status], None]] = []  # at most one


def connect(show: Callable[[Status], None] | None) -> None:
    """Give each status of the work of this process to `show`; to nobody any more for None."""
    _display[:] = [show] if show else []


def is_connected() -> bool:
    """Return whether a display gets the statuses, so that no line is printed for progress alone."""
    return bool(_display)


class Reporter:
    """A named piece of work: its loops that are at work, and when it has printed its last line."""

    def __init__(self, name: str, clock: Callable[[], float] = time.monotonic, counted: bool = True) -> None:
        self.name, self.clock, self.counted = name, clock, counted
        self.start = self.last = clock()
        self.shown = -math.inf
        self.loops: list[Loop] = []  # from the outermost to the innermost
        self.epochs: Loop | None = None
        self.value: float | None = None
        self.best: float | None = None
        self.rate = ""

    @property
    def due(self) -> bool:
        """Whether the last line is 30 seconds old."""
        return self.clock() - self.last >= EVERY

    def print(self, text: str) -> None:
        """Print a line."""
        print(f"{self.name}: {text}\n", end="", flush=True)
        self.last = self.clock()

    def step(self, done: int, total: int, text: str, seconds: float) -> None:
        """Print the text and the time left at the first, the last and each fifth step, and whenever a line is due.

        Where there is a display, only the last step is printed.
        """
        if done == total or (not _display and (done == 1 or done % max(1, total // 5) == 0 or self.due)):
            self.print(text + time_left(done, total, seconds))

    def epoch(self, done: int, total: int, seconds: float, value: float, rate: str = "") -> None:
        """Note that an epoch has ended, `seconds` after the training's begin, and the bound that it gave."""
        self.epochs = Loop("epoch", "", total, self.clock() - seconds, done)
        self.value, self.rate = value, rate
        self.best = value if self.best is None else max(self.best, value)
        self.show(self.clock())

    def show(self, now: float, *, ended: bool = False) -> None:
        """Give the status to the display, if there is one, unless that was done a moment ago."""
        if _display and (ended or now - self.shown >= OFTEN):
            self.shown = now
            _display[-1](self.status(now, ended=ended))

    def status(self, now: float, *, ended: bool = False) -> Status:
        """Return the status: of the epochs, else of the outermost loop, each with what is done of the loops within."""
        loops = [*([self.epochs] if self.epochs else []), *self.loops]
        fraction = 0.0
        for loop in reversed(loops):
            fraction = min(1.0, (loop.done + fraction) / loop.total) if loop.total else 0.0
        first = loops[0] if loops else Loop("", "", 0, now)
        seconds_left = (now - first.start) * (1 - fraction) / fraction if fraction else None
        return Status(
            name=self.name,
            what=first.what,
            done=first.done,
            total=first.total,
            unit=first.unit,
            fraction=fraction,
            seconds_left=seconds_left,
            value=self.value,
            best=self.best,
            rate=self.rate,
            ended=ended,
            counted=self.counted,
        )

    def beat(self) -> None:
        """Print how far the work is: for loops whose steps take over 30 seconds, and for work without a loop."""
        now = self.clock()
        status = self.status(now)
        rest = "" if status.seconds_left is None else f", about {seconds_text(status.seconds_left)} left"
        self.print(f"{status.text}{rest}" if status.what else f"at work for {seconds_text(now - self.start)}")
