"""The bound taken apart by level, in the order in which q draws the levels.

Write z_0 = x and let z_1:T be drawn from q, bottom-up (20) or top-down (the ladder). By the chain rule,

    chain_kl/z_t = E_q KL(q(z_t | z_<t) || p(z_t | z_1:t-1))      sums to KL(q(z_1:T | x) || p(z_1:T))           (c)
    gap/z_t   = E_q KL(q(z_t | drawn, x) || p(z_t | drawn, x)) sums to log p(x) - elbo, equation (10)          (d)

with `drawn` the levels drawn before z_t and p(z_t | .) the model's own posterior. Every term is a KL divergence, hence
>= 0, unlike the rates. (c) is for bottom-up inference; the ladder has (b) instead, in closed form (`top_down_kl`).
In a Markov chain (`nearest`) p(z_t | z_0:t-1) = p(z_t | z_t-1), so that (c) and (d) agree for t >= 2: the upper levels
are a learned prior p(z_1), and add to the gap what they add to the KL. With `every` they differ.

Estimates: with a_j = log q of the j-th level drawn and M_j = log p of the levels drawn so far, in (d) joint with x,

    term of the j-th level = E[a_j + M_j-1 - M_j],      M_0 = 0 in (c), log p(x) in (d),

and M_j is estimated by L_K, the log mean of K importance weights at draws of the levels that are left, from q given
those drawn; it is exact where none is left. What stands for M_j cancels in the sums, which hold draw by draw.
E L_K = M_j - delta_j, delta_j >= 0 (Burda et al. 2016), hence

    bias of a term = delta_j - delta_j-1,      delta_T = 0, and delta_0 = 0 in (c):

the partial sums of (c) from z_1 up are upper bounds, those from z_T down lower bounds; at T = 2, chain_kl/z1 is an
upper bound and chain_kl/z2 a lower one. Each delta_j is extrapolated from the rise of L_K with K
(`pipeline.evaluation.extrapolation`), and `chain_kl_bias/z_t` and `gap_bias/z_t` are the biases that follow. Where the
rise shows no limit the key is left out, and `bias_unmeasured` counts those that are. No upper bound of M_j is known
at draws from q; at draws from the model there is one (`two_sided_bound`).

The images are fewer than those of `evaluate`, so that the sums have keys of their own, of the same images and draws:

    sum_t chain_kl/z_t = levels/kl,      sum_t gap/z_t = levels/gap = log_marginal/x - levels/elbo.

With `every` above depth 1, (c) is left out: its q(. | z_0:t) looks at x and its target p(. | z_1:t) does not, which
cost 0.75 nats at K = 100 on a linear chain of two levels. (d) has no such mismatch and is always measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.evaluation.estimates import Estimate, Measured, PerImage, mean_over_images, of_batches, of_draws
from pipeline.evaluation.extrapolation import Extrapolation, extrapolate, halved_bounds
from pipeline.evaluation.jackknife import log_mean_variance
from pipeline.evaluation.passes import LATENT_ROWS, passes
from pipeline.metric import Metric
from pipeline.models import HierarchicalVAE, rows_within
from pipeline.progress import print_note, track_progress

__all__ = [
    "is_chain",
    "level_terms",
    "log_marginals",
    "log_mean_exp",
    "measure_levels",
    "two_sided_bound",
]

BATCH = 50  # images of one batch

LogMarginal = tuple[Tensor, Tensor]
"""log p(x) of each image and the variance of its error: [batch] each."""

Halved = dict[str, Tensor]
"""By term and the last level drawn (`gap/x`: none), M_j estimated at K, K/2, K/4, ...: [levels, (draws), batch]."""


def measure_levels(
    model: HierarchicalVAE, x: Float[Tensor, "n units"], *, draws: int, inner: int, outer: int
) -> Measured:
    """Return every term of `level_terms` with its bias, over all images."""
    batches = [level_terms(model, batch, draws=draws, inner=inner, outer=outer) for batch in x.split(BATCH)]
    halved = {key: torch.cat([bounds[key] for _, bounds in batches], dim=-1) for key in batches[0][1]}
    return of_batches([terms for terms, _ in batches]) | Measured(_biases(model, halved))


def _biases(model: HierarchicalVAE, halved: Mapping[str, Tensor]) -> dict[str, Estimate]:
    """Return `chain_kl_bias/`, `gap_bias/` where they are measurable, and how many are not.

    Standard errors are over the draws, the images held fixed; the part that log p(x) itself lacks has one group of
    draws an image, and its error is over images.
    """
    lacks = {key: extrapolate(bounds) for key, bounds in halved.items()}
    exact = Extrapolation(0.0, 0.0, 0.0, 0.0, 0.0, measurable=True)
    results, missing = {}, []
    for name in _measured(model):
        before = lacks.get(str(Metric(name, 0)), exact)
        for t in model.order:
            after = lacks.get(str(Metric(name, t)), exact)
            if before.measurable and after.measurable:
                bias = Estimate(after.remaining - before.remaining, math.hypot(after.remaining_se, before.remaining_se))
                results[str(Metric(f"{name}_bias", t))] = bias
            else:
                missing.append(str(Metric(f"{name}_bias", t)))
            before = after
    if missing:
        print_note(f"no limit of the bounds on log p is in sight, so that these are left out: {', '.join(missing)}")
    return results | {"bias_unmeasured": Estimate(len(missing), None)}


@torch.no_grad()
def level_terms(
    model: HierarchicalVAE,
    x: Float[Tensor, "batch units"],
    *,
    draws: int,
    inner: int,
    outer: int,
    log_marginal: LogMarginal | None = None,
) -> tuple[PerImage, Halved]:
    """Return `chain_kl/`, `gap/`, their sums, and `log_marginal/` log p(x) and log p(z_1) of each image, in nats.

    `draws` (at least 2) of the posterior stand behind each mean, `inner` (at least 2) of the levels that are left
    behind each M_j, `outer` (at least 2) behind log p(x), unless `log_marginal` has it. The estimates of M_j are
    returned beside the terms.
    """
    z, q = model.posterior(x, draws)
    log_q = [q_t.log_prob(z_t) for q_t, z_t in zip(q, z[1:], strict=True)]
    log_p = [p_t.log_prob(z_t) for p_t, z_t in zip(model.joint(z), z, strict=True)]
    kl = torch.stack(log_q).sum(0) - torch.stack(log_p[1:]).sum(0)
    measured = _measured(model)
    halved: Halved = {}
    if log_marginal is None:
        weights = log_marginals(model, x, [], outer)[0]
        log_marginal = log_mean_exp(weights), log_mean_variance(weights)
        halved[str(Metric("gap", 0))] = halved_bounds(weights)
    log_x, error = log_marginal
    # (c) and (d) in one: [2, draws, batch] of M_j from j = 0 up.
    marginal = [torch.stack([torch.zeros_like(log_x), log_x])[:, None]]
    rows = x.expand(draws, -1, -1).flatten(0, 1)
    nodes = [z[t].flatten(0, 1)[None] for t in model.order]
    for j, t in enumerate(model.order, start=1):
        weights = log_marginals(model, rows, nodes[:j], inner)[[1, 0]]
        marginal.append(log_mean_exp(weights).unflatten(-1, (draws, -1)))
        if j < model.depth:
            bounds = halved_bounds(weights).unflatten(-1, (draws, -1))
            halved |= {str(Metric(name, t)): bounds[:, index] for name, index in measured.items()}
    bound = of_draws(log_p[0] - kl)
    results: PerImage = {
        str(Metric("log_marginal", 0)): (log_x, error),
        "levels/elbo": bound,
        "levels/kl": of_draws(kl),
        "levels/gap": (log_x - bound[0], error + bound[1]),
    }
    for name, index in measured.items():
        for j, t in enumerate(model.order, start=1):
            value, variance = of_draws(log_q[t - 1] + marginal[j - 1][index] - marginal[j][index])
            shared = error if name == "gap" and j == 1 else 0.0  # log p(x) is the same in all draws
            results[str(Metric(name, t))] = (value, variance + shared)
    if "chain_kl" in measured:
        results[str(Metric("log_marginal", 1))] = of_draws(marginal[1][0])
    return results, halved


def _measured(model: HierarchicalVAE) -> dict[str, int]:
    """Return the decompositions that the model has, (c) and (d), with their indices among the rows of log-weights."""
    return {"chain_kl": 0, "gap": 1} if is_chain(model) else {"gap": 1}


@torch.no_grad()
def two_sided_bound(model: HierarchicalVAE, count: int, *, inner: int, outer: int) -> dict[str, Estimate]:
    """Return the mean width of a two-sided bound on M_j, j < T, over `count` draws of the model itself.

    Where the nodes come from the model, the levels that are left are one exact draw of the posterior given those drawn.
    With it among the K weights, E log (1/K) sum w >= M_j; without it, <=. So `bound_width/z_t`, z_t being the last
    level drawn (z_0: none), is at least delta_j at the model's own draws, for K = `outer` at j = 0 and `inner` above.
    In a Markov chain it is the width for log p(z_t) too. It says nothing rigorous of draws from q. Source: Grosse,
    Ghahramani, Adams, "Sandwiching the marginal likelihood using bidirectional Monte Carlo" (2015),
    https://arxiv.org/abs/1511.02543
    """
    nodes = [node[None] for node in model.sample(count)]
    log_p = torch.stack([p_t.log_prob(z_t) for p_t, z_t in zip(model.joint(nodes), nodes, strict=True)]).sum(0)
    log_q = [q_t.log_prob(z_t) for q_t, z_t in zip(model.posterior_at(nodes), nodes[1:], strict=True)]
    results: PerImage = {}
    for j in range(model.depth):
        drawn, undrawn = model.order[:j], model.order[j:]
        weights = log_marginals(model, nodes[0][0], [nodes[t] for t in drawn], inner if drawn else outer)[0]
        exact = log_p - torch.stack([log_q[t - 1] for t in undrawn]).sum(0)
        upper = torch.logsumexp(torch.cat([exact, weights[1:]]), 0)
        results[str(Metric("bound_width", drawn[-1] if drawn else 0))] = (upper - torch.logsumexp(weights, 0), None)
    return mean_over_images([results])


def is_chain(model: HierarchicalVAE) -> bool:
    """Return whether the posterior of a level depends on the level below it alone, as in (20); at depth 1 always."""
    return model.depth == 1 or (model.direction == "bottom_up" and model.parents == "nearest")


@torch.no_grad()
def log_marginals(
    model: HierarchicalVAE, x: Float[Tensor, "batch units"], drawn: Sequence[Float[Tensor, "1 batch _"]], draws: int
) -> Float[Tensor, "nodes _ batch"]:
    """Return log-weights whose exponentials have the means p(z_s, z_s+1, ...) of x = z_0 and the levels drawn.

    Row s leaves out the nodes below z_s: row 0 is for p(x, drawn), row 1 for p(drawn) where bottom-up inference drew
    them, and so on. The draws are of the levels that are left, from q given x and those `drawn` (in that order);
    where none is left there is one exact weight.
    """
    most = rows_within(model, x, LATENT_ROWS)
    sizes = passes(draws, len(x), most) if len(drawn) < model.depth else [1]
    parts = []
    for size in track_progress(sizes, "inner bounds", "passes"):
        z, q = model.posterior(x, size, drawn)
        new = [z[t] for t in sorted(model.order[len(drawn) :])]
        log_q = sum((q_t.log_prob(z_t) for q_t, z_t in zip(q, new, strict=True)), x.new_zeros(()))
        log_p = [p_t.log_prob(z_t) for p_t, z_t in zip(model.joint(z), z, strict=True)]
        rows = torch.stack(torch.broadcast_tensors(*log_p))
        parts.append(rows.flip(0).cumsum(0).flip(0) - log_q)
    return torch.cat(parts, dim=1)


def log_mean_exp(log_weight: Float[Tensor, "*parts draws batch"]) -> Float[Tensor, "*parts batch"]:
    """Return log mean w over the draws."""
    return torch.logsumexp(log_weight, -2) - math.log(log_weight.shape[-2])
