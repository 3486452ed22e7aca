"""The levels of a diffusion at which the bound of so many levels is best, by a dynamic programme over candidates.

    cost of a chain = E -log p(x | z_1) + sum_t E KL(q(z_t | z_t+1, x) || p(z_t | z_t+1)) + KL(q(z_T | x) || N(0, I))

Each term depends on one level or on two neighbours, so the best chain of t levels that ends at a candidate follows from
those of t - 1 levels. Expectations are means over images and one draw of each candidate; in the form mixture, whose
integrals would take long, those of the form matched stand for them.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.models.hierarchy import HierarchicalVAE
from pipeline.models.noising import kl_fixed, kl_matched, noised, prior_kl, squared_error

__all__ = ["best_path", "optimal_levels"]

CANDIDATES = 64  # and two for each level, where that is more


@torch.no_grad()
def optimal_levels(
    model: HierarchicalVAE, x: Float[Tensor, "batch units"], count: int, candidates: int | None = None
) -> Float[Tensor, " levels"]:
    """Return `count` log SNR between the ends of a diffusion, z_1's first, that are best for the images x."""
    diffusion = model.diffusion
    if diffusion is None:
        raise ValueError("levels are chosen for a diffusion")
    points = candidates or max(CANDIDATES, 2 * count)
    log_snr = diffusion.at(torch.linspace(0, 1, points, dtype=x.dtype, device=x.device))
    first, last, pairs = x.new_zeros(points), x.new_zeros(points), x.new_full((points, points), torch.inf)
    for j, level in enumerate(log_snr):
        p = diffusion.decoder.likelihood(noised(x, level), level)
        first[j] = -p.log_prob(x).mean()
        last[j] = prior_kl(x, level).mean()
        error, variance = squared_error(p, x), None if diffusion.denoising == "fixed" else 4 * p.variance
        for i in range(j):
            delta = log_snr[i].exp() - level.exp()
            cost = kl_fixed(delta, error) if variance is None else kl_matched(delta, error, variance)
            pairs[i, j] = cost.sum(-1).mean()
    return log_snr[best_path(first, pairs, last, count)]


def best_path(
    first: Float[Tensor, " points"], pairs: Float[Tensor, "points points"], last: Float[Tensor, " points"], count: int
) -> list[int]:
    """Return the `count` points i < j < ... with the least first_i + pairs_ij + ... + last."""
    cost, came = first, []
    for _ in range(count - 1):
        cost, before = (cost[:, None] + pairs).min(0)
        came.append(before)
    path = [int((cost + last).argmin())]
    for before in reversed(came):
        path.insert(0, int(before[path[0]]))
    return path
