"""Pixels that take one of V values, and what a Gaussian around each value makes of them.

    ValueVector     P(x_u = value v) = softmax(logits)_v
    ValueMixture    p(z_u) = sum_v softmax(logits)_v N(z_u; mu_v, sigma^2), one sigma for all values

Units are independent. KL(N(m, s^2) || ValueMixture) is an integral over each unit, by 24 Gauss-Hermite nodes.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Size, Tensor
from torch.distributions import Categorical, Distribution, constraints
from torch.distributions.kl import register_kl
from torch.nn import functional as F

from pipeline.distributions.gaussian import DiagGaussian
from pipeline.distributions.grey import Shape

__all__ = ["ValueMixture", "ValueVector", "hermite"]

NODES = 24


class ValueVector(Distribution):
    """Independent units at one of `values` [V], given by logits [..., V, units] up to a constant of each unit."""

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012 (torch's own form)

    def __init__(self, logits: Float[Tensor, "*batch values units"], values: Float[Tensor, " values"]) -> None:
        self.logits, self.values = logits, values
        super().__init__(logits.shape[:-2], logits.shape[-1:], validate_args=False)

    @property
    def log_shares(self) -> Float[Tensor, "*batch values units"]:
        """The log-probability of every value."""
        return F.log_softmax(self.logits, -2)

    def expand(self, batch_shape: Shape, _instance: None = None) -> ValueVector:
        """Return the same distribution with more leading dimensions."""
        return ValueVector(self.logits.expand(*batch_shape, *self.logits.shape[-2:]), self.values)

    def log_prob(self, value: Float[Tensor, "*#batch units"]) -> Float[Tensor, "*#batch"]:
        """Return log P(value), the nearest of the values standing for each unit."""
        index = _index(self.values, value)[..., None, :]
        leading = torch.broadcast_shapes(index.shape[:-2], self.batch_shape)
        log_shares = self.log_shares.expand(*leading, *self.logits.shape[-2:])
        return log_shares.gather(-2, index.expand(*leading, *index.shape[-2:]))[..., 0, :].sum(-1)

    def _moment(self, power: int) -> Float[Tensor, "*batch units"]:
        return (self.log_shares.exp() * self.values[:, None] ** power).sum(-2)

    @property
    def mean(self) -> Tensor:
        """E[x]."""
        return self._moment(1)

    @property
    def variance(self) -> Tensor:
        """E[x^2] - E[x]^2."""
        return (self._moment(2) - self.mean**2).clamp(min=0)

    def sample(self, sample_shape: Shape = Size()) -> Tensor:  # noqa: B008 (torch's own form)
        """Draw a value for each unit."""
        with torch.no_grad():
            drawn = Categorical(logits=self.logits.transpose(-1, -2), validate_args=False).sample(Size(sample_shape))
            return self.values[drawn]


class ValueMixture(Distribution):
    """Independent units, each a mixture of Gaussians of one scale around the means of the values."""

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012 (torch's own form)

    def __init__(
        self,
        logits: Float[Tensor, "*batch values units"],
        mu: Float[Tensor, "*batch values units"],
        sigma: Float[Tensor, ""],
    ) -> None:
        self.logits, self.mu, self.sigma = logits, mu, sigma
        leading = torch.broadcast_shapes(logits.shape, mu.shape)
        super().__init__(leading[:-2], leading[-1:], validate_args=False)

    def expand(self, batch_shape: Shape, _instance: None = None) -> ValueMixture:
        """Return the same distribution with more leading dimensions."""
        logits, mu = (part.expand(*batch_shape, *part.shape[-2:]) for part in (self.logits, self.mu))
        return ValueMixture(logits, mu, self.sigma)

    def log_prob(self, value: Float[Tensor, "*#batch units"]) -> Float[Tensor, "*#batch"]:
        """Return log p(value) in nats."""
        r = (value[..., None, :] - self.mu) / self.sigma
        by_value = F.log_softmax(self.logits, -2) - 0.5 * r * r
        constant = self.sigma.log() + 0.5 * np.log(2 * np.pi)
        density: Tensor = (torch.logsumexp(by_value, -2) - constant).sum(-1)
        return density

    @property
    def mean(self) -> Tensor:
        """E[z]."""
        return (F.softmax(self.logits, -2) * self.mu).sum(-2)

    @property
    def variance(self) -> Tensor:
        """sigma^2 and the variance of the means."""
        spread = (self.mu - self.mean[..., None, :]) ** 2
        return self.sigma**2 + (F.softmax(self.logits, -2) * spread).sum(-2)

    def sample(self, sample_shape: Shape = Size()) -> Tensor:  # noqa: B008 (torch's own form)
        """Draw a value for each unit, then around its mean."""
        with torch.no_grad():
            shape = self._extended_shape(Size(sample_shape))
            return self.at_noise(torch.randn(shape, dtype=self.mu.dtype, device=self.mu.device))

    def at_noise(self, noise: Float[Tensor, "*batch units"]) -> Float[Tensor, "*batch units"]:
        """Carry N(0, I) over to the mixture: a unit's noise, as a uniform number, picks the value.

        Where it falls within the value's share is uniform again, and becomes the noise around its mean.
        """
        shares = F.softmax(self.logits.double(), -2)
        ends = shares.cumsum(-2)
        uniform = torch.special.ndtr(noise.double())[..., None, :]
        leading = torch.broadcast_shapes(uniform.shape[:-2], self.batch_shape)
        chosen = (uniform > ends[..., :-1, :]).sum(-2, keepdim=True)

        def pick(part: Tensor) -> Tensor:
            wide = part.expand(*leading, *torch.broadcast_shapes(part.shape[-2:], self.logits.shape[-2:]))
            return wide.gather(-2, chosen.expand(*leading, *chosen.shape[-2:]))[..., 0, :]

        share = pick(shares)
        within = ((uniform[..., 0, :] - pick(ends) + share) / share).clamp(1e-12, 1 - 1e-12)
        z: Tensor = pick(self.mu) + self.sigma * torch.special.ndtri(within).to(noise.dtype)
        return z


@register_kl(DiagGaussian, ValueMixture)  # type: ignore[untyped-decorator]
def _kl(q: DiagGaussian, p: ValueMixture) -> Float[Tensor, "*batch"]:
    """Return KL(q || p), by Gauss-Hermite nodes of q."""
    nodes, weights = hermite(q.mu)
    log_shares, total = F.log_softmax(p.logits, -2), p.sigma.log() - q.sigma.log()
    for node, weight in zip(nodes, weights, strict=True):
        r = (q.mu + q.sigma * node)[..., None, :] - p.mu
        inside = torch.logsumexp(log_shares - 0.5 * (r / p.sigma) ** 2 + 0.5 * node**2, -2)
        total = total - weight * inside
    return total.sum(-1).expand(torch.broadcast_shapes(q.batch_shape, p.batch_shape))


def hermite(like: Tensor) -> tuple[Float[Tensor, " nodes"], Float[Tensor, " nodes"]]:
    """Return nodes xi and weights with E f(xi) = sum weight f(node) for xi ~ N(0, 1), of a tensor's type and device."""
    nodes, weights = _hermite()
    return like.new_tensor(nodes), like.new_tensor(weights)


@cache
def _hermite() -> tuple[Any, Any]:
    nodes, weights = np.polynomial.hermite_e.hermegauss(NODES)
    return nodes, weights / weights.sum()


def _index(values: Float[Tensor, " values"], x: Tensor) -> Tensor:
    """Return which of the equally spaced values is nearest."""
    last = len(values) - 1
    return ((x - values[0]) / (values[-1] - values[0]) * last).round().long().clamp(0, last)
