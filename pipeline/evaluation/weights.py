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

from pipeline.evaluation.estimates import Estimate
from pipeline.evaluation.extrapolation import extrapolate

__all__ = ["FEWEST_DRAWS", "effective_draws", "nll_bias", "pareto_khat", "weight_diagnostics"]

FEWEST_DRAWS = 25  # that have a tail of 5 weights to fit
LARGEST_KHAT = 0.7
LARGEST_HEAVY_SHARE = 0.05  # of images whose weights have a k-hat above 0.7
SMALL_BIAS = 0.05  # nats: a bias up to which nll counts as reliable
SAFETY = 7  # a bias without an error counts as so many times its value
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

    return log_weight.new_tensor([fit(weights) for weights in log_weight.double().T.cpu().numpy()])


def nll_bias(halved: Float[Tensor, "levels images"], nll: Estimate, heavy: float) -> dict[str, Estimate]:
    """Return what the last doubling of k gave, what nll lies above -log p(x), and whether that is known to be small.

    The bias has no error where its decay shows no limit, or where `heavy`, the share of images whose weights have too
    heavy a tail, is not small: there it was between 1/7 of the exact one (a linear chain) and 1.4 times (lognormal
    weights). It counts as small where it would be at `SAFETY` times its value.
    """
    if len(halved) < 2:
        return {"nll/reliable": Estimate(0.0, None)}
    limit = extrapolate(halved)
    results = {"nll/last_doubling": Estimate(limit.last_doubling, _finite(limit.last_doubling_se))}
    if math.isnan(limit.remaining):
        return results | {"nll/reliable": Estimate(0.0, None)}
    certain = limit.measurable and heavy <= LARGEST_HEAVY_SHARE
    worst = limit.remaining + limit.remaining_se if certain else SAFETY * limit.remaining
    return results | {
        "nll/bias": Estimate(limit.remaining, _finite(limit.remaining_se) if certain else None),
        "nll/reliable": Estimate(float(worst <= max(2 * nll.error, SMALL_BIAS)), None),
    }


def _finite(error: float) -> float | None:
    return error if math.isfinite(error) else None


def weight_diagnostics(ess: Float[Tensor, " images"], khat: Float[Tensor, " images"]) -> dict[str, Estimate]:
    """Return median and worst of the effective numbers of draws and of k-hat, and the share of images above 0.7."""
    results = {"ess/median": ess.median(), "ess/min": ess.min()}
    if not khat.isnan().any():
        results |= {"khat/median": khat.median(), "khat/max": khat.max()}
        results["khat/high"] = (khat > LARGEST_KHAT).double().mean()
    return {name: Estimate(value.item(), None) for name, value in results.items()}
