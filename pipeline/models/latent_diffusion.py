"""The prior diffusion: levels w_1, ..., w_S above z_T, of its width, that noise it step by step and are denoised.

With w_0 = z_T, lambda_s the log SNR of level s, alpha_s^2 = sigmoid(lambda_s), sigma_s^2 = sigmoid(-lambda_s), and
alpha_0 = 1, sigma_0 = 0,

    q(w_s | w_s-1) = N(a w_s-1, v),  a = alpha_s / alpha_s-1,  v = sigma_s^2 - a^2 sigma_s-1^2           without weights
    p(w_s-1 | w_s) = N(k w_s + c zhat, k' + c^2 Var),                                                p(w_S) = N(0, I)
    k = a sigma_s-1^2 / sigma_s^2,  c = alpha_s-1 r,  k' = sigma_s-1^2 r,  r = 1 - SNR_s / SNR_s-1

zhat and Var are what one network makes of w_s and lambda_s, as the mean and the variance of z_T, unit by unit: the mean
and the variance of p(w_s-1 | w_s) are then those of q(w_s-1 | w_s, z_T) over that z_T. At the start zhat = alpha_s w_s
and Var = sigma_s^2, the posterior under z_T ~ N(0, I); every draw of the chain then has the weight N(z_T; 0, I).

These are rungs of the chain (19), (20) like all others: the bound, its rates and its decompositions go on above z_T.

Kingma et al., "Variational Diffusion Models" (2021), https://arxiv.org/abs/2107.00630
Vahdat, Kreis, Kautz, "Score-based Generative Modeling in Latent Space" (2021), https://arxiv.org/abs/2106.05931
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.nn import functional as F

from pipeline.distributions import DiagGaussian
from pipeline.models.layers import mlp
from pipeline.params import ModelParams

__all__ = ["Noising", "diffusion_rungs"]

PERIODS = (32.0, 16.0, 8.0, 4.0)  # of the log SNR, in the features that the network sees
SMALLEST = 1e-6  # share of sigma^2 that the variance of z_T keeps


class Noising(nn.Module):
    """q(w_s | w_s-1), without weights."""

    def __init__(self, lower: float, upper: float) -> None:
        super().__init__()
        (alpha, sigma), (alpha_up, sigma_up) = _signal(lower), _signal(upper)
        self.scale = alpha_up / alpha
        self.deviation = math.sqrt(sigma_up**2 - (self.scale * sigma) ** 2)

    def forward(self, below: Float[Tensor, "*batch units"]) -> Distribution:
        """Return the distribution of w_s given w_s-1."""
        return DiagGaussian(self.scale * below, below.new_full(below.shape[-1:], self.deviation))


class Denoiser(nn.Module):
    """Mean and variance of every unit of z_T given w at a log SNR."""

    def __init__(self, units: int, hidden: tuple[int, ...], activation: str) -> None:
        super().__init__()
        self.network = mlp(units + 1 + 2 * len(PERIODS), 2 * units, hidden, activation)
        for weights in self.network[-1].parameters():
            nn.init.zeros_(weights)

    def forward(self, w: Float[Tensor, "*batch units"], log_snr: float) -> tuple[Tensor, Tensor]:
        """Return zhat and Var, [..., units] each."""
        phases = [2 * math.pi * log_snr / period for period in PERIODS]
        features = w.new_tensor([log_snr / 8, *map(math.sin, phases), *map(math.cos, phases)])
        raw = self.network(torch.cat([w, features.expand(*w.shape[:-1], -1)], dim=-1))
        shift, spread = raw.chunk(2, dim=-1)
        alpha, sigma = _signal(log_snr)
        share = F.softplus(spread + math.log(math.expm1(1 - SMALLEST))) + SMALLEST
        return alpha * w + sigma * shift, sigma**2 * share


class Denoised(nn.Module):
    """p(w_s-1 | w_s); the denoiser is listed once, with the lowest of these rungs."""

    def __init__(self, denoiser: Denoiser, lower: float, upper: float) -> None:
        super().__init__()
        if lower == math.inf:
            self.denoiser = denoiser
        self._shared, self.upper = (denoiser,), upper
        (alpha, sigma), (alpha_up, sigma_up) = _signal(lower), _signal(upper)
        removed = -math.expm1(upper - lower)
        self.keep, self.take = alpha_up / alpha * (sigma / sigma_up) ** 2, alpha * removed
        self.variance = sigma**2 * removed

    def forward(self, above: Float[Tensor, "*batch units"]) -> Distribution:
        """Return the distribution of w_s-1 given w_s."""
        mean, variance = self._shared[0](above, self.upper)
        return DiagGaussian(self.keep * above + self.take * mean, (self.variance + self.take**2 * variance).sqrt())


def diffusion_rungs(params: ModelParams, units: int) -> tuple[list[nn.Module], list[nn.Module]]:
    """Return q(w_1 | z_T), ..., q(w_S | w_S-1) and p(z_T | w_1), ..., p(w_S-1 | w_S).

    Raises:
        ValueError: the log SNR do not fall.
    """
    first, last = params.prior_log_snr
    if first <= last:
        raise ValueError(f"the log SNR of the prior diffusion fall, and not from {first} to {last}")
    steps = max(1, params.prior_levels - 1)
    log_snr = [math.inf, *(first + (last - first) * level / steps for level in range(params.prior_levels))]
    denoiser = Denoiser(units, params.hidden_of(params.levels), params.activation)
    pairs = list(pairwise(log_snr))
    return [Noising(*pair) for pair in pairs], [Denoised(denoiser, *pair) for pair in pairs]


def _signal(log_snr: float) -> tuple[float, float]:
    """Return alpha and sigma of a log SNR."""
    return 1 / math.sqrt(1 + math.exp(-log_snr)), 1 / math.sqrt(1 + math.exp(log_snr)) if log_snr < math.inf else 0.0
