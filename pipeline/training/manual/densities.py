"""The log-densities of a chain's rungs, each with its derivative.

The first half of a density takes a rung's raw numbers and the node below them, both [rows, units], and returns log p
[rows] and what the second half needs. That takes the loss's derivative by log p, [rows, 1] or [1, 1], and returns those
by the raw numbers and by the node (none by an image, which has no other use for it).

    gaussian    raw = (mu, rho), sigma = softplus(rho) + 1e-4, r = (z - mu) / sigma:
                d log p / d mu = r / sigma = -d log p / d z,   d log p / d sigma = (r^2 - 1) / sigma
    bernoulli   d log p / d logit = x - sigmoid(logit)
    drawn       log q at its own draw mu + sigma eps: -sum eps^2 / 2 - sum log sigma, and dz = dmu + eps dsigma
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from pipeline.distributions import SMALLEST_SIGMA
from pipeline.distributions.bernoulli import mass

__all__ = ["BERNOULLI", "GAUSSIAN", "Density", "Saved", "draw", "draw_gradients", "standard_normal"]

Rows = Float[Tensor, " rows"]
Derivative = Float[Tensor, "#rows 1"]
Saved = tuple[Tensor, ...]


class Density(NamedTuple):
    """A rung of p: both halves."""

    log_p: Callable[[Tensor, Tensor], tuple[Rows, Saved]]
    gradients: Callable[[Saved, Derivative], tuple[Tensor, Tensor | None]]


def _gaussian(raw: Float[Tensor, "rows two_units"], node: Float[Tensor, "rows units"]) -> tuple[Rows, Saved]:
    """Return -sum log sigma - sum r^2 / 2 - d/2 log 2 pi."""
    mu, rho, sigma = _moments(raw)
    r = (node - mu).div_(sigma)
    return _log_density(torch.log(sigma).addcmul_(r, r, value=0.5), node), (rho, sigma, r)


def _gaussian_gradients(saved: Saved, derivative: Derivative) -> tuple[Tensor, Tensor]:
    """Return the derivatives by (mu, rho), and that by the node, which is minus that by mu."""
    rho, sigma, r = saved
    over = derivative / sigma
    by_mu = r * over
    by_rho = (r * by_mu).sub_(over).mul_(torch.sigmoid(rho))
    return torch.cat([by_mu, by_rho], dim=1), by_mu.neg_()


def _bernoulli(raw: Float[Tensor, "rows units"], node: Float[Tensor, "rows units"]) -> tuple[Rows, Saved]:
    return mass(raw, node - 0.5), (raw, node)


def _bernoulli_gradients(saved: Saved, derivative: Derivative) -> tuple[Tensor, None]:
    logits, x = saved
    return torch.sigmoid(logits).sub_(x).mul_(-derivative), None


GAUSSIAN = Density(_gaussian, _gaussian_gradients)
"""The family of latent levels, and of the likelihood `gaussian`."""
BERNOULLI = Density(_bernoulli, _bernoulli_gradients)
"""The likelihood of binary pixels."""


def standard_normal(z: Float[Tensor, "rows units"]) -> Rows:
    """Return log N(z; 0, I), whose derivative by z is -z."""
    return _log_density(z * z * 0.5, z)


def draw(
    raw: Float[Tensor, "batch two_units"], eps: Float[Tensor, "rows units"]
) -> tuple[Float[Tensor, "rows units"], Rows, Saved]:
    """Return z = mu + sigma eps and log q(z), one or several for each row of the raw numbers."""
    mu, rho, sigma = _moments(raw)
    if len(eps) > len(raw):
        mu, sigma = (part.repeat(len(eps) // len(raw), 1) for part in (mu, sigma))
    z = torch.addcmul(mu, sigma, eps)
    return z, _log_density(torch.log(sigma).addcmul_(eps, eps, value=0.5), z), (rho, sigma, eps)


def draw_gradients(
    saved: Saved, by_z: Float[Tensor, "rows units"], derivative: Derivative
) -> Float[Tensor, "batch two_units"]:
    """Return the loss's derivative by the raw numbers from those by z and by log q."""
    rho, sigma, eps = saved
    by_mu, by_sigma = by_z, (by_z * eps).sub_(derivative / sigma)
    if len(eps) > len(rho):
        by_mu, by_sigma = (part.unflatten(0, (-1, len(rho))).sum(0) for part in (by_mu, by_sigma))
    return torch.cat([by_mu, by_sigma.mul_(torch.sigmoid(rho))], dim=1)


def _moments(raw: Float[Tensor, "rows two_units"]) -> tuple[Tensor, Tensor, Tensor]:
    """Return mu, rho and sigma."""
    mu, rho = raw.chunk(2, dim=1)
    # torch works through half a row of them, fewer than its vectors are long, number by number.
    rho = rho.contiguous()
    return mu, rho, softplus(rho).add_(SMALLEST_SIGMA)


def _log_density(minus_terms: Float[Tensor, "rows units"], z: Float[Tensor, "rows units"]) -> Rows:
    """Return minus the sum over units of `minus_terms`, less the constant of as many Gaussians."""
    return minus_terms.sum(1).neg_().sub_(z.shape[1] / 2 * math.log(2 * math.pi))
