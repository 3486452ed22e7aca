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
marginal_kl/z1, where it is not the top, and marginal_kl/z_t/upper, 1 < t < T, are upper estimates; kl_up_bias/z1 is
an estimate of the excess of the former. `dimension_kl` needs a prior without dependence.
Every single log q(z | x_n) - log q(z) <= log N.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.distributions import Distribution, Independent, MixtureSameFamily, Normal

from pipeline.evaluation.bounds import Estimate
from pipeline.evaluation.levels import is_chain, log_marginals, log_mean_exp
from pipeline.evaluation.mixtures import log_dimensions, log_mixture, log_posteriors
from pipeline.models import HierarchicalVAE
from pipeline.progress import watched

__all__ = ["surgery"]

ROWS = 8192  # rows of one pass through a network
GROUPS = 20  # of queries, each with draws of its own of the levels drawn before
NEAR = 0.5  # nats from log N within which mutual information is saturated


@dataclass(frozen=True)
class _Sides:
    """A low and a high estimate at every query; one tensor, twice, where it is exact."""

    low: Float[Tensor, " queries"]
    high: Float[Tensor, " queries"]

    @classmethod
    def exact(cls, value: Tensor) -> _Sides:
        """Return a value that is both."""
        return cls(value, value)

    @property
    def known(self) -> bool:
        """Are both sides one?"""
        return self.low is self.high


@dataclass(frozen=True)
class _Level:
    """log q(z_t | x_n), log q(z_t) and sum_j log q(z_tj) at every query."""

    given: _Sides
    marginal: _Sides
    dimensions: _Sides


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
    own = _log_probs(q, z[1:])
    log_p = _log_probs(p[1:], z[1:])
    nodes = [z_t[0] for z_t in z[1:]]
    levels = _levels(model, x, chosen, nodes, q, paths)

    # All levels together.
    dimensions = [level.dimensions for level in levels]
    if is_chain(model):
        few = slice(None)
        joint = levels[0].marginal.low + torch.stack(own)[1:].sum(0)
    else:
        few = slice(pairs)
        given = torch.stack(own).sum(0)[few]
        joint = log_posteriors(model, x, [node[few] for node in nodes], chosen[few], given)
    every = _Sides.exact(joint)
    apart = _Sides(*(torch.stack([getattr(part, side)[few] for part in dimensions]).sum(0) for side in ("low", "high")))
    prior = torch.stack(log_p).sum(0)[few]
    information = _estimate(torch.stack(own).sum(0)[few] - joint)
    saturated = float(information.value > math.log(len(x)) - NEAR)
    results = {"mutual_information": information, "mutual_information/saturated": Estimate(saturated, None)}
    results["marginal_kl"] = _estimate(joint - prior)
    results |= _terms("total_correlation", every, apart if model.depth > 1 else dimensions[0], None)
    if model.depth == 1 and not isinstance(p[-1], MixtureSameFamily):
        results["dimension_kl"] = _estimate(dimensions[0].low - prior)
    correlation = results.get("total_correlation/upper")

    # Level by level.
    for t, level in enumerate(levels, start=1):
        results |= _terms(f"mutual_information/z{t}", level.given, level.marginal, results["mutual_information"])
        results |= _terms(f"total_correlation/z{t}", level.marginal, level.dimensions, correlation)
        if t == model.depth:
            results |= _terms(f"marginal_kl/z{t}", level.marginal, _Sides.exact(log_p[-1]), results["marginal_kl"])
        elif is_chain(model):
            below = [node[None] for node in nodes[:t]]
            log_z = log_mean_exp(log_marginals(model, x[chosen], below, inner)[t]).double()
            if t == 1:
                results["marginal_kl/z1"] = _estimate(level.marginal.high - log_z)
            elif (upper := _of_groups(level.marginal.high - log_z)).value < results["marginal_kl"].value:
                results[f"marginal_kl/z{t}/upper"] = upper
    return results


