"""The contract of every objective, and terms that no weight touches."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.models import HierarchicalVAE, build
from pipeline.objectives import ELBO, OBJECTIVES, beta_at, elbo
from pipeline.params import TrainParams
from tests.small import model_params, train_params

pytestmark = pytest.mark.usefixtures("float64")

objectives = pytest.mark.parametrize("name", list(OBJECTIVES))
depths = pytest.mark.parametrize("depth", [1, 2, 3])


def model(depth: int = 2) -> HierarchicalVAE:
    """Build a small model for six pixels."""
    return build(model_params(depth=depth), torch.full((6,), 0.4))


def bound(depth: int = 2, draws: int = 5) -> ELBO:
    """Return terms of four examples."""
    return elbo(model(depth), torch.bernoulli(torch.full((4, 6), 0.5)), draws)


def test_every_objective_that_params_allow_is_there() -> None:
    """The registry's keys are the choices of `train.objective`, in their order."""
    assert tuple(OBJECTIVES) == get_args(TrainParams.model_fields["objective"].annotation)


@objectives
@depths
@pytest.mark.parametrize("draws", [1, 4])
def test_gradients_are_finite_and_reach_every_weight(name: str, depth: int, draws: int) -> None:
    """Each objective gives every weight of the model a finite gradient that is not all zero."""
    built = model(depth)
    OBJECTIVES[name](elbo(built, torch.eye(6), draws), 0.5).mean().backward()
    for value in built.parameters():
        assert value.grad is not None
        assert value.grad.isfinite().all()
        assert value.grad.any()


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0, 4.0])
def test_beta_weighs_the_rate_alone(beta: float) -> None:
    """`beta` is mean reconstruction less beta times mean kl; the other objectives do not see the weight."""
    terms = bound()
    expected = terms.reconstruction.mean(0) - beta * terms.kl.mean(0)
    torch.testing.assert_close(OBJECTIVES["beta"](terms, beta), expected)
    for name in ("elbo", "iwae"):
        assert torch.equal(OBJECTIVES[name](terms, beta), OBJECTIVES[name](terms, 1.0))


@settings(deadline=None, derandomize=True, max_examples=100)
@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=20))
def test_the_importance_weighted_bound_lies_between_mean_and_maximum(values: list[float]) -> None:
    """For any log-weights, mean <= L_k <= maximum, and L_k >= maximum - log k."""
    log_weight = torch.tensor(values, dtype=torch.float64)[:, None]
    terms = ELBO(log_weight, torch.zeros(1, len(values), 1, dtype=torch.float64))
    slack = 1e-9 * (1 + log_weight.abs().max().item())
    assert terms.elbo.item() <= terms.iwae.item() + slack
    assert terms.iwae.item() <= log_weight.max().item() + slack
    assert terms.iwae.item() >= log_weight.max().item() - math.log(len(values)) - slack


@depths
def test_terms_keep_draw_example_and_level_apart(depth: int) -> None:
    """Rates are [depth, draws, batch], their sum is kl, reconstruction less kl is the log-weight."""
    terms = bound(depth, draws=3)
    assert terms.rate.shape == (depth, 3, 4)
    assert terms.reconstruction.shape == terms.kl.shape == terms.log_weight.shape == (3, 4)
    assert terms.elbo.shape == terms.iwae.shape == (4,)
    torch.testing.assert_close(terms.kl, sum(terms.rate[t] for t in range(depth)))
    torch.testing.assert_close(terms.log_weight, terms.reconstruction - terms.kl)


def test_detached_terms_have_no_graph_and_the_same_values() -> None:
    """`detach` cuts the graph and changes no number."""
    terms = bound()
    bare = terms.detach()
    assert terms.reconstruction.requires_grad
    assert not bare.reconstruction.requires_grad
    assert not bare.rate.requires_grad
    assert torch.equal(bare.log_weight, terms.log_weight)


def test_weights_far_apart_do_not_overflow() -> None:
    """L_k stays in log space: log-weights of -100,000 and +100,000 give the larger less log 2."""
    terms = ELBO(torch.tensor([[-1e5], [1e5]]), torch.zeros(1, 2, 1))
    torch.testing.assert_close(terms.iwae, torch.tensor([1e5 - math.log(2)]))


def test_the_weight_warms_up_linearly_from_zero() -> None:
    """Over `warmup` epochs the weight is beta * epoch / warmup, then beta; without warm-up it is beta at once."""
    params = train_params(objective="beta", beta=4.0, warmup=10)
    assert [beta_at(params, epoch) for epoch in (0.0, 2.5, 5.0, 10.0, 11.0, 1000.0)] == [0, 1, 2, 4, 4, 4]
    assert beta_at(train_params(objective="beta", beta=0.5), 0.0) == 0.5
    assert beta_at(train_params(), 0.0) == 1
