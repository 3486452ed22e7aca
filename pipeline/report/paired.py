"""Differences between variants, paired over test images, and what their intervals cover.

The values of a variant are a matrix with a row for each training seed and a column for each test image. Seeds and
images are crossed random effects,

    value[seed, image] = mean + seed effect + image effect + interaction,

so that the variance of a mean over both is estimated by

    var(means of the rows) / seeds + var(means of the columns) / images - var(interaction) / (seeds images),

the last since both of the former contain it. For the difference of two variants the columns are the differences of the
two column means, since both variants were measured on the same images; trainings of different variants are independent,
so that the seeds of both count, as in Welch's test. The luck of the search is part of the seed effect where every seed
has a search of its own; where fewer searches than seeds were run (`sweep.searches` above 1) it is so in part, and after
a single search it is in no interval. The Monte Carlo error of the draws is part of the interaction.
Degrees of freedom follow Satterthwaite, p-values are adjusted by Holm's method over all pairs of variants.

Sources: Satterthwaite, "An Approximate Distribution of Estimates of Variance Components" (1946),
https://doi.org/10.2307/3002019; Holm, "A Simple Sequentially Rejective Multiple Test Procedure" (1979),
https://www.jstor.org/stable/4615733
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.report.intervals import Interval

if TYPE_CHECKING:
    import numpy as np

__all__ = ["FEWEST_SEEDS", "Difference", "crossed_interval", "differences", "p_text"]

FEWEST_SEEDS = 3  # below this nothing is said to be decided
MOST_SEEDS = 100  # numbers of seeds above this are not proposed
MOST_IMAGES = 1_000_000
POWER = 0.8  # with which the proposed number of seeds or images decides a difference of the measured size


@dataclass(frozen=True)
class Spread:
    """Variances, per seed and per image, of one matrix; `seed` and `image` are without the interaction's part."""

    seeds: int
    images: int
    seed: float
    interaction: float  # of one seed at one image


@dataclass(frozen=True)
class Difference:
    """How far the mean of `first` lies from that of `second`, in the metric's unit."""

    metric: str
    first: str
    second: str
    mean: float  # first - second
    half: float | None  # of the interval; None with one seed
    p: float | None
    adjusted: float | None  # p by Holm over all pairs
    decided: bool
    seeds: tuple[int, int]
    images: int
    needed_seeds: int | None = None  # of each variant, to decide a difference of this size; None: too many
    needed_images: int | None = None  # the same, with the present seeds

    @property
    def lower(self) -> str:
        """The variant with the lower mean."""
        return self.first if self.mean <= 0 else self.second

    @property
    def higher(self) -> str:
        """The other variant."""
        return self.second if self.mean <= 0 else self.first

    @property
    def interval(self) -> Interval:
        """The absolute difference, with the half width of its interval."""
        return Interval(abs(self.mean), self.half)

    @property
    def sentence(self) -> str:
        """Say what was measured, and where nothing is decided, what would decide it."""
        if self.decided:
            return f"{self.lower} is {self.interval} nats below {self.higher} ({p_text(self.adjusted)})."
        if self.half is None:
            return f"{self.lower} and {self.higher} differ by {self.interval} nats, with one seed no evidence."
        text = f"{self.lower} and {self.higher} differ by {self.interval} nats, which decides nothing"
        return f"{text} ({p_text(self.adjusted)}): {self.needed}."

    @property
    def needed(self) -> str:
        """How many seeds or images would decide a difference of this size, in words."""
        if self.needed_seeds:
            return f"{self.needed_seeds} seeds each would decide a difference of this size in four of five cases"
        if self.needed_images:
            return f"{self.needed_images:,} test images would decide a difference of this size in four of five cases"
        return f"more than {MOST_SEEDS} seeds each are needed for a difference of this size"


def _spread(values: np.ndarray) -> Spread:
    """Return the variances of a matrix [seeds, images] of at least two of each."""
    seeds, images = values.shape
    rows, columns = values.mean(1), values.mean(0)
    interaction = (values - rows[:, None] - columns + values.mean()) ** 2
    both = float(interaction.sum() / ((seeds - 1) * (images - 1)))
    return Spread(seeds, images, max(0.0, float(rows.var(ddof=1)) - both / images), both)


def crossed_interval(values: np.ndarray, confidence: float) -> Interval:
    """Return the mean of a variant's values [seeds, images] and the half width of its interval over both."""
    mean = float(values.mean())
    if min(values.shape) < 2:
        return Interval(mean, None)
    one = _spread(values)
    columns = float(values.mean(0).var(ddof=1)) / one.images
    variance, freedom = _total([one], columns)
    return Interval(mean, _quantile(freedom, (1 + confidence) / 2) * math.sqrt(variance))


