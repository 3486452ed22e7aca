"""The diffusion: a hierarchy whose levels are noised images of the data's dimension, and whose q has no weights.

With y = 2 x - 1, lambda_t the log SNR of level t, z_1 the least noisy,

    q(z_t | x) = N(alpha_t y, sigma_t^2),  alpha_t^2 = sigmoid(lambda_t),  sigma_t^2 = sigmoid(-lambda_t)
    q(z_t | z_t-1) = N(a z_t-1, s^2),      a = alpha_t / alpha_t-1,  s^2 = sigma_t^2 (1 - SNR_t / SNR_t-1)       (20)
    q(z_t | z_t+1, x) = merge(N(z_t+1 / a, (s / a)^2), q(z_t | x)) = N(k z_t+1 + c y, sigma_Q^2)

The last is the ladder's merge, with a message from q's own chain: neither the evidence nor the message has weights.
One decoder gives p(x | z) at every level (`pipeline.models.denoiser`), xhat = E[y | z_t+1], and p(z_T) = N(0, I).
p(z_t | z_t+1) has one of three forms, whose divergences `pipeline.models.noising` has:

    fixed     N(k z_t+1 + c xhat, sigma_Q^2)
    matched   N(k z_t+1 + c xhat, sigma_Q^2 + c^2 Var[y | z_t+1])
    mixture   sum_v P(y_v | z_t+1) N(k z_t+1 + c y_v, sigma_Q^2)        exact where pixels are independent

Kingma et al., "Variational Diffusion Models" (2021), https://arxiv.org/abs/2107.00630
Luo, "Understanding Diffusion Models: A Unified Perspective" (2022), https://arxiv.org/abs/2208.11970
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution

from pipeline.distributions import BernoulliVector, DiagGaussian, ValueMixture, ValueVector
from pipeline.models.denoiser import Decoder, signal
from pipeline.models.noising import Belief, Denoising, evidence

__all__ = ["Denoised", "Diffusion", "Evidence", "log_linear_levels"]

BINS = 60  # of the terms of the bound, or of log SNR, with a share of training's draws each
EVENLY = 0.1  # part of the draws that all bins have in equal amounts
FADING = 0.99  # weight of a bin's earlier terms once another is drawn


def log_linear_levels(count: int, first: float, last: float) -> Float[Tensor, " levels"]:
    """Return so many log SNR from `first` (z_1's) to `last` in equal steps; one level alone lies in the middle."""
    return first + (last - first) * _even(count)


def _even(count: int) -> Float[Tensor, " levels"]:
    return torch.linspace(0, 1, count) if count > 1 else torch.tensor([0.5])


class Diffusion(nn.Module):
    """What the rungs of a diffusion share: the levels, and the decoder.

    Args:
        decoder: p(x | z) at any log SNR.
        ends: the first and the last log SNR, a parameter where they are learned.
        positions: of the levels, z_1's first: 0 is the first end, 1 the last.
        denoising: the form of p(z_t | z_t+1).
        continuous: whether training is for the bound of a chain without end, for which these levels stand elsewhere.
        optimal: whether training moves the levels to where the bound is best.
    """

    ends: Tensor
    positions: Tensor
    cost: Tensor  # of the terms that training drew, by bin: the sum of their squares, and of their weights

    def __init__(
        self,
        decoder: Decoder,
        ends: Float[Tensor, "2"],
        positions: Float[Tensor, " levels"],
        denoising: Denoising,
        continuous: bool = False,
        optimal: bool = False,
    ) -> None:
        super().__init__()
        self.decoder, self.denoising, self.continuous, self.optimal = decoder, denoising, continuous, optimal
        if isinstance(ends, nn.Parameter):
            self.ends = ends
        else:
            self.register_buffer("ends", ends)
        self.register_buffer("positions", positions)
        bins = BINS + 1 if continuous else min(BINS, len(positions))
        self.register_buffer("cost", torch.zeros(2, bins))

    @property
    def log_snr(self) -> Float[Tensor, " levels"]:
        """The log SNR of the levels, z_1's first."""
        return self.at(self.positions)

    def at(self, positions: Float[Tensor, "*rows"]) -> Float[Tensor, "*rows"]:
        """Return the log SNR at positions between the ends."""
        first, last = self.ends.unbind()
        return first + (last - first) * positions

    @torch.no_grad()
    def move_to(self, log_snr: Float[Tensor, " levels"]) -> None:
        """Move the levels, whose number stays, to these log SNR, z_1's first."""
        first, last = self.ends.unbind()
        self.positions.copy_((log_snr - first) / (last - first))

    def first_terms(self) -> Tensor:
        """Return the first term in each bin, and T; bins hold as many of a chain's T terms as each other, or 1 more."""
        terms, bins = len(self.positions), self.cost.shape[1]
        return torch.arange(bins + 1, device=self.cost.device) * terms // bins

    def shares(self) -> Float[Tensor, " bins"]:
        """Return how often training draws a term from each bin: as the root of its terms' mean square, and evenly."""
        square, weight = self.cost
        width = self.cost.new_tensor([1.0, *[(self.ends[0] - self.ends[1]).item() / BINS] * BINS])
        width = width if self.continuous else self.first_terms().diff().to(width)
        usual = (square.sum() / weight.sum().clamp(min=1)).clamp(min=1e-12)  # counts as one term in every bin
        share: Tensor = width * ((square + usual) / (weight + 1)).sqrt()
        return (1 - EVENLY) * share / share.sum() + EVENLY / len(share)

    @torch.no_grad()
    def learn(self, bins: Tensor, value: Float[Tensor, " rows"]) -> None:
        """Take the values of terms into the mean squares of their bins, of which the earlier ones fade."""
        chosen = (bins == torch.arange(self.cost.shape[1], device=bins.device)[:, None]).to(self.cost)
        count = chosen.sum(1)
        added = torch.stack([chosen @ value.to(self.cost) ** 2, count])
        self.cost.mul_(FADING**count).add_(added)

    def evidence(self, t: int, x: Float[Tensor, "*rows units"]) -> DiagGaussian:
        """Return q(z_t | x), levels being counted from 1."""
        return evidence(x, self.log_snr[t - 1])

    def message(self, t: int, above: Float[Tensor, "*rows units"]) -> DiagGaussian:
        """Return the normal over z_t that is proportional to q(z_t+1 | z_t) at z_t+1 = `above`."""
        lower, upper = self.log_snr[t - 1], self.log_snr[t]
        a = signal(upper)[0] / signal(lower)[0]
        s = signal(upper)[1] * (-torch.expm1(upper - lower)).sqrt()
        return DiagGaussian(above / a, (s / a).expand(above.shape[-1]))

    def likelihood(self, z: Float[Tensor, "*rows units"]) -> Belief:
        """Return p(x | z_1)."""
        return self.decoder.likelihood(z, self.log_snr[0])

    def denoised(self, t: int, above: Float[Tensor, "*rows units"]) -> Distribution:
        """Return p(z_t | z_t+1) at z_t+1 = `above`."""
        lower, upper = self.log_snr[t - 1], self.log_snr[t]
        p = self.decoder.likelihood(above, upper)
        (alpha, sigma), (alpha_above, sigma_above) = signal(lower), signal(upper)
        removed = -torch.expm1(upper - lower)
        k, c, scale = alpha_above / alpha * (sigma / sigma_above) ** 2, alpha * removed, sigma * removed.sqrt()
        if self.denoising == "mixture":
            if isinstance(p, BernoulliVector):
                logits = p.base_dist.logits
                p = ValueVector(torch.stack([torch.zeros_like(logits), logits], -2), logits.new_tensor([0.0, 1.0]))
            return ValueMixture(p.logits, (k * above)[..., None, :] + c * (2 * p.values[:, None] - 1), scale)
        mean = k * above + c * (2 * p.mean - 1)
        if self.denoising == "fixed":
            return DiagGaussian(mean, scale.expand(above.shape[-1]))
        return DiagGaussian(mean, (scale**2 + c**2 * 4 * p.variance).sqrt())


class Rung(nn.Module):
    """A rung of the chain, which has no weights of its own: what all rungs share is listed once, with the model."""

    def __init__(self, diffusion: Diffusion, level: int) -> None:
        super().__init__()
        self._shared, self.level = (diffusion,), level

    @property
    def diffusion(self) -> Diffusion:
        """What the rungs share."""
        return self._shared[0]


class Evidence(Rung):
    """q(z_t | x), as a step of the bottom-up pass, which carries x up as it is."""

    def forward(self, x: Float[Tensor, "*batch units"]) -> tuple[Float[Tensor, "*batch units"], Distribution]:
        """Return x, and q(z_t | x)."""
        return x, self.diffusion.evidence(self.level, x)


class Denoised(Rung):
    """p(z_t | z_t+1), and at level 0 p(x | z_1)."""

    def forward(self, above: Float[Tensor, "*batch units"]) -> Distribution:
        """Return the distribution given the node above."""
        return self.diffusion.denoised(self.level, above) if self.level else self.diffusion.likelihood(above)
