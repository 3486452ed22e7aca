"""A vector of Bernoulli pixels given by their logits l, its density in few passes over memory.

    log p(x | l) = sum_u x l - softplus(l) = sum_u [(x - 1/2) l - |l| / 2] - log prod_u (1 + exp(-|l|))

The bracket is 0 or -|l| where x is 0 or 1, so nothing large cancels. Every factor lies in (1, 2]: a product of 100 of
them is below 2^100, which single precision holds, and takes one logarithm. The rows are worked on in pieces that stay
in the processor's cache, in two buffers. Where a graph is built torch's own form stands: on a batch of training it is
the faster one.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Bernoulli, Independent

__all__ = ["BernoulliVector"]

FACTORS = 100  # at most, in one product
PIECE = 100_000  # numbers in one piece: with both buffers, 1.2 MB in single precision


class BernoulliVector(Independent[Bernoulli]):
    """Independent Bernoulli variables, the last dimension of `logits` being the event."""

    def __init__(self, logits: Float[Tensor, "*batch units"]) -> None:
        super().__init__(Bernoulli(logits=logits, validate_args=False), 1, validate_args=False)

    def expand(self, batch_shape: Any, _instance: None = None) -> BernoulliVector:
        """Return the same distribution with more leading dimensions."""
        return BernoulliVector(self.base_dist.logits.expand(*batch_shape, -1))

    def log_prob(self, value: Float[Tensor, "*#batch units"]) -> Float[Tensor, "*#batch"]:
        """Return log p(value) in nats; values between 0 and 1 interpolate."""
        logits = self.base_dist.logits
        graph = torch.is_grad_enabled() and (logits.requires_grad or value.requires_grad)
        if graph or logits.dtype != value.dtype or logits.dtype not in (torch.float32, torch.float64):
            plain: Tensor = self.base_dist.log_prob(value).sum(-1)
            return plain
        shape = torch.broadcast_shapes(logits.shape, value.shape)
        size = min(shape.numel(), max(PIECE, shape[-1])) if logits.device.type == "cpu" else shape.numel()
        out = logits.new_empty(shape[:-1])
        _fill(out, logits.expand(shape), (value - 0.5).expand(shape), logits.new_empty(size), logits.new_empty(size))
        return out


def _fill(out: Tensor, logits: Tensor, half: Tensor, a: Tensor, b: Tensor) -> None:
    """Write the density of `logits` at `half` = x - 1/2 into `out`, in pieces of the size of the buffers a and b."""
    count, shape, units = logits.numel(), logits.shape, logits.shape[-1]
    if count <= len(a):
        size = torch.abs(logits, out=a[:count].view(shape))
        bracket = torch.mul(logits, half, out=b[:count].view(shape)).sub_(size, alpha=0.5)
        factors = size.neg_().exp_().add_(1).view(*shape[:-1], units // _factors(units), _factors(units))
        torch.sub(bracket.sum(-1), factors.prod(-1).log_().sum(-1), out=out)
        return
    rows = len(a) * len(logits) // count
    tensors = (out, logits, half)
    for part in zip(*((tensor.split(rows) for tensor in tensors) if rows else tensors), strict=True):
        _fill(part[0], part[1], part[2], a, b)


@cache
def _factors(units: int) -> int:
    """Return the largest divisor of `units` that is FACTORS or less."""
    return next(size for size in range(min(units, FACTORS), 0, -1) if units % size == 0)
