"""The log-densities of a chain's rungs, each with its derivative.

A density takes a rung's raw numbers and the node below them, both [rows, units], and returns log p [rows]. From the
loss's derivative by log p, [rows, 1] or [1, 1], it then makes that by the raw numbers, and adds that by the node to
what the node has so far.

    gaussian    raw = (mu, rho), sigma = softplus(rho) + 1e-4, r = (z - mu) / sigma:
                d log p / d mu = r / sigma = -d log p / d z,   d log p / d sigma = (r^2 - 1) / sigma
    bernoulli   d log p / d logit = x - sigmoid(logit)
    drawn       log q at its own draw mu + sigma eps: -sum eps^2 / 2 - sum log sigma, and dz = dmu + eps dsigma

All work is done in buffers; what is returned is fresh where it is [rows], and otherwise a buffer. rho is copied out of
the raw numbers: torch works through half a row of them, fewer than its vectors are long, number by number.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.distributions import SMALLEST_SIGMA
from pipeline.distributions.bernoulli import log_mass, piece, pieces
from pipeline.gradients.buffers import Buffers

__all__ = ["Bernoulli", "Density", "Drawn", "Gaussian", "standard_normal"]

Rows = Float[Tensor, " rows"]
Slope = Float[Tensor, "#rows 1"]
softplus = torch.ops.aten.softplus.out


class Density(Protocol):
    """What a rung of p needs."""

    def log_p(self, raw: Float[Tensor, "rows _"], node: Float[Tensor, "rows units"]) -> Rows:
        """Return log p, and keep what `slopes` needs."""

    def slopes(self, slope: Slope, by_node: Float[Tensor, "rows units"] | None) -> Float[Tensor, "rows _"]:
        """Return the loss's derivative by the raw numbers, and add that by the node to `by_node`, if it is wanted."""


class Gaussian:
    """The family of latent levels, and of the likelihood `gaussian`."""

    def __init__(self) -> None:
        self.buffers = Buffers()

    def log_p(self, raw: Float[Tensor, "rows two_units"], node: Float[Tensor, "rows units"]) -> Rows:
        """Return -sum log sigma - sum r^2 / 2 - d/2 log 2 pi."""
        shape = _shape(node)
        self.raw, (mu, rho) = raw, raw.chunk(2, dim=1)
        self.rho = self.buffers("rho", shape, raw).copy_(rho)
        self.sigma = softplus(self.rho, out=self.buffers("sigma", shape, raw)).add_(SMALLEST_SIGMA)
        self.r = torch.sub(node, mu, out=self.buffers("r", shape, raw)).div_(self.sigma)
        found = torch.log(self.sigma, out=self.buffers("work", shape, raw)).addcmul_(self.r, self.r, value=0.5)
        return _less(found.sum(1), node)

    def slopes(self, slope: Slope, by_node: Float[Tensor, "rows units"] | None) -> Float[Tensor, "rows two_units"]:
        """Return the derivative by (mu, rho); that by the node is minus that by mu."""
        whole, (by_mu, by_rho) = self.buffers.halves("by_raw", _shape(self.raw), self.raw)
        over = torch.reciprocal(self.sigma, out=self.sigma).mul_(slope)
        torch.mul(self.r, over, out=by_mu)
        torch.mul(self.r, by_mu, out=by_rho).sub_(over).mul_(torch.sigmoid_(self.rho))
        if by_node is not None:
            by_node.sub_(by_mu)
        return whole


class Bernoulli:
    """The likelihood of binary pixels."""

    def __init__(self) -> None:
        self.buffers = Buffers()

    def log_p(self, raw: Float[Tensor, "rows units"], node: Float[Tensor, "rows units"]) -> Rows:
        """Return the mass of the pixels, see `pipeline.distributions.bernoulli`."""
        self.logits, self.x = raw, node
        size, out = piece(raw), raw.new_empty(len(raw))
        a, b, c = (self.buffers(name, (size,), raw) for name in "abc")
        for logits, x, found in pieces(size, raw, node, out):
            half = torch.sub(x, 0.5, out=c[: x.numel()].view_as(x))
            log_mass(found, logits, half, a, b)
        return out

    def slopes(self, slope: Slope, by_node: Float[Tensor, "rows units"] | None) -> Float[Tensor, "rows units"]:
        """Return the derivative by the logits, in their place."""
        slope = slope.expand(len(self.x), 1)
        for logits, x, by_log_p in pieces(piece(self.logits), self.logits, self.x, slope):
            torch.sub(x, torch.sigmoid_(logits), out=logits).mul_(by_log_p)
        return self.logits


def standard_normal(z: Float[Tensor, "rows units"]) -> Rows:
    """Return log N(z; 0, I), whose derivative by z is -z."""
    return _less((z * z).sum(1).mul_(0.5), z)


class Drawn:
    """Draws z = mu + sigma eps from a Gaussian rung of q."""

    def __init__(self) -> None:
        self.buffers = Buffers()

    def draw(self, raw: Float[Tensor, "rows two_units"], draws: int) -> tuple[Float[Tensor, "_ units"], Rows]:
        """Return z and log q(z), `draws` for each row of the raw numbers, and keep what `slopes` needs."""
        self.raw, self.draws = raw, draws
        mu, rho = raw.chunk(2, dim=1)
        shape = (len(raw) * draws, mu.shape[1])
        self.rho = self.buffers("rho", _shape(rho), raw).copy_(rho)
        sigma = softplus(self.rho, out=self.buffers("of a row", _shape(mu), raw)).add_(SMALLEST_SIGMA)
        if draws > 1:
            mu, sigma = mu.repeat(draws, 1), sigma.repeat(draws, 1)
        self.sigma, self.eps = sigma, self.buffers("eps", shape, raw).normal_()
        z = torch.addcmul(mu, sigma, self.eps, out=self.buffers("z", shape, raw))
        found = torch.log(sigma, out=self.buffers("work", shape, raw)).addcmul_(self.eps, self.eps, value=0.5)
        return z, _less(found.sum(1), z)

    def slopes(self, by_z: Float[Tensor, "_ units"], slope: Slope) -> Float[Tensor, "rows two_units"]:
        """Return the loss's derivative by the raw numbers from those by z and by log q."""
        whole, (by_mu, by_rho) = self.buffers.halves("by_raw", _shape(self.raw), self.raw)
        by_sigma = torch.mul(by_z, self.eps, out=self.eps).sub_(
            torch.reciprocal(self.sigma, out=self.sigma).mul_(slope)
        )
        if self.draws > 1:
            by_z, by_sigma = (part.unflatten(0, (self.draws, -1)).sum(0) for part in (by_z, by_sigma))
        by_mu.copy_(by_z)
        torch.mul(by_sigma, torch.sigmoid_(self.rho), out=by_rho)
        return whole


def _shape(tensor: Tensor) -> tuple[int, int]:
    rows, units = tensor.shape
    return rows, units


def _less(found: Rows, z: Float[Tensor, "rows units"]) -> Rows:
    """Return minus what was found, and minus the constant of `units` Gaussians."""
    return found.neg_().sub_(z.shape[1] / 2 * math.log(2 * math.pi))
