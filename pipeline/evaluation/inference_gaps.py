"""What the family of posteriors costs, and what one network for all examples costs, in all and by level.

    log p(x) - elbo = [log p(x) - L(q*)] + [L(q*) - L(q)] = approximation_gap + amortization_gap,

L(q) the bound of the trained q and L(q*) that of the best q of the same family for each example by itself.
Cremer, Li, Duvenaud, "Inference Suboptimality in Variational Autoencoders" (2018), https://arxiv.org/abs/1801.03558
By level: `approximation_gap/z_t` is `gap/z_t` of q* (decomposition (d), see `levels`), `amortization_gap/z_t` is
`gap/z_t` of q less that of q*. The former are 0 or more. Of the latter only the sum is: q* may spend at one level what
it gains at another.

q* and the search for it are those of `pipeline.evaluation.refinement`.

log p(x) is the log mean of 2k weights, half of them at draws from q and half at draws from q*, whose proposal is the
mixture of both: w = p(x, z) / (q(z) / 2 + q*(z) / 2). Where the best diagonal q is narrower than the posterior its own
weights may have no variance; those of the mixture are at most twice those of q. The estimate is from below, and the
approximation and inference gap with it. Standard errors are those of the draws at this q*; another optimization
finds another.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution

from pipeline.evaluation.estimates import Estimate, Measured, PerImage, of_batches, of_draws
from pipeline.evaluation.jackknife import log_mean_variance
from pipeline.evaluation.levels import level_terms, log_mean_exp
from pipeline.evaluation.passes import DECODED_ROWS, passes
from pipeline.evaluation.refinement import refine
from pipeline.metric import Metric
from pipeline.models import HierarchicalVAE, rows_within
from pipeline.progress import print_note

__all__ = ["gap_terms", "measure_gaps"]

BATCH = 50  # images of one batch


def measure_gaps(
    model: HierarchicalVAE,
    x: Float[Tensor, "n units"],
    *,
    steps: int,
    draws: int,
    rate: float,
    k: int,
    level_draws: int,
    inner: int,
) -> Measured:
    """Return every term of `gap_terms` over all images."""
    settings = {"steps": steps, "draws": draws, "k": k, "level_draws": level_draws, "inner": inner}
    measured = of_batches([gap_terms(model, batch, rate=rate, **settings) for batch in x.split(BATCH)])
    # Another search ends elsewhere, which no error of the draws covers.
    unconverged = Estimate(measured.estimates["gap_unconverged"].value, None)
    return measured | Measured({"gap_unconverged": unconverged})


def gap_terms(
    model: HierarchicalVAE,
    x: Float[Tensor, "batch units"],
    *,
    steps: int,
    draws: int,
    rate: float,
    k: int,
    level_draws: int,
    inner: int,
) -> PerImage:
    """Return `approximation_gap`, `amortization_gap` and their sum `inference_gap` of each image, in nats.

    `inference_gap` is `gaps/log_marginal` less `gaps/elbo`, of the same images and draws. `k` (at least 2) fresh draws
    stand behind each bound, all of them behind log p(x). The gaps by level have draws of their own, `level_draws` and
    `inner` of them as in `level_terms`.
    """
    search = refine(model, x, steps=steps, draws=draws, rate=rate)
    refined = search.model
    if not search.converged:
        gained = f"the last round of them gained {search.gain.mean():.3f} nats an image"
        print_note(f"q* has not converged in {search.steps} steps: {gained}; raise evaluate.decompose.gap_steps")
    with torch.no_grad():
        trained, best, pooled = _weights(model, refined, x, k)
        log_p, error = log_marginal = log_mean_exp(pooled), log_mean_variance(pooled)
        before, before_error = of_draws(trained)
        after, after_error = of_draws(best)
        # log p(x) shares its draws with the bound that it is compared with.
        above_best, above_trained = (log_mean_variance(pooled, bound) for bound in (best, trained))
        trained_levels, best_levels = (
            level_terms(q, x, draws=level_draws, inner=inner, outer=k, log_marginal=log_marginal)[0]
            for q in (model, refined)
        )
    results: PerImage = {
        "approximation_gap": (log_p - after, above_best),
        "amortization_gap": (after - before, after_error + before_error),
        "inference_gap": (log_p - before, above_trained),
        "gap_unconverged": (search.gain, search.variance),
        "gaps/elbo": (before, before_error),
        "gaps/log_marginal": (log_p, error),
    }
    for t in model.order:
        (gap, gap_error), (least, least_error) = (
            trained_levels[str(Metric("gap", t))],
            best_levels[str(Metric("gap", t))],
        )
        assert gap_error is not None
        assert least_error is not None
        shared = error if t == model.order[0] else 0.0  # log p(x) is the same in both
        results[str(Metric("approximation_gap", t))] = (least, least_error)
        results[str(Metric("amortization_gap", t))] = (gap - least, gap_error + least_error - 2 * shared)
    return results


def _weights(
    model: HierarchicalVAE, refined: HierarchicalVAE, x: Float[Tensor, "batch units"], k: int
) -> tuple[Float[Tensor, "k batch"], Float[Tensor, "k batch"], Float[Tensor, "k batch"]]:
    """Return the log-weights of k draws from q and of k from q*, and those of the mixture as the proposal.

    Of the latter each is the mean of a pair: the weights of one draw from q and of one from q*.
    """
    parts: list[list[Tensor]] = [[], [], []]
    for size in passes(k, len(x), rows_within(model, x, DECODED_ROWS)):
        mixed = []
        for side, (source, other) in enumerate(((model, refined), (refined, model))):
            z, q = source.posterior(x, size)
            own, across = (_log_density(factors, z[1:]) for factors in (q, other.posterior_at(z)))
            log_p = _log_density(source.joint(z), z)
            parts[side].append(log_p - own)
            mixed.append(log_p - torch.logaddexp(own, across) + math.log(2))
        parts[2].append(torch.logaddexp(*mixed) - math.log(2))
    trained, best, pooled = (torch.cat(part) for part in parts)
    return trained, best, pooled


def _log_density(factors: Sequence[Distribution], z: Sequence[Tensor]) -> Tensor:
    """Return the sum of the log-densities of all factors at the nodes, [draws, batch]."""
    terms = [factor.log_prob(z_t) for factor, z_t in zip(factors, z, strict=True)]
    return torch.stack(torch.broadcast_tensors(*terms)).sum(0)
