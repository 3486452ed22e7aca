"""Test bounds and their decomposition, each with the Monte Carlo standard error of its own draws.

All of them are reductions of the terms of S draws per image (`pipeline.objectives.ELBO`), in nats:

    elbo, reconstruction, kl, rate/z_t    means over draws and images
    iwae/k = L_k                          mean over images of the mean over S // k groups of k draws
    nll = -iwae/max k,  gap = iwae/max k - elbo (an under-estimate of log p(x) - elbo)
    bpd = nll / (D log 2)                 bits per dimension, discrete x only
    kl_down/z_t = E KL(q(z_t | .) || p(z_t | .))      top-down inference only; they sum to kl in the mean
    rounding                              evaluate.precision other than float32 only: the largest error of an image's
                                          iwae/max k, of the first images at the same random numbers
    active/z_t, informative/z_t, information/z_t      see `pipeline.activity`

The standard error is over draws with the test set held fixed. Where an image has one group only, it is that of a
jackknife over ten blocks of the draws (`jackknife`): the first-order error of log mean w, Var(w / mean w) / S, is too
small by half where a few draws carry most of the weight.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from pipeline.activity import activity
from pipeline.allocator import keep_freed
from pipeline.images import images
from pipeline.models import HierarchicalVAE
from pipeline.objectives import ELBO, elbo, top_down_kl
from pipeline.params import EvaluateParams
from pipeline.precision import products
from pipeline.progress import watched
from pipeline.training import seeded

__all__ = ["Estimate", "evaluate", "importance_bound", "jackknife", "many_draws"]

IMAGES = 20  # a batch of test images
ROWS = 2000  # rows of one pass, draws times images: its logits stay in the cache
BLOCKS = 10  # of draws, for the jackknife


@dataclass(frozen=True)
class Estimate:
    """A number and the Monte Carlo standard error of it."""

    value: float
    se: float


@torch.no_grad()
def evaluate(
    model: HierarchicalVAE,
    test: UInt8[Tensor, "n units"],
    scale: int,
    params: EvaluateParams,
    *,
    discrete: bool,
    stream: str = "",
) -> dict[str, Estimate]:
    """Measure every test bound of `model` on the frozen test set; the keys are those of the README's table.

    Models measured on different streams have independent Monte Carlo errors.
    """
    with seeded(params.seed, f"bounds {stream}"), products(model, params.precision):
        parts = [_reduce(many_draws(model, x, params.draws), params.k) for x in _batches(test, scale)]
    means = {name: torch.cat([part[name][0] for part in parts]) for name in parts[0]}
    variances = {name: torch.cat([part[name][1] for part in parts]) for name in parts[0]}
    results = {
        name: Estimate(means[name].mean().item(), variances[name].sum().sqrt().item() / len(test)) for name in means
    }
    best = results[f"iwae/{params.k[-1]}"]
    results["nll"] = Estimate(-best.value, best.se)
    if params.precision != "float32":
        with seeded(params.seed, f"bounds {stream}"):
            bound = many_draws(model, images(test[:IMAGES], scale), params.draws)
        exact, _ = importance_bound(bound.log_weight, params.k[-1])
        off = (means[f"iwae/{params.k[-1]}"][: len(exact)] - exact).abs()
        results["rounding"] = Estimate(off.max().item(), 0.0)
    if discrete:
        bits = test.shape[1] * math.log(2)
        results["bpd"] = Estimate(-best.value / bits, best.se / bits)
    if model.direction == "top_down":
        with seeded(params.seed, f"kl_down {stream}"):
            results |= _top_down(model, _batches(test, scale), params.draws)
    with seeded(params.seed, f"active {stream}"):
        units = activity(model, _batches(test, scale), params.active_draws, params.active_threshold)
        results |= {name: Estimate(*value) for name, value in units.items()}
    return results


def _batches(test: UInt8[Tensor, "n units"], scale: int) -> Iterator[Float[Tensor, "batch units"]]:
    return (images(pixels, scale) for pixels in watched(test.split(IMAGES), "bounds", f"batches of {IMAGES} images"))


def _top_down(
    model: HierarchicalVAE, batches: Iterator[Float[Tensor, "batch units"]], draws: int
) -> dict[str, Estimate]:
    """Measure the KL divergence of each level (decomposition (b) of a hierarchy)."""
    means, variances = [], []
    for x in batches:
        per_pass = max(1, ROWS // len(x))
        passes = [top_down_kl(model, x, min(per_pass, draws - done)) for done in range(0, draws, per_pass)]
        kl = torch.cat(passes, dim=1)
        means.append(kl.mean(1))
        variances.append(kl.var(1) / draws)
    mean, variance = torch.cat(means, dim=1), torch.cat(variances, dim=1)
    se = variance.sum(1).sqrt() / mean.shape[1]
    return {f"kl_down/z{t}": Estimate(mean[t - 1].mean().item(), se[t - 1].item()) for t in range(1, model.depth + 1)}


def many_draws(model: HierarchicalVAE, x: Float[Tensor, "batch units"], draws: int) -> ELBO:
    """Return the terms of `draws` draws, computed in passes whose memory does not grow with `draws`."""
    keep_freed()
    per_pass = max(1, ROWS // len(x))
    # Written in place: what small results of each pass stayed alive between large freed ones would split the heap.
    reconstruction = torch.empty(draws, len(x), device=x.device, dtype=x.dtype)
    rate = torch.empty(model.depth, draws, len(x), device=x.device, dtype=x.dtype)
    for done in watched(range(0, draws, per_pass), "draws of the posterior", "passes", long=True):
        part = elbo(model, x, min(per_pass, draws - done))
        reconstruction[done : done + per_pass], rate[:, done : done + per_pass] = part.reconstruction, part.rate
    return ELBO(reconstruction, rate)


def _reduce(bound: ELBO, ks: tuple[int, ...]) -> dict[str, tuple[Tensor, Tensor]]:
    """Return each quantity's value and the variance of its error, per image."""
    draws = len(bound.reconstruction)
    terms = {"elbo": bound.log_weight, "reconstruction": bound.reconstruction, "kl": bound.kl}
    terms |= {f"rate/z{t}": rate for t, rate in enumerate(bound.rate, start=1)}
    results = {name: (term.mean(0), term.var(0) / draws) for name, term in terms.items()}
    for k in ks:
        results[f"iwae/{k}"] = importance_bound(bound.log_weight, k)
    results["gap"] = _gap(bound.log_weight, ks[-1])
    return results


def _gap(log_weight: Float[Tensor, "draws batch"], k: int) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
    """Return L_k - elbo of each image and the variance of its error: both come from the same draws."""
    groups = len(log_weight) // k
    value = importance_bound(log_weight, k)[0] - log_weight.mean(0)
    if groups == 1:
        return value, jackknife(log_weight[:k], minus=log_weight[:k])
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
    return bounds[0], jackknife(used[0])


def jackknife(
    log_weight: Float[Tensor, "*parts draws batch"], minus: Float[Tensor, "*parts draws batch"] | None = None
) -> Float[Tensor, "*parts batch"]:
    """Return the variance of the error of log mean w, less the mean of `minus`, by leaving out blocks of draws.

    There are ten blocks, or as many as draws; up to nine draws that fill no whole block are left out of all. It is
    infinite for a single draw.

    Source: Efron, "Nonparametric estimates of standard error: the jackknife, the bootstrap and other methods" (1981),
    https://doi.org/10.1093/biomet/68.3.589
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
    return (left_out.var(-2, correction=0) * (blocks - 1)).to(log_weight.dtype)
