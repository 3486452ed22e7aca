"""The contract of every family, and what a conditional does with its parents."""

from __future__ import annotations

import math
from itertools import product
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


def support(name: str, units: int) -> tuple[Tensor, float]:
    """Return points [n, units] that cover the support, and the volume of each."""
    axis = torch.tensor([0.0, 1.0]) if name == "bernoulli" else torch.linspace(-12, 12, 401)
    points = torch.tensor(list(product(axis.tolist(), repeat=units)))
    return points, 1.0 if name == "bernoulli" else (24 / 400) ** units


def test_every_likelihood_that_params_allow_is_there() -> None:
    """The registry's keys are the choices of `model.likelihood`, in their order."""
    assert tuple(LIKELIHOODS) == get_args(ModelParams.model_fields["likelihood"].annotation)


@families
@pytest.mark.parametrize("units", [1, 2])
def test_densities_sum_to_one(name: str, units: int) -> None:
    """Summed or integrated over the support, the density of any raw numbers is 1."""
    family = FAMILIES[name]
    points, volume = support(name, units)
    for _ in range(3):
        raw = torch.randn(family.per_unit * units)
        total = (family.distribution(raw).log_prob(points).exp() * volume).sum()
        assert abs(total - 1) < 1e-9


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


@families
def test_samples_lie_in_the_support_and_have_the_mean(name: str) -> None:
    """20,000 samples have density, the family's event shape, and its mean within 5 standard errors."""
    family = FAMILIES[name]
    distribution = family.distribution(torch.randn(family.per_unit * 3))
    assert distribution.event_shape == (3,)
    x = distribution.sample((20_000,))
    assert x.shape == (20_000, 3)
    assert distribution.log_prob(x).isfinite().all()
    if name == "bernoulli":
        assert set(x.unique().tolist()) == {0.0, 1.0}
    error = distribution.stddev / len(x) ** 0.5
    assert ((x.mean(0) - distribution.mean).abs() < 5 * error).all()


@families
@pytest.mark.parametrize("size", [1e2, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_raw_numbers_keep_everything_finite(name: str, size: float, dtype: torch.dtype) -> None:
    """Density, mean, deviation and gradient of raw numbers of +-10,000 are finite."""
    family = FAMILIES[name]
    signs = torch.tensor(list(product([-1.0, 1.0], repeat=family.per_unit * 2)), dtype=dtype)
    raw = (size * signs).requires_grad_()
    distribution = family.distribution(raw)
    density = distribution.log_prob(torch.tensor([0.0, 1.0], dtype=dtype))
    (gradient,) = torch.autograd.grad(density.sum(), raw)
    for value in (density, distribution.mean, distribution.stddev, gradient):
        assert value.isfinite().all()


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
