"""Confidence intervals over seeds, mean +- t s / sqrt(n), and how they are written.

s is the standard deviation over the n seeds and t the quantile of Student's distribution with n - 1 degrees of
freedom; "The Probable Error of a Mean" (Student, 1908), https://doi.org/10.2307/2331554.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Interval", "fixed", "interval"]


@dataclass(frozen=True)
class Interval:
    """A mean over seeds, and the half width of its confidence interval; None where there is one seed."""

    mean: float
    half: float | None

    def __str__(self) -> str:
        if self.half is None:
            return fixed(self.mean)
        return f"{fixed(self.mean)} ± {fixed(self.half) if self.half >= 0.005 or self.half == 0 else '<0.01'}"

    def overlaps(self, other: Interval) -> bool:
        """Tell whether two intervals have a point in common; one without a width is unknown, and so may."""
        return self.half is None or other.half is None or abs(self.mean - other.mean) <= self.half + other.half


def interval(values: Sequence[float], confidence: float) -> Interval:
    """Return the mean of independent values and the half width of its Student t interval.

    >>> print(interval([1.0, 2.0, 3.0], confidence=0.95))
    2.00 ± 2.48
    """
    if len(values) == 1:
        return Interval(values[0], None)
    from scipy.special import stdtrit

    t = float(stdtrit(len(values) - 1, (1 + confidence) / 2))
    return Interval(statistics.fmean(values), t * statistics.stdev(values) / math.sqrt(len(values)))


def fixed(value: float) -> str:
    """Write to 2 decimals, without a minus before a zero."""
    return f"{value:.2f}".replace("-0.00", "0.00")
