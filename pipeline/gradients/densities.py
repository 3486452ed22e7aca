"""The log-densities of a chain's rungs, each with its derivative.

A density takes a rung's raw numbers and the node below them, both [rows, units], and returns log p [rows] and a
function from the loss's derivative by log p, [rows, 1] or a single number, to those by the raw numbers and by the node.

    gaussian    raw = (mu, rho), sigma = softplus(rho) + 1e-4, r = (z - mu) / sigma:
                d log p / d mu = r / sigma = -d log p / d z,   d log p / d sigma = (r^2 - 1) / sigma
    bernoulli   d log p / d logit = x - sigmoid(logit)
    drawn       log q at its own draw mu + sigma eps: -sum eps^2 / 2 - sum log sigma, and dz = dmu + eps dsigma
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from pipeline.distributions import BernoulliVector
from pipeline.distributions.families import SMALLEST_SIGMA

__all__ = ["Density", "Drawn", "bernoulli", "gaussian", "standard_normal"]

Rows = Float[Tensor, " rows"]
Slope = Float[Tensor, "#rows 1"]
Density = tuple[Rows, Callable[[Slope], tuple[Tensor, Tensor | None]]]


def gaussian(raw: Float[Tensor, "rows two_units"], z: Float[Tensor, "rows units"]) -> Density:
    """The family of latent levels, and of the likelihood `gaussian`."""
    mu, rho = raw.chunk(2, dim=1)
    sigma = F.softplus(rho).add_(SMALLEST_SIGMA)
    r = (z - mu).div_(sigma)
    log_p = -torch.add(sigma.log().sum(1), (r * r).sum(1), alpha=0.5).add_(_constant(z))

    def slopes(slope: Slope) -> tuple[Tensor, Tensor | None]:
        by_mu = (r / sigma).mul_(slope)
        by_sigma = torch.addcmul(-(slope / sigma), r, by_mu)
        return torch.cat([by_mu, by_sigma.mul_(torch.sigmoid(rho))], dim=1), -by_mu

    return log_p, slopes


def bernoulli(logits: Float[Tensor, "rows units"], x: Float[Tensor, "rows units"]) -> Density:
    """The likelihood of binary pixels."""

    def slopes(slope: Slope) -> tuple[Tensor, Tensor | None]:
        return torch.sub(x, torch.sigmoid(logits)).mul_(slope), None

    return BernoulliVector(logits).log_prob(x), slopes


def standard_normal(z: Float[Tensor, "rows units"]) -> Rows:
    """Return log N(z; 0, I), whose derivative by z is -z."""
    return (z * z).sum(1).mul_(-0.5).sub_(_constant(z))


class Drawn:
    """A draw z = mu + sigma eps from a Gaussian rung of q, `draws` for each row of its raw numbers."""

    def __init__(self, raw: Float[Tensor, "rows two_units"], draws: int) -> None:
        self.draws, (mu, self.rho) = draws, raw.chunk(2, dim=1)
        sigma = F.softplus(self.rho).add_(SMALLEST_SIGMA)
        if draws > 1:
            mu, sigma = mu.repeat(draws, 1), sigma.repeat(draws, 1)
        self.sigma, self.eps = sigma, torch.empty_like(mu).normal_()
        self.z = torch.addcmul(mu, sigma, self.eps)

    @property
    def log_q(self) -> Rows:
        """Log q of the draws."""
        return -torch.add(self.sigma.log().sum(1), (self.eps * self.eps).sum(1), alpha=0.5).add_(_constant(self.z))

    def slopes(self, by_z: Float[Tensor, "_ units"], slope: Slope) -> Float[Tensor, "rows two_units"]:
        """Return the loss's derivative by the raw numbers from those by z and by log q."""
        by_sigma = torch.addcmul(-(slope / self.sigma), by_z, self.eps)
        if self.draws > 1:
            by_z, by_sigma = (part.unflatten(0, (self.draws, -1)).sum(0) for part in (by_z, by_sigma))
        return torch.cat([by_z, by_sigma.mul_(torch.sigmoid(self.rho))], dim=1)


def _constant(z: Tensor) -> float:
    return z.shape[1] / 2 * math.log(2 * math.pi)
