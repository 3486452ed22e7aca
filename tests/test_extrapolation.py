"""What importance bounds lack, extrapolated from their rise with k, against weights whose log-mean is known."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pipeline.evaluation.extrapolation import extrapolate, halved_bounds

pytestmark = pytest.mark.usefixtures("float64")


def lognormal(variance: float, *shape: int) -> Tensor:
    """Return logarithms, of this variance, of lognormal weights of mean 1."""
    return math.sqrt(variance) * torch.randn(shape) - variance / 2


def pareto(index: float, *shape: int) -> Tensor:
    """Return logarithms of Pareto weights of mean 1; at an index of 2 or below they have no variance."""
    return -torch.rand(shape).log() / index - math.log(index / (index - 1))


@pytest.mark.parametrize(
    ("log_weight", "shape"),
    [(lognormal, 1.0), (lognormal, 4.0), (lognormal, 16.0), (pareto, 1.3), (pareto, 1.5)],
)
def test_what_is_left_is_found_to_a_factor(log_weight: Callable[..., Tensor], shape: float) -> None:
    """The estimate at k = 100 is between 0.7 and 1.6 times what L_100 lacks, whatever the tail.

    The last rise L_100 - L_50, which would be as much if the weights had a small variance, is less than two thirds of
    it where they have none or a large one, and a quarter for lognormal weights of variance 16.
    """
    bounds = halved_bounds(log_weight(shape, 100, 20_000))
    found, lacks = extrapolate(bounds), -bounds[0].mean().item()
    assert found.measurable
    assert 0.7 < found.remaining / lacks < 1.6
    if (log_weight, shape) != (lognormal, 1.0):
        assert found.last_doubling < 0.67 * lacks
    if (log_weight, shape) == (lognormal, 16.0):
        assert found.last_doubling < 0.27 * lacks


@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.8])
def test_rises_in_a_constant_ratio_are_extrapolated_exactly(ratio: float) -> None:
    """Bounds that lack c r^j at the j-th doubling give ratio, last rise and limit to 1e-10, with an error of 0."""
    lacks = torch.tensor([2.0 * ratio**level for level in range(5)]).flip(0)
    found = extrapolate(-lacks[:, None].expand(-1, 7))
    assert found.ratio == pytest.approx(ratio, abs=1e-10)
    assert found.remaining == pytest.approx(lacks[0].item(), abs=1e-10)
    assert found.last_doubling == pytest.approx((lacks[1] - lacks[0]).item(), abs=1e-10)
    assert found.remaining_se < 1e-10
    assert found.measurable


def test_a_rise_without_end_is_not_measurable() -> None:
    """Bounds that gain as much in each doubling have a lower estimate alone, and so has a single doubling."""
    rising = torch.arange(5.0).flip(0)[:, None].expand(-1, 7)
    assert not extrapolate(rising).measurable
    assert extrapolate(rising).remaining > 1.5
    assert not extrapolate(rising[:2]).measurable
    assert not extrapolate(halved_bounds(pareto(1.02, 1000, 100))).measurable


def test_equal_weights_leave_nothing() -> None:
    """With the exact posterior all bounds are equal, and 0 nats are left, which is a measurement."""
    found = extrapolate(halved_bounds(torch.full((50, 6), -90.0)))
    assert found.measurable
    assert abs(found.remaining) < 1e-9
    with pytest.raises(ValueError, match="at least"):
        extrapolate(halved_bounds(torch.full((1, 6), -90.0)))


def test_halved_bounds_are_those_of_groups() -> None:
    """L_k, L_k/2, ... are log means of disjoint groups, of all draws; a remainder that fills no half is left out."""
    log_weight = 3 * torch.randn(2, 100, 5)
    bounds = halved_bounds(log_weight)
    assert bounds.shape == (5, 2, 5)
    for level in range(5):
        groups = log_weight[:, :96].unflatten(1, (2**level, -1))
        expected = (torch.logsumexp(groups, 2) - math.log(96 / 2**level)).mean(1)
        torch.testing.assert_close(bounds[level], expected, rtol=1e-12, atol=1e-12)
    grouped = halved_bounds(log_weight, 25)
    expected = torch.stack([halved_bounds(part) for part in log_weight.split(25, 1)]).mean(0)
    torch.testing.assert_close(grouped, expected, rtol=1e-12, atol=1e-12)
    assert halved_bounds(log_weight, 3).shape == (2, 2, 5)
    assert halved_bounds(log_weight, 1).shape == (1, 2, 5)


@pytest.mark.parametrize("variance", [1.0, 9.0])
def test_errors_are_the_deviation_over_repetitions(variance: float) -> None:
    """Over 60 repetitions the deviation of both numbers is 0.8 to 1.25 times the printed error.

    That holds over blocks of images that have one distribution, and over draws where images differ and are held fixed.
    """
    offsets = torch.randn(40)
    for images in (False, True):
        shape = (64, 400) if images else (64, 40, 40)
        shift = 0.0 if images else offsets
        rows = [extrapolate(halved_bounds(lognormal(variance, *shape[::-1]).mT + shift)) for _ in range(60)]
        for name in ("left", "last_doubling"):
            values = torch.tensor([getattr(row, name) for row in rows])
            errors = torch.tensor([getattr(row, f"{name}_se") for row in rows])
            assert 0.8 < values.std() / errors.square().mean().sqrt() < 1.25, (name, images)
