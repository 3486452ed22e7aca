"""The delete-a-group jackknife: standard errors of functions of means, by leaving out one group at a time.

With s_g the statistic of all but group g, of G groups,

    se^2 = (G - 1) / G sum_g (s_g - mean s_g)^2.

Efron, "Nonparametric estimates of standard error: the jackknife, the bootstrap and other methods" (1981),
https://doi.org/10.1093/biomet/68.3.589
Efron, Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 11. What goes into the means is held fixed.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.evaluation.estimates import Estimate

__all__ = ["BLOCKS", "GROUPS", "leave_out", "log_mean_variance", "standard_error", "summarize", "variance"]

BLOCKS = 10  # of draws, or of images
GROUPS = 50  # of the test images of a score, image i in group i mod 50; or one an image, of fewer


def variance(left_out: Tensor, dim: int = 0) -> Tensor:
    """Return the variance of a statistic's error from its values without each group, which lie along `dim`."""
    return left_out.var(dim, correction=0) * (left_out.shape[dim] - 1)


def log_mean_variance(
    log_weight: Float[Tensor, "*parts draws batch"], minus: Float[Tensor, "*parts draws batch"] | None = None
) -> Float[Tensor, "*parts batch"]:
    """Return the variance of the error of log mean w, less the mean of `minus`, by leaving out blocks of draws.

    There are ten blocks, or as many as draws. Up to nine draws that fill no whole block are left out of all, and the
    variance is scaled to that of all draws. It is infinite for a single draw.
    """
    draws = log_weight.shape[-2]
    blocks = min(BLOCKS, draws)
    if blocks < 2:
        return torch.full_like(log_weight[..., 0, :], math.inf)
    used = log_weight[..., : draws - draws % blocks, :].double().unflatten(-2, (blocks, -1))
    sums = torch.logsumexp(used, -2)  # [*parts, blocks, batch]
    itself = torch.eye(blocks, dtype=torch.bool, device=sums.device)[:, :, None]
    left_out = torch.logsumexp(sums[..., None, :, :].masked_fill(itself, -math.inf), -2)
    if minus is not None:
        means = minus[..., : draws - draws % blocks, :].double().unflatten(-2, (blocks, -1)).mean(-2)
        left_out = left_out - (means.sum(-2, keepdim=True) - means) / (blocks - 1)
    share = (draws - draws % blocks) / draws  # of the draws that the blocks have
    return (variance(left_out, -2) * share).to(log_weight.dtype)


def leave_out(parts: Float[np.ndarray, "groups ..."]) -> Float[np.ndarray, "subsets ..."]:
    """Return the sum over all groups, then the sums over all groups but one."""
    total = parts.sum(0, keepdims=True)
    return np.concatenate([total, total - parts])


def summarize(scores: Float[np.ndarray, " subsets"]) -> Estimate:
    """Return the first score, that of all images, with the error that the scores without each group give it."""
    return Estimate(float(scores[0]), standard_error(scores[1:]))


def standard_error(left_out: Float[np.ndarray, " groups"]) -> float:
    """Return the standard error of a score from its values without each group."""
    return math.sqrt((len(left_out) - 1) * float(left_out.var()))
