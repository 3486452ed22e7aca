"""Conditionals: modules whose forward returns a `torch.distributions.Distribution`.

A conditional is a network, which turns a context into numbers, and a family, which turns the numbers into a
distribution. Events are vectors: `log_prob` sums over the last dimension and keeps all the others.

    DiagGaussian        N(z; mu, diag sigma^2), sigma = softplus(raw) + 1e-4                              (15)
    StandardNormal      N(z; 0, I), a conditional without a context                                       (16)
    bernoulli           p(x = 1) = sigmoid(logit), pixels 0 or 1
    gaussian            N(x; mu, diag sigma^2), the variance learned, pixels in [0, 1]

`softplus` and not `exp`: in a chain of levels the exponential of a network's output gave non-finite bounds
for inputs of standard deviation 5, the soft one did not.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Bernoulli, Distribution, Independent, MultivariateNormal, Normal
from torch.nn import functional as F

__all__ = ["LIKELIHOODS", "Conditional", "Family", "StandardNormal", "diag_gaussian", "noncentred"]

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
    return Independent(Normal(mu, F.softplus(sigma) + SMALLEST_SIGMA, validate_args=False), 1, validate_args=False)


def noncentred(p: Distribution, noise: Float[Tensor, "*batch units"]) -> Float[Tensor, "*batch units"]:
    """Return mu + sigma * noise, distributed as `p` where the noise is N(0, I).

    Raises:
        ValueError: `p` is not Gaussian.
    """
    if isinstance(p, MultivariateNormal):
        shifted: Tensor = p.loc + (p.scale_tril @ noise[..., None])[..., 0]
        return shifted
    if isinstance(p, Independent) and isinstance(p.base_dist, Normal):
        return p.mean + p.stddev * noise
    raise ValueError(f"non-centred coordinates are those of a Gaussian, not of a {type(p).__name__}")


def _diag_gaussian_bias(mean: Tensor) -> Tensor:
    """Mean as given, sigma 1."""
    return torch.cat([mean, torch.full_like(mean, math.log(math.expm1(1 - SMALLEST_SIGMA)))])


def _bernoulli(logits: Float[Tensor, "*batch units"]) -> Distribution:
    return Independent(Bernoulli(logits=logits, validate_args=False), 1, validate_args=False)


def _bernoulli_bias(mean: Tensor) -> Tensor:
    """Logit of the mean, clipped so that a pixel that never varies does not start at infinity."""
    return torch.logit(mean, eps=1e-3)


LATENT = Family(2, diag_gaussian, _diag_gaussian_bias)

LIKELIHOODS: dict[str, Family] = {
    "bernoulli": Family(1, _bernoulli, _bernoulli_bias),
    "gaussian": Family(2, diag_gaussian, _diag_gaussian_bias),
}


class Conditional(nn.Module):
    """A distribution of one rung given its parents, from a network and a family."""

    def __init__(self, network: nn.Module, family: Family) -> None:
        super().__init__()
        self.network = network
        self.family = family

    def forward(self, *parents: Float[Tensor, "*#batch _"]) -> Distribution:
        """Return the distribution given the parents, the nearest first; their leading dimensions broadcast."""
        if len(parents) > 1:
            leading = torch.broadcast_shapes(*(parent.shape[:-1] for parent in parents))
            context = torch.cat([parent.expand(*leading, -1) for parent in parents], dim=-1)
        else:
            (context,) = parents
        return self.family.distribution(self.network(context))


class StandardNormal(nn.Module):
    """The prior p(z_T) = N(0, I) of equation (16): a conditional without parents."""

    zero: Tensor

    def __init__(self, units: int) -> None:
        super().__init__()
        self.register_buffer("zero", torch.zeros(units), persistent=False)

    def forward(self) -> Distribution:
        """Return N(0, I) over `units` dimensions."""
        return Independent(Normal(self.zero, torch.ones_like(self.zero), validate_args=False), 1, validate_args=False)
