"""A vector of independent Gaussians, its density in few passes over memory.

    log N(z; mu, diag sigma^2) = -1/2 sum_u r^2 - sum_u log sigma - d/2 log 2 pi,        r = (z - mu) / sigma

mu and sigma keep their shapes, however many draws the batch is expanded to, so that log sigma of what is the
same for all draws is taken once.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Size, Tensor
from torch.distributions import Independent, Normal

__all__ = ["DiagGaussian"]


class DiagGaussian(Independent[Normal]):
    """N(mu, diag sigma^2), the last dimension being the event; `batch_shape` is that of mu and sigma unless given."""

    def __init__(
        self,
        mu: Float[Tensor, "*#batch units"],
        sigma: Float[Tensor, "*#batch units"],
        batch_shape: Size | None = None,
    ) -> None:
        self.mu, self.sigma = mu, sigma
        if batch_shape is not None:
            mu, sigma = mu.expand(*batch_shape, -1), sigma.expand(*batch_shape, -1)
        super().__init__(Normal(mu, sigma, validate_args=False), 1, validate_args=False)

    def expand(self, batch_shape: Any, _instance: None = None) -> DiagGaussian:
        """Return the same distribution with more leading dimensions."""
        return DiagGaussian(self.mu, self.sigma, Size(batch_shape))

    def rsample(self, sample_shape: Any = Size()) -> Tensor:  # noqa: B008 (torch's own form)
        """Draw mu + sigma * eps, eps ~ N(0, I)."""
        noise = torch.empty(self._extended_shape(Size(sample_shape)), dtype=self.mu.dtype, device=self.mu.device)
        return torch.addcmul(self.mu, self.sigma, noise.normal_())

    def log_prob(self, value: Float[Tensor, "*#batch units"]) -> Float[Tensor, "*#batch"]:
        """Return log N(value; mu, diag sigma^2) in nats."""
        r = (value - self.mu) / self.sigma
        log_scale = self.sigma.log().sum(-1) + self.sigma.shape[-1] / 2 * math.log(2 * math.pi)
        log_density = -torch.add(log_scale, (r * r).sum(-1), alpha=0.5)
        return log_density.expand(torch.broadcast_shapes(self.batch_shape, value.shape[:-1]))
