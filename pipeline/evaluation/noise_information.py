"""What a noised image says of which image it is, by log SNR.

With n uniform over the N images given and q(z | n) = N(alpha y_n, sigma^2), y = 2 x - 1,

    I(n; z) = log N - E log sum_m exp(e_m),     e_m = log q(z | m) - log q(z | n)
            = log N - E log sum_m exp(-SNR / 2 ||y_m - y_n||^2 + sqrt(SNR) noise . (y_m - y_n))

No decoder takes part. The sum is over all N images; the expectation is over the images n of the first `queries` of a
random order, with one draw of the noise each, and its error is the standard error of their mean. At most log N, from
above some log SNR equal to it; its slope is SNR / 2 E||y - E[y | z]||^2, the rate of the best decoder for these images.

Guo, Shamai, Verdu, "Mutual Information and Minimum Mean-Square Error in Gaussian Channels" (2005),
https://arxiv.org/abs/cs/0412108, for the slope
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.evaluation.estimates import Estimate

__all__ = ["information_by_log_snr"]

QUERIES = 500
NUMBERS = 2**22  # of a pass: rows times images


@torch.no_grad()
def information_by_log_snr(
    x: Float[Tensor, "images units"], log_snr: Float[Tensor, " levels"], queries: int = QUERIES
) -> list[Estimate]:
    """Return I(n; z) over the images x at each log SNR, in nats: exact sums over images, in double precision."""
    y = 2 * x.double() - 1
    chosen = torch.randperm(len(y), device=y.device)[:queries]
    rows = max(1, NUMBERS // len(y))
    size = (y**2).sum(1)
    values = torch.empty(len(log_snr), len(chosen), dtype=y.dtype, device=y.device)
    for part, done in zip(chosen.split(rows), range(0, len(chosen), rows), strict=True):
        own = y[part]
        overlap = own @ y.T  # computed once for all levels
        half_distance = 0.5 * (size + size[part, None]) - overlap
        for level, root in enumerate((0.5 * log_snr.double()).exp()):
            noise = torch.randn_like(own)
            odds = root * (noise @ y.T - (noise * own).sum(1, keepdim=True)) - root**2 * half_distance
            values[level, done : done + len(part)] = math.log(len(y)) - odds.logsumexp(1)
    return [Estimate.mean(value) for value in values]