def _levels(
    model: HierarchicalVAE,
    x: Float[Tensor, "n units"],
    chosen: Int[Tensor, " queries"],
    nodes: list[Tensor],
    q: list[Distribution],
    paths: int,
) -> list[_Level]:
    """Return what is known of each level's posteriors and of their mean, from z_1 up."""
    own = [_log_normal(node.double(), *_normal(q_t)) for node, q_t in zip(nodes, q, strict=True)]
    fresh = _posteriors(model, x)
    first = model.order[0]
    at_first = (nodes[first - 1].double(), *fresh[first - 1], chosen)
    exact = _Level(
        _Sides.exact(own[first - 1].sum(-1)),
        _Sides.exact(log_mixture(*at_first, own[first - 1].sum(-1))),
        _Sides.exact(log_dimensions(*at_first, own[first - 1]).sum(-1)),
    )
    if model.depth == 1:
        return [exact]
    # log q(z_t | levels drawn before, x_n) at other draws of those levels than z_t came from.
    draws = watched(range(paths), "surgery", "draws")
    again = [_log_probs(model.posterior(x[chosen])[1], nodes) for _ in draws]
    groups = min(GROUPS, len(chosen))
    parts: dict[int, list[_Level]] = {t: [] for t in model.order[1:]}
    for group in watched(range(groups), "surgery", "groups of queries"):
        rows = slice(group, None, groups)
        fresh = _posteriors(model, x) if group else fresh
        for t, levels in parts.items():
            mean, sigma = fresh[t - 1]
            z_t, index, mine = nodes[t - 1][rows].double(), chosen[rows], own[t - 1][rows]
            others = torch.stack([log_q[t - 1][rows] for log_q in again])
            with_own = torch.cat([mine.sum(-1)[None], others[1:]])
            sides = (_log_normal(z_t, mean[index], sigma[index]), mine)
            levels.append(
                _Level(
                    _Sides(*(torch.logsumexp(each, 0) - math.log(paths) for each in (others, with_own))),
                    _Sides(*(log_mixture(z_t, mean, sigma, index, side.sum(-1)) for side in sides)),
                    _Sides(*(log_dimensions(z_t, mean, sigma, index, side).sum(-1) for side in sides)),
                )
            )
    return [exact if t == first else _joined(parts[t]) for t in range(1, model.depth + 1)]


def _posteriors(model: HierarchicalVAE, x: Float[Tensor, "n units"]) -> list[tuple[Tensor, Tensor]]:
    """Return mean and sigma of every level's factor of q at each example, given one draw of the levels before it."""
    passes = [[_normal(q_t) for q_t in model.posterior(rows)[1]] for rows in x.split(ROWS)]
    return [
        (torch.cat([mean for mean, _ in level]), torch.cat([sigma for _, sigma in level]))
        for level in zip(*passes, strict=True)
    ]


def _joined(groups: list[_Level]) -> _Level:
    """Return the level of all queries from those of the groups, which take the queries in turn."""
    queries = sum(len(group.given.low) for group in groups)

    def join(name: str) -> _Sides:
        sides = []
        for side in ("low", "high"):
            values = groups[0].given.low.new_empty(queries)
            for place, group in enumerate(groups):
                values[place :: len(groups)] = getattr(getattr(group, name), side)
            sides.append(values)
        return _Sides(*sides)

    return _Level(join("given"), join("marginal"), join("dimensions"))


def _terms(name: str, positive: _Sides, negative: _Sides, most: Estimate | None) -> dict[str, Estimate]:
    """Return the mean difference under `name`, or both bounds of it under `name/lower` and `name/upper`.

    Bounds are cut to [0, `most`]. Nothing is returned where neither of them lies inside.
    """
    if positive.known and negative.known:
        return {name: _estimate(positive.low - negative.low)}
    lower, upper = _of_groups(positive.low - negative.high), _of_groups(positive.high - negative.low)
    most = Estimate(math.inf, 0.0) if most is None else Estimate(max(0.0, most.value), most.se)
    if lower.value <= 0 and upper.value >= most.value:
        return {}
    return {
        f"{name}/lower": lower if lower.value > 0 else Estimate(0.0, 0.0),
        f"{name}/upper": upper if upper.value < most.value else most,
    }


def _log_probs(factors: list[Distribution], nodes: list[Tensor]) -> list[Float[Tensor, " queries"]]:
    """Return the log-density of each level's draws under its factor."""
    return [q_t.log_prob(z_t).double().reshape(-1) for q_t, z_t in zip(factors, nodes, strict=True)]


def _normal(q: Distribution) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n d"]]:
    if not (isinstance(q, Independent) and isinstance(q.base_dist, Normal)):
        raise TypeError(f"the surgery needs diagonal Gaussian posteriors, not {q}")
    return q.mean[0].double(), q.stddev[0].double()


def _log_normal(z: Tensor, mean: Tensor, sigma: Tensor) -> Tensor:
    log_q: Tensor = Normal(mean, sigma, validate_args=False).log_prob(z)
    return log_q


def _estimate(term: Float[Tensor, " queries"]) -> Estimate:
    """Return the mean over queries with independent errors."""
    return Estimate(term.mean().item(), term.std().item() / math.sqrt(len(term)))


def _of_groups(term: Float[Tensor, " queries"]) -> Estimate:
    """Return the mean over queries; those of one group share draws, and the means of groups are independent."""
    groups = min(GROUPS, len(term))
    means = torch.stack([term[group::groups].mean() for group in range(groups)])
    return Estimate(term.mean().item(), means.std().item() / math.sqrt(groups))
