"""A vector of independent Gaussians, its density in few passes over memory.

    log N(z; mu, diag sigma^2) = -1/2 sum_u r^2 - sum_u log sigma - d/2 log 2 pi,        r = (z - mu) / sigma

mu and sigma are kept as they were given, however many draws the batch is expanded to, so that log sigma of what is the
same for all draws is taken once. The gradients are -r / sigma in z, r / sigma in mu and (r^2 - 1) / sigma in sigma.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Size, Tensor
from torch.autograd.function import FunctionCtx
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
        found: Tensor = _LogProb.apply(value, self.mu, self.sigma)  # type: ignore[no-untyped-call]
        return found.expand(torch.broadcast_shapes(self._batch_shape, value.shape[:-1]))


class _LogProb(torch.autograd.Function):
    """The density with its gradients; these are made of differentiable operations and so have gradients again."""

    @staticmethod
    def forward(z: Tensor, mu: Tensor, sigma: Tensor) -> Tensor:
        r = (z - mu) / sigma
        terms = sigma.log().sum(-1) + sigma.shape[-1] / 2 * math.log(2 * math.pi)
        return torch.add(terms, r.square_().sum(-1), alpha=0.5).neg_()

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        z, mu, sigma = ctx.saved_tensors
        needs_z, needs_mu, needs_sigma = ctx.needs_input_grad
        r = (z - mu) / sigma
        gradient = gradient[..., None] / sigma
        to_mu = gradient * r
        to_z = -to_mu.sum_to_size(z.shape) if needs_z else None
        to_sigma = (to_mu * r - gradient).sum_to_size(sigma.shape) if needs_sigma else None
        return to_z, to_mu.sum_to_size(mu.shape) if needs_mu else None, to_sigma
