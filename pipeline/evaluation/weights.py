"""How far importance weights can be trusted: their effective number, and the index of their upper tail.

    ess = (sum w)^2 / sum w^2        of S weights: S where all are equal, 1 where one carries the sum
    k-hat                            shape of the generalized Pareto distribution fitted to the largest weights; above
                                     0.5 the weights have no variance, above 0.7 averages of them converge too slowly
                                     for their errors to be believed

Vehtari, Simpson, Gelman, Yao, Gabry, "Pareto Smoothed Importance Sampling" (2024), https://jmlr.org/papers/v25/19-556.html
The fit is that of ArviZ.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["FEWEST_DRAWS", "LARGEST_KHAT", "effective_draws", "pareto_khat"]

FEWEST_DRAWS = 25  # that have a tail of 5 weights to fit
LARGEST_KHAT = 0.7
HEAVIEST = 10.0  # k-hat of a tail that is too steep for the range of numbers, and the largest that is given
RANGE = 700.0  # nats between two weights, beyond which the smaller one is 0 beside the larger one


def effective_draws(log_weight: Float[Tensor, "draws batch"]) -> Float[Tensor, " batch"]:
    """Return the effective number of weights of each image, between 1 and the number of draws."""
    precise = log_weight.double()
    return (2 * torch.logsumexp(precise, 0) - torch.logsumexp(2 * precise, 0)).exp().to(log_weight)


def pareto_khat(log_weight: Float[Tensor, "draws batch"]) -> Float[Tensor, " batch"]:
    """Return k-hat of each image's weights, at most `HEAVIEST`; 0 where the largest weights are equal.

    It is NaN for fewer than `FEWEST_DRAWS` draws.
    """
    from arviz_stats.base import array_stats  # type: ignore[attr-defined]

    if len(log_weight) < FEWEST_DRAWS:
        return torch.full_like(log_weight[0], math.nan)

    tail = math.ceil(min(len(log_weight) / 5, 3 * math.sqrt(len(log_weight))))  # weights that are fitted

    def fit(weights: Float[np.ndarray, " draws"]) -> float:
        if np.ptp(np.partition(weights, -tail)[-tail:]) > RANGE:
            return HEAVIEST
        try:
            with np.errstate(all="ignore"):
                # It takes log-likelihoods, and weighs by their inverses.
                khat = float(array_stats.psislw(-weights)[1])  # type: ignore[no-untyped-call]
        except ValueError:  # all of the tail are the same
            return 0.0
        return min(khat, HEAVIEST) if math.isfinite(khat) else 0.0

    found = [fit(weights) for weights in log_weight.double().T.cpu().numpy()]
    return log_weight.new_tensor(found)
