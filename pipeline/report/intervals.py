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
        return self.text(2)

    def text(self, digits: int) -> str:
        """Write mean and half width to so many decimals; a half width that would vanish is told as a bound."""
        if self.half is None:
            return fixed(self.mean, digits)
        least = 10.0**-digits
        shown = self.half >= least / 2 or self.half == 0
        return f"{fixed(self.mean, digits)} ± {fixed(self.half, digits) if shown else f'<{least:.{digits}f}'}"


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


def fixed(value: float, digits: int = 2) -> str:
    """Write to so many decimals, without a minus before a zero."""
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text
