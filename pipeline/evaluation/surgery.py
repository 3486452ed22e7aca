"""The mean KL taken apart over the data set: q(z) = (1/N) sum_n q(z | x_n), all N posteriors, never a minibatch.

    mean KL          = mutual_information + marginal_kl,   I_q(n; z) + KL(q(z) || p(z))
    marginal_kl      = total_correlation + dimension_kl,   KL(q(z) || prod_j q(z_j)) + sum_j KL(q(z_j) || p(z_j))

Hoffman, Johnson, "ELBO surgery" (2016), http://approximateinference.org/accepted/HoffmanJohnson2016.pdf
Chen, Li, Grosse, Duvenaud, "Isolating Sources of Disentanglement in VAEs" (2018), https://arxiv.org/abs/1802.04942

Each is a mean over M pairs (n, z ~ q(z | x_n)), n drawn with replacement; where log q(z) is exact at every draw, the
means are unbiased and the identities hold draw by draw. Standard errors: deviation over the M pairs / sqrt(M). (With
each of 269 examples taken once, errors were printed that are 1.05 to 1.25 times too large.)

All levels together. log q(z_1:T | x_n) is a sum of T factors, so that log q(z_1:T) is exact. In a Markov chain the
factors above the first do not depend on n: I_q(n; z_1:T) = I_q(n; z_1), and q(z_1:T) = q(z_1) prod q(z_t | z_t-1).
Otherwise every pair of an example and a query is worked out (`log_posteriors`).

All of it is of the N examples at hand. I <= log N, and an I within 0.5 nats of that is what N examples can show and not
what the latents carry: `mutual_information/saturated` is 1 there, and training images, of which there are more
(`evaluate.decompose.aggregate: train`), allow more. marginal_kl and total_correlation depend on N too,
since q(z) is a mixture of N densities: more examples raise I and lower marginal_kl by as much, their sum being the KL.

Level by level (keys end in /z_t). The level that q draws first, z_1 bottom-up and z_T in the ladder, has Gaussian
posteriors, and all is exact. At the others q(z_t | x_n) and q(z_t) are mixtures over the levels drawn before, which no
finite sum gives. log q(z_t | x_n) is estimated from `paths` draws of those, log q(z_t) from one draw at each of the n
examples. With fresh draws alone the expectation is too low (Jensen), with the one that z_t came from among them too
high: a lower estimate joins the low to the high, and keys end in /lower and /upper. Source: Titsias, Ruiz, "Unbiased
Implicit Variational Inference" (2019), https://arxiv.org/abs/1808.02078, and Molchanov et al., "Doubly Semi-Implicit
Variational Inference" (2019), https://arxiv.org/abs/1810.02789

The queries that share the draws of the n examples share their error. They are therefore in 20 groups with draws of
their own, and the standard error of these keys is that of the 20 means.

No term of a level is below 0 or above the same term of all levels together (data processing), so that the bounds are
cut to that interval. Where the whole interval is left, as in a ladder in which q(z_1 | z_2, x) is much narrower than
q(z_1 | x), nothing was measured and both keys are left out: on digits the bounds of a two-level ladder were -330 and
333 nats, where 1.9 is the most there can be.

p(z_t) is exact at the top. Below it, in a chain, it is bounded from below by `inner` importance weights, so that
marginal_kl/z1, where it is not the top, and marginal_kl/z_t/upper, 1 < t < T, are upper estimates; chain_kl_bias/z1 is
an estimate of the excess of the former. `dimension_kl` needs a prior without dependence.
Every single log q(z | x_n) - log q(z) <= log N.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import MixtureSameFamily

from pipeline.distributions import FlowDistribution
from pipeline.evaluation.aggregate import GROUPS, Bounds, level_densities, log_probs
from pipeline.evaluation.estimates import Estimate
from pipeline.evaluation.levels import is_chain, log_marginals, log_mean_exp
from pipeline.evaluation.mixtures import log_posteriors
from pipeline.metric import Metric
from pipeline.models import HierarchicalVAE

__all__ = ["surgery"]

NEAR = 0.5  # nats from log N within which mutual information is saturated


@torch.no_grad()
def surgery(
    model: HierarchicalVAE, x: Float[Tensor, "n units"], *, queries: int, paths: int, inner: int, pairs: int
) -> dict[str, Estimate]:
    """Return the surgery's terms in nats, from a draw at each of `queries` random examples against all n posteriors.

    More than n queries are n. Where all levels together need every pair, `pairs` of the queries are taken for them.

    Raises:
        TypeError: a factor of the posterior is not a diagonal Gaussian.
    """
    chosen = torch.randint(len(x), (min(queries, len(x)),), device=x.device)
    z, q = model.posterior(x[chosen])
    p = model.joint(z)
    own = log_probs(q, z[1:])
    log_p = log_probs(p[1:], z[1:])
    nodes = [z_t[0] for z_t in z[1:]]
    levels = level_densities(model, x, chosen, nodes, q, paths)

    # All levels together.
    dimensions = [level.dimensions for level in levels]
    if is_chain(model):
        few = slice(None)
        joint = levels[0].aggregate.low + torch.stack(own)[1:].sum(0)
    else:
        few = slice(pairs)
        log_own = torch.stack(own).sum(0)[few]
        joint = log_posteriors(model, x, [node[few] for node in nodes], chosen[few], log_own)
    together = Bounds.point(joint)
    independent = Bounds(
        *(torch.stack([getattr(part, side)[few] for part in dimensions]).sum(0) for side in ("low", "high"))
    )
    prior = torch.stack(log_p).sum(0)[few]
    information = Estimate.mean(torch.stack(own).sum(0)[few] - joint)
    saturated = float(information.value > math.log(len(x)) - NEAR)
    results = {"mutual_information": information, "mutual_information/saturated": Estimate(saturated, None)}
    results["marginal_kl"] = Estimate.mean(joint - prior)
    results |= _terms(Metric("total_correlation"), together, independent if model.depth > 1 else dimensions[0], None)
    if model.depth == 1 and not isinstance(p[-1], MixtureSameFamily | FlowDistribution):
        results["dimension_kl"] = Estimate.mean(dimensions[0].low - prior)
    correlation = results.get(str(Metric("total_correlation", side="upper")))

    # Level by level.
    for t, level in enumerate(levels, start=1):
        results |= _terms(
            Metric("mutual_information", t), level.posterior, level.aggregate, results["mutual_information"]
        )
        results |= _terms(Metric("total_correlation", t), level.aggregate, level.dimensions, correlation)
        if t == model.depth:
            results |= _terms(
                Metric("marginal_kl", t), level.aggregate, Bounds.point(log_p[-1]), results["marginal_kl"]
            )
        elif is_chain(model):
            below = [node[None] for node in nodes[:t]]
            log_z = log_mean_exp(log_marginals(model, x[chosen], below, inner)[t]).double()
            if t == 1:
                results[str(Metric("marginal_kl", 1))] = Estimate.mean(level.aggregate.high - log_z)
            elif (upper := _of_groups(level.aggregate.high - log_z)).value < results["marginal_kl"].value:
                results[str(Metric("marginal_kl", t, "upper"))] = upper
    return results


def _terms(metric: Metric, positive: Bounds, negative: Bounds, limit: Estimate | None) -> dict[str, Estimate]:
    """Return the mean difference as `metric`, or both bounds of it as its sides `lower` and `upper`.

    Bounds are cut to [0, `limit`]. Nothing is returned where neither of them lies inside.
    """
    if positive.exact and negative.exact:
        return {str(metric): Estimate.mean(positive.low - negative.low)}
    lower, upper = _of_groups(positive.low - negative.high), _of_groups(positive.high - negative.low)
    limit = Estimate(math.inf, 0.0) if limit is None else Estimate(max(0.0, limit.value), limit.se)
    if lower.value <= 0 and upper.value >= limit.value:
        return {}
    return {
        str(replace(metric, side="lower")): lower if lower.value > 0 else Estimate(0.0, 0.0),
        str(replace(metric, side="upper")): upper if upper.value < limit.value else limit,
    }


def _of_groups(term: Float[Tensor, " queries"]) -> Estimate:
    """Return the mean over queries; those of one group share draws, and the means of groups are independent."""
    groups = min(GROUPS, len(term))
    means = torch.stack([term[group::groups].mean() for group in range(groups)])
    return Estimate(term.mean().item(), means.std().item() / math.sqrt(groups))
