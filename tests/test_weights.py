"""Effective numbers of draws and Pareto's k-hat, on weights whose tail is known."""

from __future__ import annotations

import math

import pytest
import torch

from pipeline.evaluation.weights import FEWEST_DRAWS, HEAVIEST, effective_draws, pareto_khat


def test_the_effective_number_counts_equal_weights() -> None:
    """Equal weights among weights of 0 count as many as they are, whatever their scale."""
    log_weight = torch.full((10, 3), -math.inf)
    for column, equal in enumerate((1, 4, 10)):
        log_weight[:equal, column] = 500.0
    torch.testing.assert_close(effective_draws(log_weight), torch.tensor([1.0, 4.0, 10.0]))


@pytest.mark.parametrize("shape", [0.3, 0.7, 1.0])
def test_khat_is_the_shape_of_pareto_weights(shape: float) -> None:
    """Weights u^-k have k-hat = k: of the upper tail, not of the lower one."""
    torch.manual_seed(0)
    log_weight = -shape * torch.rand(4000, 20, dtype=torch.float64).log()
    assert pareto_khat(log_weight).mean().item() == pytest.approx(shape, abs=0.06)
    assert pareto_khat(-log_weight).max().item() < 0.3


def test_khat_of_what_has_no_tail() -> None:
    """Equal weights have no tail, and of few draws it is not known."""
    assert pareto_khat(torch.zeros(100, 2)).tolist() == [0.0, 0.0]
    assert pareto_khat(torch.randn(FEWEST_DRAWS, 2)).isfinite().all()
    assert pareto_khat(torch.randn(FEWEST_DRAWS - 1, 2)).isnan().all()


def test_a_tail_beyond_the_range_of_numbers_is_the_heaviest() -> None:
    """Where a few draws lead all others by 700 nats k-hat is the largest there is, and not that of equal weights."""
    one = torch.zeros(1000, 1, dtype=torch.float64)
    one[0] = 1000.0
    assert pareto_khat(one).tolist() == [HEAVIEST]
    torch.manual_seed(0)
    spreads = [pareto_khat(spread * torch.randn(5000, 4, dtype=torch.float64)).min().item() for spread in (50, 500)]
    assert min(spreads) > 0.7
