"""Distributions of grey pixels in [0, 1], one a unit.

    ContinuousBernoulli     p(x) = C(eta) exp(eta x) / (1 + exp(eta)), log C = log(eta / tanh(eta / 2))
    DiscretizedLogistic     P(x = i / (L - 1)) = sigmoid((e_{i+1} - mu) / s) - sigmoid((e_i - mu) / s)

Loaiza-Ganem, Cunningham, "The continuous Bernoulli" (2019), https://arxiv.org/abs/1907.06845
Kingma et al., "Improving Variational Inference with Inverse Autoregressive Flow" (2016), appendix, and
Salimans et al., "PixelCNN++" (2017), https://arxiv.org/abs/1701.05517, for the open outer bins.

The parameter of torch's own ContinuousBernoulli is a probability, which in single precision is 1 from a logit of 17
on: from there its density no longer integrates to 1. This one is written in the logit and tested against it.
"""

from __future__ import annotations

import math

import torch
from torch import Size, Tensor
from torch.distributions import Distribution, constraints
from torch.nn import functional as F

__all__ = ["ContinuousBernoulli", "DiscretizedLogistic", "Shape"]

Shape = Size | list[int] | tuple[int, ...]  # as torch.distributions has it

# Below this logit, moments are series; the error of the longest is 3e-9, the cancellation of the exact forms 1e-6.
SERIES = 0.3


class ContinuousBernoulli(Distribution):
    """The continuous Bernoulli of logit `eta` on [0, 1]."""

    arg_constraints: dict[str, constraints.Constraint] = {"eta": constraints.real}  # noqa: RUF012 (torch's own form)
    support = constraints.unit_interval

    def __init__(self, eta: Tensor) -> None:
        self.eta = eta
        super().__init__(eta.shape, validate_args=False)

    def expand(self, batch_shape: Shape, _instance: None = None) -> ContinuousBernoulli:
        """Return the same distribution with more leading dimensions."""
        return ContinuousBernoulli(self.eta.expand(batch_shape))

    def _split(self) -> tuple[Tensor, Tensor]:
        """Return where eta is near 0, and eta with 1 in its place there, so that no gradient is 0 / 0."""
        near = self.eta.abs() < SERIES
        return near, torch.where(near, torch.ones_like(self.eta), self.eta)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log C(eta) + eta x - softplus(eta)."""
        near, eta = self._split()
        square = self.eta**2
        series = math.log(2) + square / 12 - 7 * square**2 / 1440 + 31 * square**3 / 90720 - 127 * square**4 / 4838400
        log_c = torch.where(near, series, torch.log(eta / torch.tanh(eta / 2)))
        return log_c - F.binary_cross_entropy_with_logits(
            self.eta.expand(torch.broadcast_shapes(self.eta.shape, value.shape)),
            value.expand(torch.broadcast_shapes(self.eta.shape, value.shape)),
            reduction="none",
        )

    @property
    def mean(self) -> Tensor:
        """1 / (1 - exp(-eta)) - 1 / eta."""
        near, eta = self._split()
        series = 0.5 + self.eta / 12 - self.eta**3 / 720 + self.eta**5 / 30240 - self.eta**7 / 1209600
        return torch.where(near, series, -1 / torch.expm1(-eta) - 1 / eta)

    @property
    def variance(self) -> Tensor:
        """1 / eta^2 - 1 / (2 sinh(eta / 2))^2."""
        near, eta = self._split()
        series = 1 / 12 - self.eta**2 / 240 + self.eta**4 / 6048 - self.eta**6 / 172800
        return torch.where(near, series, eta**-2 - (2 * torch.sinh(eta / 2)) ** -2)

    def rsample(self, sample_shape: Shape = Size()) -> Tensor:  # noqa: B008 (torch's own form)
        """Invert the distribution function: 1 + log(u + (1 - u) exp(-|eta|)) / |eta|, mirrored for eta below 0."""
        near, eta = self._split()
        u = torch.rand(self._extended_shape(Size(sample_shape)), dtype=eta.dtype, device=eta.device)
        size = eta.abs()
        u = torch.where(eta < 0, 1 - u, u)
        far = 1 + torch.log(u + (1 - u) * torch.exp(-size)) / size
        far = torch.where(eta < 0, 1 - far, far)
        small = torch.where(self.eta.abs() < 1e-3, torch.full_like(eta, 1e-3), self.eta)
        close = torch.where(self.eta.abs() < 1e-3, u, torch.log1p(u * torch.expm1(small)) / small)
        return torch.where(near, close, far).clamp(0, 1)

    def sample(self, sample_shape: Shape = Size()) -> Tensor:  # noqa: B008
        """Draw without a gradient."""
        with torch.no_grad():
            return self.rsample(sample_shape)


class DiscretizedLogistic(Distribution):
    """A logistic of mean `mu` and scale `scale`, its mass gathered at `levels` grey levels from 0 to 1."""

    arg_constraints: dict[str, constraints.Constraint] = {  # noqa: RUF012
        "mu": constraints.real,
        "scale": constraints.positive,
    }
    support = constraints.unit_interval

    def __init__(self, mu: Tensor, scale: Tensor, levels: int) -> None:
        self.mu, self.scale, self.levels = mu, scale, levels
        super().__init__(mu.shape, validate_args=False)

    def expand(self, batch_shape: Shape, _instance: None = None) -> DiscretizedLogistic:
        """Return the same distribution with more leading dimensions."""
        return DiscretizedLogistic(self.mu.expand(batch_shape), self.scale.expand(batch_shape), self.levels)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log(sigmoid(b) - sigmoid(a)) = log sigmoid(b) + log sigmoid(-a) + log(1 - exp(a - b))."""
        half = 0.5 / (self.levels - 1)
        above = F.logsigmoid((value + half - self.mu) / self.scale)
        below = F.logsigmoid((self.mu - value + half) / self.scale)
        width = torch.log(-torch.expm1(-2 * half / self.scale))
        return torch.where(value < half, above, torch.where(value > 1 - half, below, above + below + width))

    def _exceed(self) -> Tensor:
        """Return P(x >= level) of the levels above 0, [..., levels - 1]."""
        edges = (torch.arange(1, self.levels, dtype=self.mu.dtype, device=self.mu.device) - 0.5) / (self.levels - 1)
        return torch.sigmoid((self.mu[..., None] - edges) / self.scale[..., None])

    @property
    def mean(self) -> Tensor:
        """Sum over the levels above 0 of P(x >= level) / (levels - 1)."""
        return self._exceed().sum(-1) / (self.levels - 1)

    @property
    def variance(self) -> Tensor:
        """E[x^2] - E[x]^2, the first a sum of P(x >= level) (2 i - 1) / (levels - 1)^2."""
        odd = 2 * torch.arange(1, self.levels, dtype=self.mu.dtype, device=self.mu.device) - 1
        second = (self._exceed() * odd).sum(-1) / (self.levels - 1) ** 2
        return (second - self.mean**2).clamp(min=0)

    def sample(self, sample_shape: Shape = Size()) -> Tensor:  # noqa: B008
        """Draw the logistic and take its bin."""
        with torch.no_grad():
            u = torch.rand(self._extended_shape(Size(sample_shape)), dtype=self.mu.dtype, device=self.mu.device)
            drawn = self.mu + self.scale * torch.logit(u, eps=torch.finfo(u.dtype).tiny)
            return (drawn.clamp(0, 1) * (self.levels - 1)).round() / (self.levels - 1)
