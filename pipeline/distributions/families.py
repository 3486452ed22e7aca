"""Families: what turns a network's raw numbers into a distribution over vectors.

    DiagGaussian            N(z; mu, diag sigma^2), sigma = softplus(raw) + 1e-4                          (15)
    bernoulli               p(x = 1) = sigmoid(logit), pixels 0 or 1
    gaussian                N(x; mu, diag sigma^2), the variance learned or fixed, pixels in [0, 1]
    continuous_bernoulli    density C(eta) exp(eta x) on [0, 1], pixels grey
    discretized_logistic    a logistic's mass in the bin around each grey level, the outer bins open

`softplus` and not `exp`: in a chain of levels the exponential of a network's output led to non-finite bounds
for inputs of standard deviation 5, the soft one did not.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution, Independent
from torch.nn import functional as F

from pipeline.distributions.bernoulli import BernoulliVector
from pipeline.distributions.gaussian import DiagGaussian
from pipeline.distributions.grey import ContinuousBernoulli, DiscretizedLogistic
from pipeline.params import ModelParams

__all__ = ["LATENT", "LIKELIHOODS", "POSTERIORS", "SMALLEST_SIGMA", "Family", "diag_gaussian", "likelihood"]

SMALLEST_SIGMA = 1e-4


@dataclass(frozen=True)
class Family:
    """A family of distributions over vectors, given by `per_unit` raw numbers a unit.

    `distribution` takes raw numbers [..., per_unit * units]; `bias` gives the raw numbers at which an
    untrained network should start for data of mean `mean` [units].
    """

    per_unit: int
    distribution: Callable[[Tensor], Distribution]
    bias: Callable[[Tensor], Tensor]


def diag_gaussian(raw: Float[Tensor, "*batch two_units"]) -> Distribution:
    """Return N(mu, diag sigma^2) with mu the first half of `raw`, sigma = softplus(second half) + 1e-4."""
    mu, sigma = raw.chunk(2, dim=-1)
    return DiagGaussian(mu, F.softplus(sigma.contiguous()) + SMALLEST_SIGMA)  # half rows take torch's slow path


def _with_spread(mean: Tensor, spread: float) -> Tensor:
    """Return the mean, and the raw number whose softplus plus the floor is `spread`."""
    return torch.cat([mean, torch.full_like(mean, math.log(math.expm1(spread - SMALLEST_SIGMA)))])


def _diag_gaussian_bias(mean: Tensor) -> Tensor:
    """Return the raw numbers of this mean and sigma 1."""
    return _with_spread(mean, 1.0)


def _bernoulli(logits: Float[Tensor, "*batch units"]) -> Distribution:
    return BernoulliVector(logits)


def _bernoulli_bias(mean: Tensor) -> Tensor:
    """Return the logit of the mean, clipped so that a pixel that never varies does not start at infinity."""
    return torch.logit(mean, eps=1e-3)


def _fixed_gaussian(sigma: float) -> Family:
    """Return the family N(mu, sigma^2 I) of a fixed sigma."""

    def distribution(mu: Float[Tensor, "*batch units"]) -> Distribution:
        return DiagGaussian(mu, mu.new_full((), sigma).expand(mu.shape[-1]))

    return Family(1, distribution, lambda mean: mean)


def _continuous_bernoulli(eta: Float[Tensor, "*batch units"]) -> Distribution:
    return Independent(ContinuousBernoulli(eta), 1, validate_args=False)


def _continuous_bernoulli_bias(mean: Tensor) -> Tensor:
    """Return the eta of this mean by bisection, the mean clamped to [0.01, 0.99], where eta is at most 100."""
    target = mean.clamp(0.01, 0.99)
    low, high = torch.full_like(mean, -128.0), torch.full_like(mean, 128.0)
    for _ in range(60):
        middle = (low + high) / 2
        above = ContinuousBernoulli(middle).mean > target
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    return (low + high) / 2


def _discretized_logistic(levels: int) -> Family:
    """Return the family whose mean is the first half of the raw numbers, and its scale softplus(second half) + 1e-4."""

    def distribution(raw: Float[Tensor, "*batch two_units"]) -> Distribution:
        mu, scale = raw.chunk(2, dim=-1)
        return Independent(DiscretizedLogistic(mu, F.softplus(scale) + SMALLEST_SIGMA, levels), 1, validate_args=False)

    return Family(2, distribution, lambda mean: _with_spread(mean, 0.1))


LATENT = Family(2, diag_gaussian, _diag_gaussian_bias)

POSTERIORS = {"bottom_up": LATENT}  # of a level given those below it

LIKELIHOODS: dict[str, Family] = {
    "bernoulli": Family(1, _bernoulli, _bernoulli_bias),
    "gaussian": Family(2, diag_gaussian, _diag_gaussian_bias),
    "continuous_bernoulli": Family(1, _continuous_bernoulli, _continuous_bernoulli_bias),
    "discretized_logistic": _discretized_logistic(256),
}


def likelihood(params: ModelParams) -> Family:
    """Return the family of p(x | .), with the sigma or the number of grey levels of `params`."""
    if params.likelihood == "gaussian" and params.sigma != "learned":
        return _fixed_gaussian(params.sigma)
    if params.likelihood == "discretized_logistic":
        return _discretized_logistic(params.grey_levels)
    return LIKELIHOODS[params.likelihood]
