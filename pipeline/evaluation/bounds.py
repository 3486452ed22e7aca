"""Test bounds and their decomposition, each with the Monte Carlo standard error of its own draws.

All of them are reductions of the terms of S draws per image (`pipeline.objectives.ELBO`), in nats:

    elbo, reconstruction, kl, rate/z_t    means over draws and images
    iwae/k = L_k                          mean over images of the mean over S // k groups of k draws
    nll = -iwae/max k,  gap = iwae/max k - elbo (an under-estimate of log p(x) - elbo)
    bpd = nll / (D log 2)                 bits per dimension, discrete x; (nll + D log L) / (D log 2), an upper bound,
                                          of dequantized pixels of L grey levels (`pipeline.data.images`)
    kl_down/z_t = E KL(q(z_t | .) || p(z_t | .))      top-down inference only; they sum to kl in the mean
    rounding                              evaluate.precision other than float32 only: the largest error of an image's
                                          iwae/max k, of the first images at the same random numbers
    active/z_t, informative/z_t, information/z_t      see `pipeline.evaluation.activity`
    ess/*, khat/*                         how far the weights behind nll can be trusted (`pipeline.evaluation.weights`)
    nll/last_doubling = L_k - L_k/2
    nll/bias                              what nll lies above -log p(x) (`pipeline.evaluation.extrapolation`)
    nll/reliable                          1 where that is below twice the error of nll, or below 0.05 nats (`_bias`)
    generalization/...                    each term on training images less that on test images (`evaluate`)

The standard error is over draws with the test set held fixed. Where an image has one group only, it is that of a
jackknife over ten blocks of the draws (`jackknife`): the first-order error of log mean w, Var(w / mean w) / S, is too
small by half where a few draws carry most of the weight.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from pipeline.data.images import images
from pipeline.evaluation.activity import activity
from pipeline.evaluation.extrapolation import extrapolate, halved_bounds
from pipeline.evaluation.weights import LARGEST_KHAT, effective_draws, pareto_khat
from pipeline.models import HierarchicalVAE
from pipeline.models.precision import products
from pipeline.objectives import ELBO, elbo, top_down_kl
from pipeline.params import EvaluateParams
from pipeline.progress import watched
from pipeline.randomness import seeded

__all__ = [
    "Estimate",
    "Measured",
    "bits_per_dimension",
    "evaluate",
    "importance_bound",
    "jackknife",
    "many_draws",
]

IMAGES = 20  # a batch of test images
ROWS = 2000  # rows of one pass, draws times images: its logits stay in the cache
BLOCKS = 10  # of draws, for the jackknife
NEGLIGIBLE = 0.05  # nats: a bias up to which nll counts as reliable
FEW = 0.05  # share of images whose weights may have too heavy a tail
UNDERRATED = 7  # by which a bias without an error may be too small


@dataclass(frozen=True)
class Estimate:
    """A number and its standard error; None where it has none, as of what diagnoses the errors of other numbers."""

    value: float
    se: float | None

    @property
    def error(self) -> float:
        """The standard error of an estimate that has one; `ValueError` without."""
        if self.se is None:
            raise ValueError("this number has no standard error")
        return self.se


@dataclass(frozen=True)
class Measured:
    """Estimates by key, and the values of the images that some of them are means of.

    The images of a key are the first of the test set, as many as its tensor has.
    """

    estimates: dict[str, Estimate]
    images: dict[str, Tensor] = field(default_factory=dict)

    def __or__(self, other: Measured) -> Measured:
        """Return what both have; a key of both is that of `other`."""
        return Measured(self.estimates | other.estimates, self.images | other.images)


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
    """Measure every test bound of `model` on the frozen test set; the keys are those of the README's table.

    With `train`, training images as they are presented, the terms' `generalization/...` are measured on them, with
    `params.milestone_draws` draws. Models measured on different streams have independent Monte Carlo errors.
    """
    measured = _bounds(model, test, scale, params, f"bounds {stream}")
    results, values = measured.estimates, measured.images
    if params.precision != "float32":
        with seeded(params.seed, f"bounds {stream}"):
            bound = many_draws(model, images(test[:IMAGES], scale), params.draws)
        exact, _ = importance_bound(bound.log_weight, params.k[-1])
        off = (values[f"iwae/{params.k[-1]}"][: len(exact)] - exact).abs()
        results["rounding"] = Estimate(off.max().item(), None)
    if discrete:
        results["bpd"] = bits_per_dimension(results["nll"], test.shape[1])
        values["bpd"] = values["nll"] / (test.shape[1] * math.log(2))
    if train is not None:
        draws = params.milestone_draws
        fewer = {"draws": draws, "k": tuple(k for k in params.k if draws % k == 0) or (draws,)}
        seen = _bounds(
            model, train, scale, params.model_copy(update=fewer), f"training images {stream}", diagnose=False
        )
        results |= _generalization(seen, measured)
    if model.direction == "top_down":
        with seeded(params.seed, f"kl_down {stream}"):
            kl = _top_down(model, _batches(test, scale), params.draws)
        results |= kl.estimates
        values |= kl.images
    with seeded(params.seed, f"active {stream}"):
        found = activity(model, _batches(test, scale), params.active_draws, params.active_threshold)
    results |= {name: Estimate(*value) for name, value in found.items()}
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


def _bounds(
    model: HierarchicalVAE,
    pixels: Shaped[Tensor, "n units"],
    scale: int,
    params: EvaluateParams,
    stream: str,
    *,
    diagnose: bool = True,
) -> Measured:
    """Return the terms of the bound, for each image and in the mean, and what diagnoses the error of nll."""
    with seeded(params.seed, stream), products(model, params.precision):
        parts = [_reduce(many_draws(model, x, params.draws), params.k, diagnose) for x in _batches(pixels, scale)]
    values = {name: torch.cat([part.values[name] for part in parts]) for name in parts[0].values}
    variances = {name: torch.cat([part.variances[name] for part in parts]) for name in parts[0].variances}
    results = {
        name: Estimate(values[name].mean().item(), variance.sum().sqrt().item() / len(pixels))
        for name, variance in variances.items()
    }
    if not diagnose:
        return Measured(results, values)
    results |= _weight_diagnostics(values["ess"], values["khat"])
    heavy = results["khat/high"].value if "khat/high" in results else math.inf
    halved = torch.cat([part.halved for part in parts if part.halved is not None], dim=1)
    results |= _bias(halved, results["nll"], heavy)
    return Measured(results, values)


def _bias(halved: Float[Tensor, "levels images"], nll: Estimate, heavy: float) -> dict[str, Estimate]:
    """Return what the last doubling of k gave, what nll lies above -log p(x), and whether that is known to be small.

    The bias has no error where its decay shows no limit, or where `heavy`, the share of images whose weights have too
    heavy a tail, is not small: there it was between 1/7 of the exact one (a linear chain) and 1.4 times (lognormal
    weights). It counts as small where it would be at `UNDERRATED` times its value.
    """
    if len(halved) < 2:
        return {"nll/reliable": Estimate(0.0, None)}
    found = extrapolate(halved)
    results = {"nll/last_doubling": Estimate(found.last_doubling, _finite(found.last_doubling_se))}
    if math.isnan(found.left):
        return results | {"nll/reliable": Estimate(0.0, None)}
    certain = found.measurable and heavy <= FEW
    worst = found.left + found.left_se if certain else UNDERRATED * found.left
    return results | {
        "nll/bias": Estimate(found.left, _finite(found.left_se) if certain else None),
        "nll/reliable": Estimate(float(worst <= max(2 * nll.error, NEGLIGIBLE)), None),
    }


def _finite(error: float) -> float | None:
    return error if math.isfinite(error) else None


def _weight_diagnostics(ess: Float[Tensor, " images"], khat: Float[Tensor, " images"]) -> dict[str, Estimate]:
    """Return median and worst of the effective numbers of draws and of k-hat, and the share of images above 0.7."""
    results = {"ess/median": ess.median(), "ess/min": ess.min()}
    if not khat.isnan().any():
        results |= {"khat/median": khat.median(), "khat/max": khat.max()}
        results["khat/high"] = (khat > LARGEST_KHAT).double().mean()
    return {name: Estimate(value.item(), None) for name, value in results.items()}


def bits_per_dimension(nll: Estimate, units: int, levels: int = 1) -> Estimate:
    """Return (nll + D log L) / (D log 2): L = 1 for probabilities, the grey levels for densities of dequantized x."""
    bits = units * math.log(2)
    return Estimate((nll.value + units * math.log(levels)) / bits, nll.error / bits)


def _batches(test: Shaped[Tensor, "n units"], scale: int) -> Iterator[Float[Tensor, "batch units"]]:
    return (images(pixels, scale) for pixels in watched(test.split(IMAGES), "bounds", f"batches of {IMAGES} images"))


def _top_down(model: HierarchicalVAE, batches: Iterator[Float[Tensor, "batch units"]], draws: int) -> Measured:
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
    names = [f"kl_down/z{t}" for t in range(1, model.depth + 1)]
    results = {name: Estimate(mean[level].mean().item(), se[level].item()) for level, name in enumerate(names)}
    return Measured(results, dict(zip(names, mean, strict=True)))


def many_draws(model: HierarchicalVAE, x: Float[Tensor, "batch units"], draws: int) -> ELBO:
    """Return the terms of `draws` draws, computed in passes whose memory does not grow with `draws`."""
    per_pass = max(1, ROWS // len(x))
    # Written in place: what small results of each pass stayed alive between large freed ones would split the heap.
    reconstruction = torch.empty(draws, len(x), device=x.device, dtype=x.dtype)
    rate = torch.empty(model.depth, draws, len(x), device=x.device, dtype=x.dtype)
    for done in watched(range(0, draws, per_pass), "draws of the posterior", "passes", long=True):
        part = elbo(model, x, min(per_pass, draws - done))
        reconstruction[done : done + per_pass], rate[:, done : done + per_pass] = part.reconstruction, part.rate
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
    terms |= {f"rate/z{t}": rate for t, rate in enumerate(bound.rate, start=1)}
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

    There are ten blocks, or as many as draws; up to nine draws that fill no whole block are left
    out of all, and the variance is that of all draws. It is
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
    share = (draws - draws % blocks) / draws  # of the draws that the blocks have
    return (left_out.var(-2, correction=0) * (blocks - 1) * share).to(log_weight.dtype)
