"""Noised images, q(z | x), and what a step of denoising costs, in closed form a pixel.

With y = 2 x - 1 and lambda the log SNR, q(z | x) = N(alpha y, sigma^2), alpha^2 = sigmoid(lambda), sigma^2 =
sigmoid(-lambda). Let p be the decoder's p(x | z_t+1), xhat = E[y | z_t+1], Delta = SNR_t - SNR_t+1. The three forms of
p(z_t | z_t+1) have KL(q(z_t | z_t+1, x) || p(z_t | z_t+1)) of a pixel

    fixed     Delta / 2 (y - xhat)^2
    matched   1/2 (log v + (1 + Delta (y - xhat)^2) / v - 1),       v = 1 + Delta Var[y | z_t+1]
    mixture   an integral, by 24 nodes; for binary pixels, with s = y logit and xi ~ N(0, 1),
              softplus(-s) - E softplus(-s - 2 Delta - 2 sqrt(Delta) xi)

Without end, all three cost SNR / 2 (y - xhat)^2 a unit of log SNR.

Kingma et al., "Variational Diffusion Models" (2021), https://arxiv.org/abs/2107.00630
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from pipeline.distributions import BernoulliVector, DiagGaussian, ValueVector, hermite
from pipeline.models.denoiser import signal

__all__ = [
    "Denoising",
    "denoising_kl",
    "evidence",
    "kl_mixture",
    "kl_mixture_binary",
    "noised",
    "prior_kl",
    "rate_density",
]

Denoising = Literal["fixed", "matched", "mixture"]
Belief = BernoulliVector | ValueVector


def evidence(x: Float[Tensor, "*#rows units"], log_snr: Float[Tensor, "*#rows"]) -> DiagGaussian:
    """Return q(z | x) = N(alpha y, sigma^2) at a log SNR, which broadcasts over the rows of x."""
    alpha, sigma = (part[..., None] for part in signal(log_snr))
    return DiagGaussian(alpha * (2 * x - 1), sigma.expand(*sigma.shape[:-1], x.shape[-1]))


def noised(
    x: Float[Tensor, "*#rows units"],
    log_snr: Float[Tensor, "*#rows"],
    noise: Float[Tensor, "*rows units"] | None = None,
) -> Float[Tensor, "*rows units"]:
    """Draw z ~ q(z | x) at a log SNR for each row, or one for all; `noise` from N(0, I) makes the draw if given."""
    q = evidence(x, log_snr)
    if noise is None:
        return q.rsample()
    return q.mu + q.sigma * noise


def prior_kl(x: Float[Tensor, "*batch units"], log_snr: Float[Tensor, ""]) -> Float[Tensor, "*batch"]:
    """Return KL(q(z_T | x) || N(0, I)), z_T at this log SNR; of binary images D / 2 log(1 + SNR_T)."""
    q = evidence(x, log_snr)
    return 0.5 * (q.mu**2 + q.sigma**2 - 1 - 2 * q.sigma.log()).sum(-1)


def kl_fixed(delta: Tensor, error: Tensor) -> Tensor:
    """Return the KL of the form fixed a pixel; `error` is (y - xhat)^2, `delta` the difference of SNR."""
    return 0.5 * delta * error


def kl_matched(delta: Tensor, error: Tensor, variance: Tensor) -> Tensor:
    """Return the KL of the form matched a pixel; `variance` is Var[y | z]."""
    v = delta * variance
    return 0.5 * (torch.log1p(v) + (delta * error - v) / (1 + v))


def kl_mixture_binary(delta: Tensor, s: Tensor) -> Tensor:
    """Return the KL of the form mixture a binary pixel; s = y logit."""
    nodes, weights = hermite(s)
    total = F.softplus(-s)
    for node, weight in zip(nodes, weights, strict=True):
        total = total - weight * F.softplus(-s - 2 * delta - 2 * delta.sqrt() * node)
    return total


def kl_mixture(
    delta: Tensor,
    log_shares: Float[Tensor, "*#rows values units"],
    y_values: Float[Tensor, " values"],
    y: Float[Tensor, "*#rows units"],
) -> Float[Tensor, "*rows units"]:
    """Return the KL of the form mixture a pixel, given log P(y_v | z) of all values; memory grows with their number."""
    nodes, weights = hermite(y)
    off = y[..., None, :] - y_values[:, None]
    delta = delta[..., None, :]
    total = y.new_zeros(())
    for node, weight in zip(nodes, weights, strict=True):
        inside = log_shares - delta.sqrt() * node * off - 0.5 * delta * off**2
        total = total - weight * torch.logsumexp(inside, -2)
    return total


def squared_error(p: Belief, x: Float[Tensor, "*#rows units"]) -> Float[Tensor, "*rows units"]:
    """Return (y - xhat)^2 of every pixel."""
    if isinstance(p, BernoulliVector):
        return 4 * torch.sigmoid(-(2 * x - 1) * p.base_dist.logits) ** 2
    return 4 * (x - p.mean) ** 2


def denoising_kl(
    denoising: Denoising, delta: Float[Tensor, "*#rows"], p: Belief, x: Float[Tensor, "*#rows units"]
) -> Float[Tensor, "*rows units"]:
    """Return KL(q(z_t | z_t+1, x) || p(z_t | z_t+1)) of every pixel, `p` being the decoder's p(x | z_t+1)."""
    delta = delta[..., None]
    if denoising == "mixture":
        if isinstance(p, BernoulliVector):
            return kl_mixture_binary(delta, (2 * x - 1) * p.base_dist.logits)
        return kl_mixture(delta, p.log_shares, 2 * p.values - 1, 2 * x - 1)
    error = squared_error(p, x)
    return kl_fixed(delta, error) if denoising == "fixed" else kl_matched(delta, error, 4 * p.variance)


def rate_density(
    log_snr: Float[Tensor, "*#rows"], p: Belief, x: Float[Tensor, "*#rows units"]
) -> Float[Tensor, "*rows units"]:
    """Return SNR / 2 (y - xhat)^2 of every pixel: nats a unit of log SNR, without end, `p` being p(x | z) there."""
    return 0.5 * log_snr.exp()[..., None] * squared_error(p, x)