def differences(metric: str, values: Mapping[str, np.ndarray], confidence: float) -> list[Difference]:
    """Compare every pair of variants; their matrices [seeds, images] have the same images in the same order."""
    pairs = list(itertools.combinations(values, 2))
    compared = [_compare(values[first], values[second]) for first, second in pairs]
    adjusted = _holm([p for _, _, p in compared])
    level = 1 - confidence
    results = []
    for (first, second), (mean, error, p), corrected in zip(pairs, compared, adjusted, strict=True):
        a, b = values[first], values[second]
        seeds = (len(a), len(b))
        decided = corrected is not None and corrected < level and min(seeds) >= FEWEST_SEEDS
        half = needed_seeds = needed_images = None
        if error is not None:
            variance, freedom = error
            half = _quantile(freedom, (1 + confidence) / 2) * math.sqrt(variance)
            if not decided:
                needed_seeds, needed_images = _needed(a, b, abs(mean), level / len(pairs))
        results.append(
            Difference(
                metric, first, second, mean, half, p, corrected, decided, seeds, a.shape[1], needed_seeds, needed_images
            )
        )
    return results


def _compare(a: np.ndarray, b: np.ndarray) -> tuple[float, tuple[float, float] | None, float | None]:
    """Return the difference of the means, its variance and degrees of freedom, and the p-value of no difference."""
    from scipy.special import stdtr

    mean = float(a.mean() - b.mean())
    if min(*a.shape, *b.shape) < 2:
        return mean, None, None
    columns = float((a.mean(0) - b.mean(0)).var(ddof=1)) / a.shape[1]
    variance, freedom = _total([_spread(a), _spread(b)], columns)
    if variance == 0:
        return mean, (variance, freedom), float(mean == 0)
    return mean, (variance, freedom), 2 * float(stdtr(freedom, -abs(mean) / math.sqrt(variance)))


def _total(parts: list[Spread], columns: float) -> tuple[float, float]:
    """Return the variance of a mean, or of a difference of two, and its degrees of freedom.

    `columns` is the variance of the mean over the images; it contains the interactions.
    """
    by_seed = [part.seed / part.seeds for part in parts]
    variance = sum(by_seed) + columns
    squares = sum(v**2 / (part.seeds - 1) for v, part in zip(by_seed, parts, strict=True))
    squares += columns**2 / (parts[0].images - 1)
    return variance, variance**2 / squares if squares else math.inf


def _needed(a: np.ndarray, b: np.ndarray, size: float, level: float) -> tuple[int | None, int | None]:
    """Return how many seeds each, or how many images, decide a difference of this size at this level."""
    parts, images = [_spread(a), _spread(b)], a.shape[1]
    columns = float((a.mean(0) - b.mean(0)).var(ddof=1))
    by_image = max(0.0, columns - sum(part.interaction / part.seeds for part in parts))

    def decides(seeds: int | None, count: int) -> bool:
        changed = [Spread(seeds or part.seeds, count, part.seed, part.interaction) for part in parts]
        rest = (by_image + sum(part.interaction / part.seeds for part in changed)) / count
        variance, freedom = _total(changed, rest)
        return size >= (_quantile(freedom, 1 - level / 2) + _quantile(freedom, POWER)) * math.sqrt(variance)

    now = max(len(a), len(b), FEWEST_SEEDS - 1)
    for_seeds = next((n for n in range(now + 1, MOST_SEEDS + 1) if decides(n, images)), None)
    counts = [images * 2**n for n in range(1, 40) if images * 2**n <= MOST_IMAGES]
    enough = min(len(a), len(b)) >= FEWEST_SEEDS
    return for_seeds, next((n for n in counts if decides(None, n)), None) if enough else None


def _holm(values: list[float | None]) -> list[float | None]:
    """Return p-values adjusted by Holm's method; those that are missing stay so.

    >>> _holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    ordered = sorted((p, index) for index, p in enumerate(values) if p is not None)
    adjusted: list[float | None] = [None] * len(values)
    highest = 0.0
    for rank, (p, index) in enumerate(ordered):
        highest = max(highest, min(1.0, (len(ordered) - rank) * p))
        adjusted[index] = highest
    return adjusted


def _quantile(freedom: float, probability: float) -> float:
    from scipy.special import ndtri, stdtrit

    return float(ndtri(probability) if math.isinf(freedom) else stdtrit(freedom, probability))


def p_text(value: float | None) -> str:
    """Return a p-value as it is written in a sentence."""
    assert value is not None
    return "p < 0.001" if value < 0.001 else f"p = {value:.2g}"
