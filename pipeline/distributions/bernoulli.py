"""A vector of Bernoulli pixels given by their logits l, its density in few passes over memory.

    log p(x | l) = sum_u x l - softplus(l) = sum_u [(x - 1/2) l - |l| / 2] - log prod_u (1 + exp(-|l|))

The bracket is 0 or -|l| where x is 0 or 1, so nothing large cancels. Every factor lies in (1, 2]: a product of 100 of
them is below 2^100, which single precision holds, and takes one logarithm. The rows are worked on in pieces that stay
in the processor's cache, in two buffers. Where a graph is built torch's own form stands: on a batch of training it is
the faster one.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Bernoulli, Independent

__all__ = ["BernoulliVector", "mass"]

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
        wide = logits.expand(shape)
        size, out = _piece(wide), logits.new_empty(shape[:-1])
        _log_mass(out, wide, (value - 0.5).expand(shape), logits.new_empty(size), logits.new_empty(size))
        return out


def _piece(logits: Float[Tensor, "*batch units"]) -> int:
    """Return how many numbers are worked on at a time: on a processor, what its cache holds."""
    count = logits.numel()
    return min(count, max(PIECE, logits.shape[-1])) if logits.device.type == "cpu" else count


def _pieces(size: int, *tensors: Float[Tensor, "rows ..."]) -> Iterator[tuple[Tensor, ...]]:
    """Yield tensors of the same number of rows in like parts, those of the first being of `size` numbers at most."""
    first = tensors[0]
    if first.numel() <= size:
        yield tensors
        return
    most = max(1, size * len(first) // first.numel())
    rows = -(-len(first) // -(-len(first) // most))
    yield from zip(*(tensor.split(rows) for tensor in tensors), strict=True)


def _log_mass(
    out: Float[Tensor, "*batch"],
    logits: Float[Tensor, "*batch units"],
    half: Float[Tensor, "*batch units"],
    a: Float[Tensor, " size"],
    b: Float[Tensor, " size"],
) -> None:
    """Write the mass of `logits` at `half` = x - 1/2 into `out`, in pieces of the size of the buffers a and b."""
    count, shape = logits.numel(), logits.shape
    if count > len(a):
        single = count // len(logits) > len(a)  # then every entry of the first dimension is more than a piece
        parts = zip(logits, out, half, strict=True) if single else _pieces(len(a), logits, out, half)
        for logits_, out_, half_ in parts:
            _log_mass(out_, logits_, half_, a, b)
        return
    out.copy_(mass(logits, half, a[:count].view(shape), b[:count].view(shape)))


def mass(
    logits: Float[Tensor, "*batch units"],
    half: Float[Tensor, "*batch units"],
    a: Float[Tensor, "*batch units"] | None = None,
    b: Float[Tensor, "*batch units"] | None = None,
) -> Float[Tensor, "*batch"]:
    """Return the mass of `logits` at `half` = x - 1/2; `a` and `b`, if not None, are buffers for the work."""
    if torch.compiler.is_compiling():  # then all of it is one pass, but for products of many factors
        return (logits * half - 0.5 * logits.abs() - torch.log(1 + torch.exp(-logits.abs()))).sum(-1)
    units = logits.shape[-1]
    size = torch.abs(logits, out=a)
    bracket = torch.mul(logits, half, out=b).sub_(size, alpha=0.5)
    factors = size.neg_().exp_().add_(1).view(*logits.shape[:-1], units // _factors(units), _factors(units))
    return bracket.sum(-1) - factors.prod(-1).log_().sum(-1)


@cache
def _factors(units: int) -> int:
    """Return the largest divisor of `units` that is FACTORS or less."""
    return next(size for size in range(min(units, FACTORS), 0, -1) if units % size == 0)
