"""Paired comparisons of variants: variances against their formulas, intervals and verdicts against simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from pipeline.report.intervals import interval
from pipeline.report.paired import crossed_interval, differences

IMAGES = 60


def crossed(rng: np.random.Generator, seeds: int, means: dict[str, float], seed: float, own: float) -> dict:
    """Draw values with effects of images (8, common to all variants), of seeds, and of both together."""
    image = 8 * rng.normal(size=IMAGES)
    return {
        variant: mean
        + seed * rng.normal(size=(seeds, 1))
        + image
        + own * rng.normal(size=IMAGES)
        + own * rng.normal(size=(seeds, IMAGES))
        for variant, mean in means.items()
    }


def overlap(a: np.ndarray, b: np.ndarray) -> bool:
    """Do the t intervals over seeds overlap, the images being fixed?"""
    one, other = (interval(list(values.mean(1)), 0.95) for values in (a, b))
    return abs(one.mean - other.mean) <= one.half + other.half


@pytest.mark.parametrize(("seed", "own"), [(0.1, 0.3), (0.02, 0.8)])
def test_size_is_as_stated(seed, own):
    """Without a difference a pair is decided in at most 5% of the cases, and 95% of the intervals hold 0."""
    rng = np.random.default_rng(0)
    pairs = [differences("nll", crossed(rng, 3, {"a": 0, "b": 0}, seed, own), 0.95)[0] for _ in range(400)]
    assert np.mean([d.decided for d in pairs]) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 400)
    assert np.mean([abs(d.mean) <= d.half for d in pairs]) == pytest.approx(0.95, abs=0.04)


def test_power_is_that_of_welch_and_not_of_overlapping_intervals():
    """A difference of five seed deviations: three seeds decide it in most cases, intervals that overlap in few."""
    rng = np.random.default_rng(0)
    cases = [crossed(rng, 3, {"a": 0, "b": 0.5}, 0.1, 0.1) for _ in range(200)]
    decided = np.mean([differences("nll", case, 0.95)[0].decided for case in cases])
    apart = np.mean([not overlap(case["a"], case["b"]) for case in cases])
    assert decided > 0.85
    assert apart < decided - 0.1


def test_with_no_image_effects_it_is_welchs_test():
    """Where images differ in nothing, difference, p-value and interval are those of Welch's test over seeds."""
    rng = np.random.default_rng(1)
    a, b = (rng.normal(size=(n, 1)) * s + np.zeros((n, IMAGES)) for n, s in ((3, 1.0), (5, 2.0)))
    pairs = differences("nll", {"a": a, "b": b}, 0.95)[0]
    welch = stats.ttest_ind(a[:, 0], b[:, 0], equal_var=False)
    assert pairs.p == pytest.approx(welch.pvalue)
    low, high = welch.confidence_interval(0.95)
    assert (pairs.mean - pairs.half, pairs.mean + pairs.half) == (pytest.approx(low), pytest.approx(high))


def test_the_interval_of_a_mean_covers_images():
    """The interval of one variant's mean holds the population's in 95% of the cases, where that over seeds does not."""
    rng = np.random.default_rng(2)
    cases = [crossed(rng, 3, {"a": 0}, 0.1, 0.3)["a"] for _ in range(400)]
    held = [abs(span.mean) <= span.half for span in (crossed_interval(case, 0.95) for case in cases)]
    assert np.mean(held) == pytest.approx(0.95, abs=0.04)
    assert np.mean([abs(s.mean) <= s.half for s in (interval(list(c.mean(1)), 0.95) for c in cases)]) < 0.5


def test_families_of_pairs_are_adjusted():
    """Of six pairs of four equal variants any is decided in at most 5% of the cases; the order of p is kept."""
    rng = np.random.default_rng(3)
    means = dict.fromkeys("abcd", 0.0)
    cases = [differences("nll", crossed(rng, 5, means, 0.1, 0.3), 0.95) for _ in range(150)]
    assert np.mean([any(d.decided for d in case) for case in cases]) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 150)
    for case in cases[:5]:
        assert len(case) == 6
        ordered = sorted(case, key=lambda d: d.p)
        adjusted = [d.adjusted for d in ordered]
        assert adjusted == sorted(adjusted)
        assert ordered[0].adjusted == pytest.approx(min(1, 6 * ordered[0].p))


def test_the_number_of_seeds_that_is_proposed_decides():
    """As many seeds as an undecided difference asks for decide one of its size in about 80% of the cases."""
    rng = np.random.default_rng(4)
    pilots = (differences("nll", crossed(rng, 8, {"a": 0, "b": 0.1}, 0.1, 0.1), 0.95)[0] for _ in range(50))
    pairs = next(pilot for pilot in pilots if not pilot.decided and pilot.needed_seeds)
    means = {"a": 0, "b": abs(pairs.mean)}
    again = [differences("nll", crossed(rng, pairs.needed_seeds, means, 0.1, 0.1), 0.95)[0] for _ in range(60)]
    assert np.mean([d.decided for d in again]) > 0.5
    assert f"{pairs.needed_seeds} seeds each would decide" in pairs.sentence


@pytest.mark.parametrize(("seeds", "words"), [(1, "with one seed no evidence"), (2, "which decides nothing")])
def test_few_seeds_decide_nothing(seeds, words):
    """One seed has no interval, two have one, and neither decides however far apart the variants are."""
    rng = np.random.default_rng(5)
    pairs = differences("nll", crossed(rng, seeds, {"a": 0, "b": 9}, 0.001, 0.001), 0.95)[0]
    assert not pairs.decided
    assert (pairs.half is None) is (seeds == 1)
    assert words in pairs.sentence
