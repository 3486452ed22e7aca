"""A ratio of two measurements that were taken side by side, and how they are taken.

Absolute figures are not stable on shared machines; what two forms of the same work take one right after the other is
in proportion. So every ratio is the median of those of single rounds, and its range is theirs.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = ["Row", "alternate", "row"]


@dataclass(frozen=True)
class Row:
    """A ratio: what it is of, its median over the rounds, its smallest and largest value."""

    part: str
    what: str
    ratio: float
    low: float
    high: float
    better: Literal["more", "less"]
    unit: str
    figures: dict[str, float]  # medians of both sides, in this unit: worth nothing by themselves

    @property
    def key(self) -> str:
        """What the row is found by in another run."""
        return f"{self.part}: {self.what}"


def alternate(measures: Mapping[str, Callable[[], float]], repetitions: int) -> dict[str, list[float]]:
    """Take every measurement once to warm up and then once a round, every other round in the reverse order."""
    for measure in measures.values():
        measure()
    taken: dict[str, list[float]] = {name: [] for name in measures}
    for turn in range(repetitions):
        for name in list(measures)[:: -1 if turn % 2 else 1]:
            taken[name].append(measures[name]())
    return taken


def row(
    part: str,
    what: str,
    taken: Mapping[str, Sequence[float]],
    pair: tuple[str, str],
    unit: str,
    better: Literal["more", "less"] = "more",
) -> Row:
    """Return the ratio of the first of a pair to the second."""
    ratios = [first / second for first, second in zip(taken[pair[0]], taken[pair[1]], strict=True)]
    figures = {name: statistics.median(taken[name]) for name in pair}
    return Row(part, what, statistics.median(ratios), min(ratios), max(ratios), better, unit, figures)
