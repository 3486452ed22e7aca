"""Test bounds and their decomposition, each with the Monte Carlo standard error of its own draws.

All of them are reductions of the terms of S draws per image (`pipeline.objectives.ELBO`), in nats:

    elbo, reconstruction, kl, rate/z_t    means over draws and images
    iwae/k = L_k                          mean over images of the mean over S // k groups of k draws
    nll = -iwae/max k,  gap = iwae/max k - elbo (an under-estimate of log p(x) - elbo)
    bpd = nll / (D log 2)                 bits per dimension, discrete x; (nll + D log L) / (D log 2), an upper bound,
                                          of dequantized pixels of L grey levels (`pipeline.data.images`)
    kl/z_t = E KL(q(z_t | .) || p(z_t | .))      top-down inference only; they sum to kl in the mean
    rounding                              evaluate.precision other than float32 only: the largest error of an image's
                                          iwae/max k, of the first images at the same random numbers
    active/z_t, informative/z_t, information/z_t      see `pipeline.evaluation.activity`
    ess/*, khat/*                         how far the weights behind nll can be trusted (`pipeline.evaluation.weights`)
    nll/last_doubling = L_k - L_k/2
    nll/bias                              what nll lies above -log p(x) (`pipeline.evaluation.extrapolation`)
    nll/reliable                          1 where that is below twice the error of nll, or below 0.05 nats (`nll_bias`)
    generalization/...                    each term on training images less that on test images (`evaluate`)

The standard error is over draws with the test set held fixed. Where an image has one group only, it is that of a
jackknife over ten blocks of the draws (`log_mean_variance`): the first-order error of log mean w, Var(w / mean w) / S,
is too small by half where a few draws carry most of the weight.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from pipeline.data.images import to_unit_interval
from pipeline.evaluation.activity import activity
from pipeline.evaluation.estimates import Estimate, Measured
from pipeline.evaluation.extrapolation import halved_bounds
from pipeline.evaluation.jackknife import log_mean_variance
from pipeline.evaluation.passes import DECODED_ROWS, passes
from pipeline.evaluation.weights import effective_draws, nll_bias, pareto_khat, weight_diagnostics
from pipeline.metric import Metric
from pipeline.models import HierarchicalVAE, rows_within
from pipeline.models.precision import linear_autocast
from pipeline.objectives import ELBO, elbo, top_down_kl
from pipeline.params import EvaluateParams
from pipeline.progress import track_progress
from pipeline.randomness import seeded

__all__ = [
    "bits_per_dimension",
    "evaluate",
    "importance_bound",
    "many_draws",
    "measure_draws",
]

IMAGES = 20  # a batch of test images


@torch.no_grad()
def evaluate(
    model: HierarchicalVAE,
    test: Shaped[Tensor, "n units"],
    scale: int,
    params: EvaluateParams,
    *,
    discrete: bool,
    train: Shaped[Tensor, "m units"] | None = None,
    stream: str = "",
) -> Measured:
    """Measure every test bound of `model` on the frozen test set; docs/metrics.md explains the keys.

    With `train`, training images as they are presented, the terms' `generalization/...` are measured on them, with
    `params.milestone_draws` draws. Models measured on different streams have independent Monte Carlo errors.
    """
    measured = measure_draws(model, test, scale, params, f"bounds {stream}")
    results, values = measured.estimates, measured.images
    if params.precision != "float32":
        with seeded(params.seed, f"bounds {stream}"):
            bound = many_draws(model, to_unit_interval(test[:IMAGES], scale), params.draws)
        exact, _ = importance_bound(bound.log_weight, params.k[-1])
        off = (values[f"iwae/{params.k[-1]}"][: len(exact)] - exact).abs()
        results["rounding"] = Estimate(off.max().item(), None)
    if discrete:
        results["bpd"] = bits_per_dimension(results["nll"], test.shape[1])
        values["bpd"] = values["nll"] / (test.shape[1] * math.log(2))
    if train is not None:
        draws = params.milestone_draws
        fewer = {"draws": draws, "k": tuple(k for k in params.k if draws % k == 0) or (draws,)}
        seen = measure_draws(
            model, train, scale, params.model_copy(update=fewer), f"training images {stream}", diagnose=False
        )
        results |= _generalization(seen, measured)
    if model.direction == "top_down":
        with seeded(params.seed, f"kl_down {stream}"):
            kl = _top_down(model, _batches(test, scale), params.draws)
        results |= kl.estimates
        values |= kl.images
    with seeded(params.seed, f"active {stream}"):
        measured_activity = activity(model, _batches(test, scale), params.active_draws, params.active_threshold)
    results |= {name: Estimate(*value) for name, value in measured_activity.items()}
    return measured


def _generalization(seen: Measured, new: Measured) -> dict[str, Estimate]:
    """Return the mean of each term over training images less that over test images, with its error over images."""
    names = [name for name in seen.images if name in new.images and name not in ("nll", "gap", "iwae/1")]
    pairs = {name: (seen.images[name].double(), new.images[name].double()) for name in names}
    return {
        f"generalization/{name}": Estimate(
            (train.mean() - test.mean()).item(), (train.var() / len(train) + test.var() / len(test)).sqrt().item()
        )
        for name, (train, test) in pairs.items()
    }


def measure_draws(
    model: HierarchicalVAE,
    pixels: Shaped[Tensor, "n units"],
    scale: int,
    params: EvaluateParams,
    stream: str,
    *,
    diagnose: bool = True,
) -> Measured:
    """Return the terms of the bound, for each image and in the mean, and what diagnoses the error of nll."""
    with seeded(params.seed, stream), linear_autocast(model, params.precision):
        parts = [_reduce(many_draws(model, x, params.draws), params.k, diagnose) for x in _batches(pixels, scale)]
    values = {name: torch.cat([part.values[name] for part in parts]) for name in parts[0].values}
    variances = {name: torch.cat([part.variances[name] for part in parts]) for name in parts[0].variances}
    results = {name: Estimate.mean(values[name], variance) for name, variance in variances.items()}
    if not diagnose:
        return Measured(results, values)
    results |= weight_diagnostics(values["ess"], values["khat"])
    heavy = results["khat/high"].value if "khat/high" in results else math.inf
    halved = torch.cat([part.halved for part in parts if part.halved is not None], dim=1)
    results |= nll_bias(halved, results["nll"], heavy)
    return Measured(results, values)


def bits_per_dimension(nll: Estimate, units: int, levels: int = 1) -> Estimate:
    """Return (nll + D log L) / (D log 2): L = 1 for probabilities, the grey levels for densities of dequantized x."""
    bits = units * math.log(2)
    return Estimate((nll.value + units * math.log(levels)) / bits, nll.error / bits)


def _batches(test: Shaped[Tensor, "n units"], scale: int) -> Iterator[Float[Tensor, "batch units"]]:
    return (
        to_unit_interval(pixels, scale)
        for pixels in track_progress(test.split(IMAGES), "bounds", f"batches of {IMAGES} images")
    )


def _top_down(model: HierarchicalVAE, batches: Iterator[Float[Tensor, "batch units"]], draws: int) -> Measured:
    """Measure the KL divergence of each level (decomposition (b) of a hierarchy)."""
    means, variances = [], []
    for x in batches:
        sizes = passes(draws, len(x), rows_within(model, x, DECODED_ROWS))
        kl = torch.cat([top_down_kl(model, x, size) for size in sizes], dim=1)
        means.append(kl.mean(1))
        variances.append(kl.var(1) / draws)
    mean, variance = torch.cat(means, dim=1), torch.cat(variances, dim=1)
    names = [str(Metric("kl", t)) for t in range(1, model.depth + 1)]
    results = {name: Estimate.mean(mean[level], variance[level]) for level, name in enumerate(names)}
    return Measured(results, dict(zip(names, mean, strict=True)))


def many_draws(model: HierarchicalVAE, x: Float[Tensor, "batch units"], draws: int) -> ELBO:
    """Return the terms of `draws` draws, computed in passes whose memory does not grow with `draws`."""
    # Write in place: small results of each pass that stay alive between large freed ones would split the heap.
    reconstruction = torch.empty(draws, len(x), device=x.device, dtype=x.dtype)
    rate = torch.empty(model.depth, draws, len(x), device=x.device, dtype=x.dtype)
    done = 0
    levels = 1 if model.diffusion is None else model.depth  # each as large as an image
    sizes = passes(draws, len(x), rows_within(model, x, DECODED_ROWS) // levels)
    for size in track_progress(sizes, "draws of the posterior", "passes", long=True):
        part = elbo(model, x, size)
        reconstruction[done : done + size], rate[:, done : done + size] = part.reconstruction, part.rate
        done += size
    return ELBO(reconstruction, rate)


class _Reduced(NamedTuple):
    """The values of a batch of images, the variances of their errors, and L_k at halved k."""

    values: dict[str, Float[Tensor, " batch"]]
    variances: dict[str, Float[Tensor, " batch"]]
    halved: Float[Tensor, "levels batch"] | None


def _reduce(bound: ELBO, ks: tuple[int, ...], diagnose: bool) -> _Reduced:
    """Return each quantity's value and the variance of its error, per image."""
    draws, k, log_weight = len(bound.reconstruction), ks[-1], bound.log_weight
    terms = {"elbo": log_weight, "reconstruction": bound.reconstruction, "kl": bound.kl}
    terms |= {str(Metric("rate", t)): rate for t, rate in enumerate(bound.rate, start=1)}
    results = {name: (term.mean(0), term.var(0) / draws) for name, term in terms.items()}
    for size in ks:
        results[f"iwae/{size}"] = importance_bound(log_weight, size)
    value, variance = results[f"iwae/{k}"]
    results["nll"] = (-value, variance)
    results["gap"] = _gap(log_weight, k)
    values = {name: value for name, (value, _) in results.items()}
    variances = {name: variance for name, (_, variance) in results.items()}
    if not diagnose:
        return _Reduced(values, variances, None)
    values |= {"ess": effective_draws(log_weight), "khat": pareto_khat(log_weight)}
    return _Reduced(values, variances, halved_bounds(log_weight, k))


def _gap(log_weight: Float[Tensor, "draws batch"], k: int) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
    """Return L_k - elbo of each image and the variance of its error: both come from the same draws."""
    groups = len(log_weight) // k
    value = importance_bound(log_weight, k)[0] - log_weight.mean(0)
    if groups == 1:
        return value, log_mean_variance(log_weight[:k], minus=log_weight[:k])
    used = log_weight[: groups * k].unflatten(0, (groups, k))
    return value, (torch.logsumexp(used, dim=1) - math.log(k) - used.mean(1)).var(0) / groups


def importance_bound(
    log_weight: Float[Tensor, "draws batch"], k: int
) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
    """Return L_k of each image, the mean over all groups of k draws, and the variance of its error."""
    groups = len(log_weight) // k
    used = log_weight[: groups * k].unflatten(0, (groups, k))
    bounds = torch.logsumexp(used, dim=1) - math.log(k)
    if groups > 1:
        return bounds.mean(0), bounds.var(0) / groups
    return bounds[0], log_mean_variance(used[0])
