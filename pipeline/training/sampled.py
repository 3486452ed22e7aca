"""The bound of a diffusion estimated from one level an image and draw, without bias.

A chain of T levels has T terms, each of which takes one draw and one pass of the decoder:

    -log p(x | z_1),   KL(q(z_1 | z_2, x) || p(z_1 | z_2)),   ...,   KL(q(z_T-1 | z_T, x) || p(z_T-1 | z_T))

at z_1, z_2, ..., z_T, and a constant, KL(q(z_T | x) || p(z_T)). A term is drawn with its share p and counts 1 / p
times. Without end, the terms after the first are a density over log SNR between the ends. Shares are learned: in each
of at most 60 bins, in proportion to the root of the mean square of the terms that were drawn there, which has the least
variance. The draws of a batch share one uniform offset, so that they are spread evenly.

Nichol, Dhariwal, "Improved Denoising Diffusion Probabilistic Models" (2021), https://arxiv.org/abs/2102.09672, for the
shares; Kingma et al., "Variational Diffusion Models" (2021), https://arxiv.org/abs/2107.00630, for the offset
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from pipeline.models import HierarchicalVAE
from pipeline.models.diffusion import Diffusion
from pipeline.models.noising import denoising_kl, noised, prior_kl, rate_density
from pipeline.objectives import ELBO

__all__ = ["draw_terms", "sampled_elbo", "term_values"]


class Drawn(NamedTuple):
    """Terms that were drawn, flat: the bins, the log SNR of the decoder's level and of the one below it, and weights.

    `first` is true where the term is the reconstruction. Without end, `below` is the level itself.
    """

    bins: Int64[Tensor, " rows"]
    first: Tensor
    log_snr: Float[Tensor, " rows"]
    below: Float[Tensor, " rows"]
    weight: Float[Tensor, " rows"]


def sampled_elbo(model: HierarchicalVAE, x: Float[Tensor, "batch units"], draws: int = 1) -> ELBO:
    """Return the terms of the bound of a diffusion, each an estimate; all rates are one row.

    In training mode the shares of the bins learn from the terms that were drawn.
    """
    diffusion = model.diffusion
    assert diffusion is not None
    count = draws * len(x)
    steps = torch.arange(count, dtype=x.dtype, device=x.device)
    drawn = draw_terms(diffusion, (steps / count + torch.rand((), dtype=x.dtype, device=x.device)) % 1)
    value = term_values(diffusion, drawn, x.repeat(draws, 1))
    if model.training:
        diffusion.learn(drawn.bins, value.detach())
    cost = (drawn.weight * value).view(draws, -1)
    first = drawn.first.view(draws, -1)
    last = diffusion.ends[1] if diffusion.continuous else diffusion.log_snr[-1]
    rate = cost.masked_fill(first, 0) + prior_kl(x, last)
    return ELBO(-cost.masked_fill(~first, 0), rate[None])


def draw_terms(diffusion: Diffusion, uniform: Float[Tensor, " rows"]) -> Drawn:
    """Return the terms at uniform numbers in [0, 1)."""
    share = diffusion.shares().to(uniform)
    ends = share.cumsum(0)
    bins = torch.searchsorted(ends, uniform, right=True).clamp(max=len(share) - 1)
    within = ((uniform - ends[bins] + share[bins]) / share[bins]).clamp(0, 1 - 1e-6)
    if diffusion.continuous:
        intervals = len(share) - 1
        log_snr = diffusion.at(torch.where(bins == 0, 0.0, (bins - 1 + within) / intervals))
        span = (diffusion.ends[0] - diffusion.ends[1]) / intervals
        return Drawn(bins, bins == 0, log_snr, log_snr, torch.where(bins == 0, 1.0, span) / share[bins])
    starts = diffusion.first_terms().to(bins)
    size = starts.diff()
    term = starts[bins] + (within * size[bins]).long()
    levels = diffusion.log_snr
    return Drawn(bins, term == 0, levels[term], levels[(term - 1).clamp(min=0)], size[bins] / share[bins])


def term_values(diffusion: Diffusion, drawn: Drawn, x: Float[Tensor, "rows units"]) -> Float[Tensor, " rows"]:
    """Return the value of each term, at a draw of its level; without end, terms but the first are a density."""
    logits = diffusion.decoder(noised(x, drawn.log_snr), drawn.log_snr)
    first, later = (where.nonzero()[:, 0] for where in (drawn.first, ~drawn.first))
    likelihood, p = (diffusion.decoder.distribution(logits[rows]) for rows in (first, later))
    at, below = drawn.log_snr[later], drawn.below[later]
    if diffusion.continuous:
        kl = rate_density(at, p, x[later])
    else:
        kl = denoising_kl(diffusion.denoising, below.exp() - at.exp(), p, x[later])
    value = torch.zeros_like(drawn.log_snr).index_put((later,), kl.sum(-1))
    return value.index_put((first,), -likelihood.log_prob(x[first]))
