"""How far a piece of work is, as numbers and in words."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Status", "count_text", "seconds_text", "time_left"]


@dataclass(frozen=True)
class Status:
    """How far a piece of work is."""

    name: str  # of the piece of work: `mhvae seed 0`
    what: str = ""  # is done: `annealing`
    done: int = 0
    total: int = 0
    unit: str = ""  # of the two counts
    fraction: float = 0.0  # of them that is done, with what is done of the present one
    seconds_left: float | None = None
    value: float | None = None  # of the bound
    best: float | None = None
    rate: str = ""
    ended: bool = False
    counted: bool = True  # as one of the pieces of a stage

    @property
    def text(self) -> str:
        """What is done and how far that is, in words."""
        return count_text(self.what, self.done, self.total, self.unit)


def count_text(what: str, done: int, total: int, unit: str) -> str:
    """Say how far something is; a total of 0 is not known."""
    count = f"{done} of {total} {unit}" if total else f"{done} {unit}" if done else ""
    return f"{what}{', ' if unit and count else ' ' if count else ''}{count}".rstrip()


def time_left(done: float, total: float, seconds: float) -> str:
    """Return the time that is left, at the rate of what was done in so many seconds; nothing where it is short."""
    rest = seconds * (total - done) / done if done else 0.0
    return "" if rest < 1 else f", about {seconds_text(rest)} left"


def seconds_text(seconds: float) -> str:
    """Write a time in seconds, minutes or hours.

    >>> seconds_text(45), seconds_text(600), seconds_text(36000)
    ('45 s', '10 min', '10.0 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
