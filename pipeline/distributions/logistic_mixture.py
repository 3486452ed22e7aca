"""Pixels of one or more channels as mixtures of discretized logistics.

A pixel x = (x_1, ..., x_C), each channel at one of L grey levels in [0, 1], has the probability

    P(x) = sum_k pi_k prod_c P(x_c; m_kc, s_kc),      m_kc = mu_kc + sum_{j<c} a_kcj (x_j - 1/2)

with the masses of `DiscretizedLogistic`. In a component the mean of green is linear in red, that of blue in red and
green, with coefficients a in (-1, 1); a pixel of one channel has none.

Salimans et al., "PixelCNN++" (2017), sections 2.1 and 2.2, https://arxiv.org/abs/1701.05517

Masses and draws are exact. The moments of the first channel are exact, too; those of the others are integrals over the
channels before them, of which a Gauss-Legendre rule takes a few values, and are those of logistics that are clipped to
[0, 1] instead of rounded to levels. At 256 levels means are off by less than a grey level, mostly by far less, and
standard deviations, which tests alone use, by a few.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

import numpy as np
import torch
from jaxtyping import Float
from torch import Size, Tensor
from torch.distributions import Categorical, Distribution, constraints
from torch.nn import functional as F

from pipeline.distributions.grey import DiscretizedLogistic, Shape

__all__ = ["LogisticMixture"]

Moment = Callable[[DiscretizedLogistic], Tensor]

NUMBERS = 2**22  # values of a channel that moments are taken of at once
NODES = 5  # values of a channel between 0 and 1 by which the moments of the next one are integrated


class LogisticMixture(Distribution):
    """Independent pixels; an event is a vector of channel planes, one after another.

    Args:
        logits: of the components, up to a constant; None where there is one component.
        mu: means at mid-grey of the channels before.
        scale: scales of the logistics.
        slopes: coefficients a_21, a_31, a_32, ... of a component.
        levels: number of grey levels.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012 (torch's own form)

    def __init__(
        self,
        logits: Float[Tensor, "*batch components pixels"] | None,
        mu: Float[Tensor, "*batch components channels pixels"],
        scale: Float[Tensor, "*batch components channels pixels"],
        slopes: Float[Tensor, "*batch components pairs pixels"],
        levels: int,
    ) -> None:
        self.logits, self.mu, self.scale, self.slopes, self.levels = logits, mu, scale, slopes, levels
        *batch, _, self.channels, pixels = mu.shape
        super().__init__(Size(batch), Size([self.channels * pixels]), validate_args=False)

    def expand(self, batch_shape: Shape, _instance: None = None) -> LogisticMixture:
        """Return the same distribution with more leading dimensions."""
        mu, scale, slopes = (x.expand(*batch_shape, *x.shape[-3:]) for x in (self.mu, self.scale, self.slopes))
        logits = None if self.logits is None else self.logits.expand(*batch_shape, *self.logits.shape[-2:])
        return LogisticMixture(logits, mu, scale, slopes, self.levels)

    def _channel(self, channel: int, before: Float[Tensor, "*batch _ channel pixels"]) -> DiscretizedLogistic:
        """Return the distribution [..., components, pixels] of a channel given those before it."""
        slopes = self.slopes[..., channel * (channel - 1) // 2 : channel * (channel + 1) // 2, :]
        mu = self.mu[..., channel, :] + (slopes * (before - 0.5)).sum(-2)
        return DiscretizedLogistic(mu, self.scale[..., channel, :], self.levels)

    def log_prob(self, value: Float[Tensor, "*#batch units"]) -> Float[Tensor, "*#batch"]:
        """Return log P(value), summed over the pixels."""
        return self.log_masses(value).sum(-1)

    def log_masses(self, value: Float[Tensor, "*#batch units"]) -> Float[Tensor, "*#batch pixels"]:
        """Return log P(value) of each pixel."""
        x = value.unflatten(-1, (1, self.channels, -1))
        masses = [self._channel(c, x[..., :c, :]).log_prob(x[..., c, :]) for c in range(self.channels)]
        return self._mixed(torch.stack(masses).sum(0))

    def _mixed(self, log_mass: Float[Tensor, "*batch components pixels"]) -> Float[Tensor, "*batch pixels"]:
        if self.logits is None:
            return log_mass[..., 0, :]
        return torch.logsumexp(log_mass + F.log_softmax(self.logits, -2), -2)

    def sample(self, sample_shape: Shape = Size()) -> Tensor:  # noqa: B008 (torch's own form)
        """Draw each pixel's component, then its channels in turn."""
        with torch.no_grad():
            drawn = self.expand((*sample_shape, *self.batch_shape))._components()
            x = torch.zeros_like(drawn.mu)
            for channel in range(self.channels):
                x[..., channel, :] = drawn._channel(channel, x[..., :channel, :]).sample()
            return x.flatten(-3)

    def _components(self) -> LogisticMixture:
        """Return the mixture of one component that is left when a component is drawn for each pixel."""
        if self.logits is None:
            return self
        chosen = Categorical(logits=self.logits.transpose(-1, -2), validate_args=False).sample()[..., None, None, :]

        def pick(x: Tensor) -> Tensor:
            return x.gather(-3, chosen.expand(*x.shape[:-3], 1, *x.shape[-2:]))

        return LogisticMixture(None, pick(self.mu), pick(self.scale), pick(self.slopes), self.levels)

    @property
    def mean(self) -> Tensor:
        """E[x], exact in the first channel."""
        return self._expected(partial(_by_level, power=1), _clipped_mean)

    @property
    def variance(self) -> Tensor:
        """E[x^2] - E[x]^2, exact in the first channel."""
        return (self._expected(partial(_by_level, power=2), _clipped_square) - self.mean**2).clamp(min=0)

    def _expected(self, exact: Moment, clipped: Moment) -> Float[Tensor, "*batch units"]:
        """Return the expectation of a moment, `exact` in the first channel and `clipped` in the others."""
        values = self.mu[..., :1, :1].numel() * (NODES + 2) ** (self.channels - 1)  # of a pixel
        size = max(1, NUMBERS // max(1, values))
        weights = None if self.logits is None else self.logits.split(size, -1)
        parts = zip(*(part.split(size, -1) for part in (self.mu, self.scale, self.slopes)), strict=True)
        pieces = [
            LogisticMixture(weights[number] if weights else None, mu, scale, slopes, self.levels)._at_once(
                exact, clipped
            )
            for number, (mu, scale, slopes) in enumerate(parts)
        ]
        return torch.cat(pieces, -1).flatten(-2)

    def _at_once(self, exact: Moment, clipped: Moment) -> Float[Tensor, "*batch channels pixels"]:
        """Return the expectation of all pixels together."""
        before, weight, moments = self.mu[None, ..., :0, :], torch.ones_like(self.mu[None, ..., 0, :]), []
        for channel in range(self.channels):
            p = self._channel(channel, before)
            moments.append((weight * (clipped if channel else exact)(p)).sum(0))
            if channel < self.channels - 1:
                value, share = _nodes(p)
                before = torch.cat([before.expand(len(value), *before.shape), value[..., None, :]], -2).flatten(0, 1)
                weight = (weight * share).flatten(0, 1)
        by_component = torch.stack(moments, -2)
        if self.logits is None:
            return by_component[..., 0, :, :]
        return (by_component * F.softmax(self.logits, -2)[..., None, :]).sum(-3)


def _by_level(p: DiscretizedLogistic, power: int) -> Tensor:
    """Return E[x] or E[x^2], level by level: in little memory."""
    total, step = torch.zeros_like(p.mu), 1 / (p.levels - 1)
    for level in range(1, p.levels):
        gain = (level * step) ** power - ((level - 1) * step) ** power
        total += gain * torch.sigmoid((p.mu - (level - 0.5) * step) / p.scale)
    return total


def _clipped_mean(p: DiscretizedLogistic) -> Tensor:
    """Return the mean of the logistic clipped to [0, 1]: the integral of sigmoid((mu - t) / s) over t from 0 to 1."""
    above = p.mu > 0.5  # there the integral of what is lacking to 1 is taken, so that nothing large cancels
    mu = torch.where(above, 1 - p.mu, p.mu)
    integral = p.scale * (F.softplus(mu / p.scale) - F.softplus((mu - 1) / p.scale))
    return torch.where(above, 1 - integral, integral).clamp(0, 1)


def _clipped_square(p: DiscretizedLogistic) -> Tensor:
    """Return the mean square of the logistic clipped to [0, 1]."""
    value, share = _nodes(p)
    return (share * value**2).sum(0)


def _nodes(p: DiscretizedLogistic) -> tuple[Float[Tensor, "nodes ..."], Float[Tensor, "nodes ..."]]:
    """Return values of the clipped logistic and their shares: 0, 1, and nodes of the quantile function between them."""
    low, high = torch.sigmoid(-p.mu / p.scale), torch.sigmoid((1 - p.mu) / p.scale)
    at, weights = (torch.tensor(x, dtype=p.mu.dtype, device=p.mu.device) for x in _legendre())
    shape = (-1, *[1] * p.mu.dim())
    quantile = low + (high - low) * at.view(shape)
    inner = (p.mu + p.scale * torch.logit(quantile, eps=torch.finfo(quantile.dtype).tiny)).clamp(0, 1)
    ends = torch.zeros_like(inner[:1]), torch.ones_like(inner[:1])
    share = (high - low) * weights.view(shape)
    return torch.cat([ends[0], inner, ends[1]]), torch.cat([low[None], share, (1 - high)[None]])


@cache
def _legendre() -> tuple[np.ndarray, np.ndarray]:
    """Return the nodes and weights of the Gauss-Legendre rule on [0, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    return (nodes + 1) / 2, weights / 2
