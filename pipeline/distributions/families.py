"""Families: what turns a network's raw numbers into a distribution over vectors.

    DiagGaussian            N(z; mu, diag sigma^2), sigma = softplus(raw) + 1e-4                          (15)
    full                    N(z; mu, L L'), L a lower triangle, its diagonal as sigma above
    bernoulli               p(x = 1) = sigmoid(logit), pixels 0 or 1
    gaussian                N(x; mu, diag sigma^2), the variance learned or fixed, pixels in [0, 1]
    continuous_bernoulli    density C(eta) exp(eta x) on [0, 1], pixels grey
    discretized_logistic    a logistic's mass in the bin around each grey level, the outer bins open; a mixture of such
                            masses, and one whose channels depend on each other, is a `LogisticMixture`

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
from torch.distributions import Distribution, Independent, MultivariateNormal
from torch.nn import functional as F

from pipeline.distributions.bernoulli import BernoulliVector
from pipeline.distributions.gaussian import DiagGaussian
from pipeline.distributions.grey import ContinuousBernoulli, DiscretizedLogistic
from pipeline.distributions.logistic_mixture import LogisticMixture
from pipeline.params import ModelParams

__all__ = ["FULL", "LATENT", "LIKELIHOODS", "POSTERIORS", "SMALLEST_SIGMA", "Family", "diag_gaussian", "likelihood"]

SMALLEST_SIGMA = 1e-4
SPREAD = 0.1  # scale of a discretized logistic at the start


@dataclass(frozen=True)
class Family:
    """A family of distributions over vectors, given by `per_unit` raw numbers a unit.

    `distribution` takes raw numbers [..., per_unit * units]; `bias` gives the raw numbers at which an
    untrained network should start for data of mean `mean` [units]. Where the channels of a pixel depend on each other,
    `channels` is their number, `per_unit` counts the raw numbers of a whole pixel, and an event holds the planes of the
    channels one after another.
    """

    per_unit: int
    distribution: Callable[[Tensor], Distribution]
    bias: Callable[[Tensor], Tensor]
    channels: int = 1

    def raw_numbers(self, units: int) -> int:
        """Return the number of raw numbers that give a distribution over `units` units."""
        return self.per_unit * units // self.channels


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

    return Family(2, distribution, lambda mean: _with_spread(mean, SPREAD))


def _logistic_mixture(levels: int, components: int, channels: int) -> Family:
    """Return the mixtures of `components` over pixels of `channels`, whose raw numbers are those of each component.

    Raw means are on a scale from -1 to 1, as published, so that an error of a raw mean is half as large in x.
    """
    numbers = [channels, channels, channels * (channels - 1) // 2, int(components > 1)]

    def distribution(raw: Float[Tensor, "*batch raw"]) -> Distribution:
        by_component = raw.unflatten(-1, (components, sum(numbers), -1))
        mu, scale, slopes, logits = by_component.split(numbers, dim=-2)
        return LogisticMixture(
            logits[..., 0, :] if components > 1 else None,
            (mu + 1) / 2,
            F.softplus(scale) + SMALLEST_SIGMA,
            torch.tanh(slopes),
            levels,
        )

    def bias(mean: Float[Tensor, " units"]) -> Float[Tensor, " raw"]:
        """Return components around the mean, side by side, of equal weight and without dependence of the channels."""
        offsets = [SPREAD * (2 * k + 1 - components) / max(1, components - 1) for k in range(components)]
        rest = mean.new_zeros(sum(numbers[2:]) * len(mean) // channels)
        return torch.cat([torch.cat([_with_spread(2 * (mean + offset) - 1, SPREAD), rest]) for offset in offsets])

    return Family(components * sum(numbers), distribution, bias, channels)


@dataclass(frozen=True)
class FullFamily(Family):
    """Gaussians whose raw numbers are a mean, the diagonal of the factor L of the covariance, and what is below it."""

    def raw_numbers(self, units: int) -> int:
        """Return 2 units + units (units - 1) / 2."""
        return units * (units + 3) // 2


def _full(raw: Float[Tensor, "*batch numbers"]) -> Distribution:
    units = (math.isqrt(9 + 8 * raw.shape[-1]) - 3) // 2
    mu, diagonal, below = raw.split([units, units, units * (units - 1) // 2], dim=-1)
    tril = torch.diag_embed(F.softplus(diagonal) + SMALLEST_SIGMA)
    rows, columns = torch.tril_indices(units, units, -1, device=raw.device)
    tril[..., rows, columns] = below
    return MultivariateNormal(mu, scale_tril=tril, validate_args=False)


def _full_bias(mean: Float[Tensor, " units"]) -> Float[Tensor, " numbers"]:
    """Return the raw numbers of this mean and the covariance I."""
    return torch.cat([_diag_gaussian_bias(mean), mean.new_zeros(len(mean) * (len(mean) - 1) // 2)])


LATENT = Family(2, diag_gaussian, _diag_gaussian_bias)
FULL = FullFamily(2, _full, _full_bias)

POSTERIORS = {"bottom_up": LATENT}  # of a level given those below it

LIKELIHOODS: dict[str, Family] = {
    "bernoulli": Family(1, _bernoulli, _bernoulli_bias),
    "gaussian": Family(2, diag_gaussian, _diag_gaussian_bias),
    "continuous_bernoulli": Family(1, _continuous_bernoulli, _continuous_bernoulli_bias),
    "discretized_logistic": _discretized_logistic(256),
}


def likelihood(params: ModelParams, channels: int = 1) -> Family:
    """Return the family of p(x | .) for images of so many channels."""
    if params.likelihood == "gaussian" and params.sigma != "learned":
        return _fixed_gaussian(params.sigma)
    if params.likelihood == "discretized_logistic":
        if params.components == channels == 1:
            return _discretized_logistic(params.grey_levels)
        return _logistic_mixture(params.grey_levels, params.components, channels)
    return LIKELIHOODS[params.likelihood]
