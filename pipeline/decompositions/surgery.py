"""The mean KL taken apart over the data set: q(z) = (1/N) sum_n q(z | x_n), all N posteriors, never a minibatch.

    mean KL          = mutual_information + marginal_kl,   I_q(n; z) + KL(q(z) || p(z))
    marginal_kl      = total_correlation + dimension_kl,   KL(q(z) || prod_j q(z_j)) + sum_j KL(q(z_j) || p(z_j))

Hoffman, Johnson, "ELBO surgery" (2016), http://approximateinference.org/accepted/HoffmanJohnson2016.pdf
Chen, Li, Grosse, Duvenaud, "Isolating Sources of Disentanglement in VAEs" (2018), https://arxiv.org/abs/1802.04942

Each is a mean over pairs (n, z ~ q(z | x_n)) of M examples, one draw each; where log q(z) is exact at every draw, the
means are unbiased and the identities hold draw by draw. Standard errors: deviation over the M pairs / sqrt(M).

All levels together. log q(z_1:T | x_n) is a sum of T factors, so that log q(z_1:T) is exact. In a Markov chain the
factors above the first do not depend on n: I_q(n; z_1:T) = I_q(n; z_1), and q(z_1:T) = q(z_1) prod q(z_t | z_t-1).
Otherwise every pair of an example and a query is worked out (`log_posteriors`).

Level by level (keys end in /z_t). The level that q draws first, z_1 bottom-up and z_T in the ladder, has Gaussian
posteriors, and all is exact. At the others q(z_t | x_n) and q(z_t) are mixtures over the levels drawn before, which no
finite sum gives. log q(z_t | x_n) is estimated from `paths` draws of those, log q(z_t) from one draw at each of the n
examples. With fresh draws alone the expectation is too low (Jensen), with the one that z_t came from among them too
high: a lower estimate joins the low to the high, and keys end in /lower and /upper. Source: Titsias, Ruiz, "Unbiased
Implicit Variational Inference" (2019), https://arxiv.org/abs/1808.02078, and Molchanov et al., "Doubly Semi-Implicit
Variational Inference" (2019), https://arxiv.org/abs/1810.02789

p(z_t) is exact at the top. Below it, in a chain, it is bounded from below by `inner` importance weights, so that
marginal_kl/z1, where it is not the top, and marginal_kl/z_t/upper, 1 < t < T, are upper estimates; kl_up_bias/z1 is
an estimate of the excess of the former. `dimension_kl` needs a prior without dependence.
Every single log q(z | x_n) - log q(z) <= log N, hence I <= log N; an estimate of one side may lie outside [0, log N].
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.distributions import Distribution, Independent, MixtureSameFamily, Normal

from pipeline.allocator import keep_freed
from pipeline.decompositions.levels import is_chain, log_marginals, log_mean_exp
from pipeline.decompositions.mixtures import log_dimensions, log_mixture, log_posteriors
from pipeline.evaluation import Estimate
from pipeline.models import HierarchicalVAE
from pipeline.progress import watched

__all__ = ["surgery"]

ROWS = 8192  # rows of one pass through a network


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
    """Return the surgery's terms in nats, from one draw at each of `queries` examples against all n posteriors.

    More than n queries are n. Where all levels together need every pair, `pairs` of the queries are taken for them.

    Raises:
        TypeError: a factor of the posterior is not a diagonal Gaussian.
    """
    keep_freed()
    chosen = torch.randperm(len(x), device=x.device)[:queries]
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
    results = _bounds("mutual_information", _Sides.exact(torch.stack(own).sum(0)[few]), every)
    results |= _bounds("marginal_kl", every, _Sides.exact(prior))
    results |= _bounds("total_correlation", every, apart if model.depth > 1 else dimensions[0])
    if model.depth == 1 and not isinstance(p[-1], MixtureSameFamily):
        results |= _bounds("dimension_kl", dimensions[0], _Sides.exact(prior))

    # Level by level.
    for t, level in enumerate(levels, start=1):
        results |= _bounds(f"mutual_information/z{t}", level.given, level.marginal)
        results |= _bounds(f"total_correlation/z{t}", level.marginal, level.dimensions)
        if t == model.depth:
            results |= _bounds(f"marginal_kl/z{t}", level.marginal, _Sides.exact(log_p[-1]))
        elif is_chain(model):
            below = [node[None] for node in nodes[:t]]
            log_z = log_mean_exp(log_marginals(model, x[chosen], below, inner)[t]).double()
            results[f"marginal_kl/z{t}" if t == 1 else f"marginal_kl/z{t}/upper"] = _estimate(
                level.marginal.high - log_z
            )
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
    fresh = [model.posterior(rows)[1] for rows in x.split(ROWS)]
    # log q(z_t | levels drawn before, x_n) at other draws of those levels than z_t came from.
    draws = watched(range(paths if model.depth > 1 else 0), "surgery", "draws")
    again = [_log_probs(model.posterior(x[chosen])[1], nodes) for _ in draws]
    levels = []
    for t, (node, q_t) in enumerate(zip(nodes, q, strict=True), start=1):
        z_t = node.double()
        parts = [_normal(factors[t - 1]) for factors in fresh]
        mean, sigma = torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])
        own = _log_normal(z_t, *_normal(q_t))
        if t == model.order[0]:
            given = _Sides.exact(own.sum(-1))
            marginal = _Sides.exact(log_mixture(z_t, mean, sigma, chosen, own.sum(-1)))
            dimensions = _Sides.exact(log_dimensions(z_t, mean, sigma, chosen, own).sum(-1))
        else:
            others = torch.stack([log_q[t - 1] for log_q in again])
            with_own = torch.cat([own.sum(-1)[None], others[1:]])
            given = _Sides(*(torch.logsumexp(draws, 0) - math.log(paths) for draws in (others, with_own)))
            other = _log_normal(z_t, mean[chosen], sigma[chosen])
            sides = (other, own)
            marginal = _Sides(*(log_mixture(z_t, mean, sigma, chosen, side.sum(-1)) for side in sides))
            dimensions = _Sides(*(log_dimensions(z_t, mean, sigma, chosen, side).sum(-1) for side in sides))
        levels.append(_Level(given, marginal, dimensions))
    return levels


def _bounds(name: str, positive: _Sides, negative: _Sides) -> dict[str, Estimate]:
    """Return the mean difference under `name`, or both sides of it under `name/lower` and `name/upper`."""
    if positive.known and negative.known:
        return {name: _estimate(positive.low - negative.low)}
    return {
        f"{name}/lower": _estimate(positive.low - negative.high),
        f"{name}/upper": _estimate(positive.high - negative.low),
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


def _estimate(term: Tensor) -> Estimate:
    return Estimate(term.mean().item(), term.std().item() / math.sqrt(len(term)))
