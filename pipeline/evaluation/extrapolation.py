"""How far L_k is below log p(x), from how fast it rises with k, without assuming that the weights have a variance.

L_k, the log mean of k importance weights, rises to log p(x). Where the weights have a variance, each doubling of k
adds about half as much as the one before, and what is missing at k equals the last rise L_k - L_k/2. Heavy-tailed
weights rise more slowly: with a Pareto tail of index a in (1, 2] each rise is r = 2^(1 - a) times the one before it.
So r is measured. With the rises d_0 = L_k - L_k/2, d_1 = L_k/2 - L_k/4, ..., averaged over images,

    r = (d_0 + ... + d_J-2) / (d_1 + ... + d_J-1),
    remaining = d_0 r + d_0 r^2 + ... = (L_k - L_k/2^J) r^J / (1 - r^J),

the last step being exact for rises in the ratio r; it averages over the noise of d_0. Measured against what L_100
lacks, `remaining` is 0.9 to 1.4 times as large for lognormal weights of variance 1, 4 and 16 and for Pareto weights of
index 1.3, 1.5 and 2, where d_0 is 0.23 (variance 16) to 1 times as large. At an index of 1.1 they are 0.7 and 0.1.

Ratios near 1 cannot be distinguished from a rise without end: above 0.9, or where the error of r reaches up to 1,
`remaining` is a lower estimate and `measurable` is False.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.evaluation.jackknife import BLOCKS, variance

__all__ = ["Extrapolation", "extrapolate", "halved_bounds"]

DOUBLINGS = 4  # J: of k, up to k itself
LARGEST_RATIO = 0.9  # of two successive rises, beyond which no limit is extrapolated
FLAT = 0.005  # nats; a smaller rise over all doublings needs no ratio


@dataclass(frozen=True)
class Extrapolation:
    """What L_k still lacks, in nats, as a mean over images.

    `last_doubling` is L_k - L_k/2 and `remaining` the estimate of log p(x) - L_k, each with its standard error; `ratio`
    is that of two successive rises. Where `measurable` is False, `remaining` is a lower estimate and its error means
    nothing.
    """

    last_doubling: float
    last_doubling_se: float
    remaining: float
    remaining_se: float
    ratio: float
    measurable: bool


def halved_bounds(
    log_weight: Float[Tensor, "*parts draws batch"], k: int | None = None
) -> Float[Tensor, "levels *parts batch"]:
    """Return L_k, L_k/2, L_k/4, ... of each image, means over disjoint groups of the same draws, in float64.

    `k` defaults to the number of draws. Each group of k draws is cut to a multiple of 2^`DOUBLINGS` (of the
    largest power of two up to k where k is smaller), so that all halves are equal.
    """
    draws = log_weight.shape[-2]
    k = k or draws
    doublings = min(DOUBLINGS, int(math.log2(k)))
    smallest = k // 2**doublings
    groups = log_weight[..., : draws // k * k, :].double().unflatten(-2, (-1, k))[..., : smallest * 2**doublings, :]
    means = torch.logsumexp(groups.unflatten(-2, (2**doublings, smallest)), -2) - math.log(smallest)
    bounds = [means.mean((-3, -2))]
    for _ in range(doublings):
        means = torch.logaddexp(means[..., 0::2, :], means[..., 1::2, :]) - math.log(2)
        bounds.append(means.mean((-3, -2)))
    return torch.stack(bounds[::-1])


def extrapolate(bounds: Float[Tensor, "levels *draws batch"]) -> Extrapolation:
    """Extrapolate L_k, L_k/2, L_k/4, ... of each image (rows from the largest k down) to an infinite k.

    Standard errors are a jackknife: over the repetitions of each image where there is a dimension of `draws`, the
    images held fixed; otherwise over ten blocks of images, so that they also hold the images' own differences.

    Raises:
        ValueError: there is one bound only, which cannot rise.
    """
    if len(bounds) < 2:
        raise ValueError("an extrapolation takes L_k and L_k/2 at least, not one bound")
    rises = (bounds[:-1] - bounds[1:]).double()
    if rises.ndim == 3:
        parts = rises.mean(2)  # [J, draws]
    else:
        blocks = rises.tensor_split(min(BLOCKS, rises.shape[1]), dim=1)
        parts = torch.stack([block.mean(1) for block in blocks], 1)
    whole = rises.flatten(1).mean(1)
    count = parts.shape[1]
    remaining, ratio = _limit(whole)
    if count > 1:
        leaving_out = (parts.sum(1, keepdim=True) - parts).T / (count - 1)
        limits = torch.tensor([(*_limit(mean), mean[0]) for mean in leaving_out], dtype=torch.float64)
        remaining_se, ratio_se, last_se = variance(limits).sqrt().tolist()
    else:
        remaining_se = ratio_se = last_se = math.nan
    if math.isnan(remaining):
        return Extrapolation(whole[0].item(), last_se, remaining, math.nan, ratio, False)
    measurable = whole.sum().item() < FLAT or (ratio <= LARGEST_RATIO and ratio + 2 * ratio_se < 1)
    return Extrapolation(whole[0].item(), last_se, remaining, remaining_se, ratio, measurable)


def _limit(rises: Float[Tensor, " doublings"]) -> tuple[float, float]:
    """Return what remains after the last doubling, and the ratio of successive rises; NaN and 1 where it is unknown."""
    before, after = rises[1:].sum().item(), rises[:-1].sum().item()
    if len(rises) < 2 or before <= 0:
        total = rises.sum().item()
        return (max(0.0, total) if total < FLAT else math.nan), 1.0
    ratio = max(0.0, after / before)
    share = min(ratio, LARGEST_RATIO) ** len(rises)
    return max(0.0, rises.sum().item()) * share / (1 - share), ratio
