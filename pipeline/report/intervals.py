"""Confidence intervals over seeds, mean +- t s / sqrt(n), and how they are written.

s is the standard deviation over the n seeds and t the quantile of Student's distribution with n - 1 degrees of
freedom; "The Probable Error of a Mean" (Student, 1908), https://doi.org/10.2307/2331554.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Interval", "fixed", "interval", "welch"]


@dataclass(frozen=True)
class Interval:
    """A mean over seeds, and the half width of its confidence interval; None where there is one seed."""

    mean: float
    half: float | None
    part: str = ""  # where only some seeds have the number, of how many it is the mean: "2 of 3 seeds"

    def __str__(self) -> str:
        return self.text(2)

    def text(self, digits: int) -> str:
        """Write mean and half width to so many decimals; a half width that would round to zero becomes a bound."""
        part = f" ({self.part})" if self.part else ""
        if self.half is None:
            return fixed(self.mean, digits) + part
        least = 10.0**-digits
        shown = self.half >= least / 2 or self.half == 0
        return f"{fixed(self.mean, digits)} ± {fixed(self.half, digits) if shown else f'<{least:.{digits}f}'}{part}"


def interval(values: Sequence[float], confidence: float, seeds: int | None = None) -> Interval:
    """Return the mean of independent values and the half width of its Student t interval.

    With the number of all `seeds`, an interval of fewer values says so.

    >>> print(interval([1.0, 2.0, 3.0], confidence=0.95))
    2.00 ± 2.48
    >>> print(interval([1.0], confidence=0.95, seeds=3))
    1.00 (1 of 3 seeds)
    """
    part = f"{len(values)} of {seeds} seeds" if seeds is not None and len(values) < seeds else ""
    if len(values) == 1:
        return Interval(values[0], None, part)
    from scipy.special import stdtrit

    t = float(stdtrit(len(values) - 1, (1 + confidence) / 2))
    return Interval(statistics.fmean(values), t * statistics.stdev(values) / math.sqrt(len(values)), part)


def welch(a: Sequence[float], b: Sequence[float], confidence: float) -> float:
    """Return the half width of Welch's interval of the difference of two means, each of two or more values.

    >>> round(welch([1.0, 2.0], [3.0, 4.0], confidence=0.95), 3)
    3.042
    """
    from scipy.special import stdtrit

    parts = [(statistics.variance(each) / len(each), len(each)) for each in (a, b)]
    total = sum(part for part, _ in parts)
    if total == 0:
        return 0.0
    freedom = total**2 / sum(part**2 / (count - 1) for part, count in parts)
    return float(stdtrit(freedom, (1 + confidence) / 2)) * math.sqrt(total)


def fixed(value: float, digits: int = 2) -> str:
    """Write to so many decimals, without a minus before a zero."""
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text
