"""The contract of every family, and what a conditional does with its parents."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.distributions import (
    LATENT,
    LIKELIHOODS,
    SMALLEST_SIGMA,
    Conditional,
    Family,
    StandardNormal,
    diag_gaussian,
)
from pipeline.params import ModelParams

pytestmark = pytest.mark.usefixtures("float64")

FAMILIES = {name: LIKELIHOODS[name] for name in ("bernoulli", "gaussian")} | {"latent": LATENT}
families = pytest.mark.parametrize("name", list(FAMILIES))


def plain_log_prob(name: str, raw: Tensor, x: Tensor) -> Tensor:
    """Write the density of each family as its formula."""
    if name == "bernoulli":
        p = 1 / (1 + torch.exp(-raw))
        return (x * p.log() + (1 - x) * (1 - p).log()).sum(-1)
    mu, spread = raw.tensor_split(2, dim=-1)
    sigma = torch.log(1 + torch.exp(spread)) + 1e-4
    return (-0.5 * ((x - mu) / sigma) ** 2 - sigma.log() - 0.5 * math.log(2 * math.pi)).sum(-1)


def test_every_likelihood_that_params_allow_is_there() -> None:
    """The registry's keys are the choices of `model.likelihood`, in their order."""
    assert tuple(LIKELIHOODS) == get_args(ModelParams.model_fields["likelihood"].annotation)


@families
def test_densities_are_those_of_the_formula(name: str) -> None:
    """`log_prob` sums the plainly written density over the last dimension and keeps the others."""
    family = FAMILIES[name]
    raw = torch.randn(4, 1, 3, family.per_unit * 5)
    x = torch.bernoulli(torch.full((4, 2, 3, 5), 0.5)) if name == "bernoulli" else torch.randn(4, 2, 3, 5)
    found = family.distribution(raw).log_prob(x)
    assert found.shape == (4, 2, 3)
    torch.testing.assert_close(found, plain_log_prob(name, raw, x), rtol=1e-12, atol=1e-12)


@families
def test_the_bias_gives_the_mean_of_the_data(name: str) -> None:
    """At its `bias` a family has the given mean, a pixel that never varies kept 0.001 off certainty."""
    family = FAMILIES[name]
    mean = torch.tensor([0.0, 0.0005, 0.2, 0.5, 0.9, 1.0])
    distribution = family.distribution(family.bias(mean))
    wanted = mean.clamp(1e-3, 1 - 1e-3) if name == "bernoulli" else mean
    torch.testing.assert_close(distribution.mean, wanted, rtol=1e-12, atol=1e-12)
    if name != "bernoulli":
        torch.testing.assert_close(distribution.stddev, torch.ones(6), rtol=1e-12, atol=1e-12)


def test_sigma_is_never_below_its_floor() -> None:
    """However low the raw number, sigma stays at 0.0001, and high ones are sigma itself."""
    sigma = diag_gaussian(torch.tensor([0.0, 0.0, -1e6, 1e6])).stddev
    torch.testing.assert_close(sigma, torch.tensor([SMALLEST_SIGMA, 1e6 + SMALLEST_SIGMA]))


@pytest.mark.parametrize("family", [LATENT], ids=["latent"])
def test_latent_draws_carry_gradients(family: Family) -> None:
    """Draws are mu + sigma * eps (18): their gradient is 1 in mu and eps * sigmoid(raw) in the raw deviation."""
    raw = torch.randn(6, requires_grad=True)
    distribution = family.distribution(raw)
    z = distribution.rsample()
    eps = ((z - distribution.mean) / distribution.stddev).detach()
    (gradient,) = torch.autograd.grad(z.sum(), raw)
    expected = torch.cat([torch.ones(3), eps * torch.sigmoid(raw[3:])])
    torch.testing.assert_close(gradient, expected.detach(), rtol=1e-9, atol=1e-9)


def test_the_standard_normal_is_one() -> None:
    """The prior (16) has the density of N(0, I), no weights, and nothing in a checkpoint."""
    prior = StandardNormal(3)
    z = torch.randn(4, 2, 3)
    plain = -0.5 * (z**2).sum(-1) - 1.5 * math.log(2 * math.pi)
    torch.testing.assert_close(prior().log_prob(z), plain)
    assert not list(prior.parameters())
    assert not prior.state_dict()


class Recorder(nn.Module):
    """Give back what came in, and keep it."""

    def forward(self, context: Tensor) -> Tensor:
        self.seen = context
        return context


def test_a_conditional_joins_its_parents_in_order() -> None:
    """Parents are put side by side, the nearest first, their leading dimensions broadcast."""
    recorder = Recorder()
    conditional = Conditional(recorder, LIKELIHOODS["bernoulli"])
    near, far = torch.randn(5, 3, 2), torch.randn(1, 3, 4)
    assert conditional(near, far).batch_shape == (5, 3)
    torch.testing.assert_close(recorder.seen, torch.cat([near, far.expand(5, 3, 4)], dim=-1))
    assert conditional(far).batch_shape == (1, 3)
    torch.testing.assert_close(recorder.seen, far)


def test_a_conditional_is_its_family_at_its_network() -> None:
    """The distribution is the family's at the network's raw numbers."""
    network = nn.Linear(4, 6)
    z = torch.randn(2, 3, 4)
    distribution = Conditional(network, LATENT)(z)
    mu, raw = network(z).chunk(2, dim=-1)
    torch.testing.assert_close(distribution.mean, mu)
    torch.testing.assert_close(distribution.stddev, F.softplus(raw) + 1e-4)
