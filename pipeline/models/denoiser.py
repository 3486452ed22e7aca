"""The decoder of a diffusion: what the pixels are, given z at any level, and the networks in it.

With y = 2 x - 1 and z = alpha y + sigma noise, alpha^2 = sigmoid(lambda), sigma^2 = sigmoid(-lambda), lambda the log
SNR:

    logit_v = log prior_v(z, lambda) + (alpha y_v z - alpha^2 y_v^2 / 2) / sigma^2      of the values v of a grey pixel
    logit   = network(z, lambda) + 2 alpha z / sigma^2                                  of a binary pixel's being white

The second term is the log of a pixel's own Bayes factor. The network, which sees tanh(alpha z / sigma^2) beside z (of a
binary pixel what it says itself of y), gives the log prior odds given the other pixels;
grey values have those of a discretized logistic, or of a mixture of some. It starts at the data's mean, where this
posterior is exact for independent pixels.

Kingma et al., "Variational Diffusion Models" (2021), https://arxiv.org/abs/2107.00630
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Independent

from pipeline.distributions import BernoulliVector, Family, ValueVector
from pipeline.distributions.logistic_mixture import LogisticMixture
from pipeline.models.layers import ACTIVATIONS, glorot

__all__ = ["FEATURES", "Decoder", "LevelMLP", "signal"]

PERIODS = (32.0, 16.0, 8.0, 4.0)
FEATURES = 2 * len(PERIODS) + 1


def features(log_snr: Float[Tensor, "*rows"]) -> Float[Tensor, "*rows features"]:
    """Return a level's log SNR as features: itself, and sines and cosines of four periods."""
    phase = log_snr[..., None] * (2 * math.pi / log_snr.new_tensor(PERIODS))
    return torch.cat([log_snr[..., None] / 8, phase.sin(), phase.cos()], -1)


def signal(log_snr: Float[Tensor, "*rows"]) -> tuple[Float[Tensor, "*rows"], Float[Tensor, "*rows"]]:
    """Return alpha and sigma of a log SNR."""
    return torch.sigmoid(log_snr).sqrt(), torch.sigmoid(-log_snr).sqrt()


class LevelMLP(nn.Module):
    """Dense layers with a level's features added in each hidden one; a layer as wide as the one before adds to it.

    The outputs are 0 at the start.
    """

    def __init__(self, units: int, numbers: int, hidden: Sequence[int], activation: str) -> None:
        super().__init__()
        self.layers = nn.ModuleList(glorot(nn.Linear(lower, upper)) for lower, upper in pairwise([units, *hidden]))
        self.levels = nn.ModuleList(glorot(nn.Linear(FEATURES, width)) for width in hidden)
        self.activation = ACTIVATIONS[activation]()
        self.last = nn.Linear([units, *hidden][-1], numbers, bias=False)
        nn.init.zeros_(self.last.weight)

    def forward(self, z: Float[Tensor, "*rows units"], level: Float[Tensor, "*#rows features"]) -> Tensor:
        """Return raw numbers [..., numbers] at a level's features, which broadcast."""
        h = z
        for index, (layer, shift) in enumerate(zip(self.layers, self.levels, strict=True)):
            inner = self.activation(layer(h) + shift(level))
            h = h + inner if index and inner.shape == h.shape else inner
        raw: Tensor = self.last(h)
        return raw


class Decoder(nn.Module):
    """p(x | z) at any level.

    Args:
        network: from z and tanh(alpha z / sigma^2), [..., 2 units], and a level's features to raw numbers of `family`.
        family: a pixel's log prior odds (bernoulli), or its prior over grey values.
        start: the raw numbers that the network's own are added to.
        values: of a grey pixel, in [0, 1]; None for binary ones.
    """

    start: Tensor
    values: Tensor | None

    def __init__(
        self, network: nn.Module, family: Family, start: Float[Tensor, " raw"], values: Float[Tensor, " values"] | None
    ) -> None:
        super().__init__()
        self.network, self.family = network, family
        self.start = nn.Parameter(start)
        self.register_buffer("values", values, persistent=False)

    def forward(self, z: Float[Tensor, "*rows units"], log_snr: Float[Tensor, "*#rows"]) -> Tensor:
        """Return the logits of the pixels at a log SNR, which broadcasts: [..., units], grey [..., values, units]."""
        alpha, sigma = signal(log_snr)
        skip = (alpha / sigma**2)[..., None] * z
        raw: Tensor = self.network(torch.cat([z, torch.tanh(skip)], -1), features(log_snr)) + self.start
        if self.values is None:
            return raw + 2 * skip
        y = 2 * self.values[:, None] - 1
        off = (z / alpha[..., None])[..., None, :] - y
        return self._log_prior(raw) - 0.5 * log_snr.exp()[..., None, None] * off**2

    def _log_prior(self, raw: Float[Tensor, "*rows raw"]) -> Float[Tensor, "*rows values units"]:
        p = self.family.distribution(raw)
        assert self.values is not None
        values = self.values.view(-1, *[1] * raw.dim())
        if isinstance(p, LogisticMixture):
            masses = p.log_masses(values.expand(len(values), *[1] * (raw.dim() - 1), p.event_shape[0]))
        else:
            assert isinstance(p, Independent)
            masses = p.base_dist.log_prob(values)
        return masses.movedim(0, -2)

    def likelihood(
        self, z: Float[Tensor, "*rows units"], log_snr: Float[Tensor, "*#rows"]
    ) -> BernoulliVector | ValueVector:
        """Return p(x | z) at a log SNR."""
        return self.distribution(self(z, log_snr))

    def distribution(self, logits: Tensor) -> BernoulliVector | ValueVector:
        """Return the distribution of x of these logits."""
        return BernoulliVector(logits) if self.values is None else ValueVector(logits, self.values)
