"""log q(z_t | x_n), log q(z_t) and sum_j log q(z_tj) of every level at draws, q(z) the mean of all posteriors.

They are exact at the level that q draws first; at the others they are estimated from both sides (`surgery`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from pipeline.evaluation.mixtures import log_dimensions, log_mixture
from pipeline.evaluation.passes import LATENT_ROWS
from pipeline.models import HierarchicalVAE, rows_within
from pipeline.progress import track_progress

__all__ = ["GROUPS", "Bounds", "level_densities", "log_probs"]

GROUPS = 20  # of queries, each with draws of its own of the levels drawn before


@dataclass(frozen=True)
class Bounds:
    """A low and a high estimate at every query; the same tensor twice where the value is exact."""

    low: Float[Tensor, " queries"]
    high: Float[Tensor, " queries"]

    @classmethod
    def point(cls, value: Tensor) -> Bounds:
        """Return an exact value as its own lower and upper bound."""
        return cls(value, value)

    @property
    def exact(self) -> bool:
        """Whether both sides are one value."""
        return self.low is self.high


@dataclass(frozen=True)
class LevelDensities:
    """log q(z_t | x_n), log q(z_t) and sum_j log q(z_tj) at every query."""

    posterior: Bounds
    aggregate: Bounds
    dimensions: Bounds


def level_densities(
    model: HierarchicalVAE,
    x: Float[Tensor, "n units"],
    chosen: Int[Tensor, " queries"],
    nodes: list[Tensor],
    q: list[Distribution],
    paths: int,
) -> list[LevelDensities]:
    """Return the densities of each level at the queries, from z_1 up."""
    own = [_log_normal(node.double(), *_normal(q_t)) for node, q_t in zip(nodes, q, strict=True)]
    fresh = _posteriors(model, x)
    first = model.order[0]
    at_first = (nodes[first - 1].double(), *fresh[first - 1], chosen)
    exact = LevelDensities(
        Bounds.point(own[first - 1].sum(-1)),
        Bounds.point(log_mixture(*at_first, own[first - 1].sum(-1))),
        Bounds.point(log_dimensions(*at_first, own[first - 1]).sum(-1)),
    )
    if model.depth == 1:
        return [exact]
    # log q(z_t | levels drawn before, x_n) at other draws of those levels than z_t came from.
    draws = track_progress(range(paths), "surgery", "draws")
    again = [log_probs(model.posterior(x[chosen])[1], nodes) for _ in draws]
    groups = min(GROUPS, len(chosen))
    parts: dict[int, list[LevelDensities]] = {t: [] for t in model.order[1:]}
    for group in track_progress(range(groups), "surgery", "groups of queries"):
        rows = slice(group, None, groups)
        fresh = _posteriors(model, x) if group else fresh
        for t, levels in parts.items():
            mean, sigma = fresh[t - 1]
            z_t, index, mine = nodes[t - 1][rows].double(), chosen[rows], own[t - 1][rows]
            others = torch.stack([log_q[t - 1][rows] for log_q in again])
            with_own = torch.cat([mine.sum(-1)[None], others[1:]])
            sides = (_log_normal(z_t, mean[index], sigma[index]), mine)
            levels.append(
                LevelDensities(
                    Bounds(*(torch.logsumexp(each, 0) - math.log(paths) for each in (others, with_own))),
                    Bounds(*(log_mixture(z_t, mean, sigma, index, side.sum(-1)) for side in sides)),
                    Bounds(*(log_dimensions(z_t, mean, sigma, index, side).sum(-1) for side in sides)),
                )
            )
    return [exact if t == first else _joined(parts[t]) for t in range(1, model.depth + 1)]


def _posteriors(model: HierarchicalVAE, x: Float[Tensor, "n units"]) -> list[tuple[Tensor, Tensor]]:
    """Return mean and sigma of every level's factor of q at each example, given one draw of the levels before it."""
    passes = [
        [_normal(q_t) for q_t in model.posterior(rows)[1]] for rows in x.split(rows_within(model, x, LATENT_ROWS))
    ]
    return [
        (torch.cat([mean for mean, _ in level]), torch.cat([sigma for _, sigma in level]))
        for level in zip(*passes, strict=True)
    ]


def _joined(groups: list[LevelDensities]) -> LevelDensities:
    """Return the level of all queries from those of the groups, which take the queries in turn."""
    queries = sum(len(group.posterior.low) for group in groups)

    def join(name: str) -> Bounds:
        sides = []
        for side in ("low", "high"):
            values = groups[0].posterior.low.new_empty(queries)
            for number, group in enumerate(groups):
                values[number :: len(groups)] = getattr(getattr(group, name), side)
            sides.append(values)
        return Bounds(*sides)

    return LevelDensities(join("posterior"), join("aggregate"), join("dimensions"))


def log_probs(factors: list[Distribution], nodes: list[Tensor]) -> list[Float[Tensor, " queries"]]:
    """Return the log-density of each level's draws under its factor."""
    return [q_t.log_prob(z_t).double().reshape(-1) for q_t, z_t in zip(factors, nodes, strict=True)]


def _normal(q: Distribution) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n d"]]:
    if not (isinstance(q, Independent) and isinstance(q.base_dist, Normal)):
        raise TypeError(f"the surgery needs diagonal Gaussian posteriors, not {q}")
    return q.mean[0].double(), q.stddev[0].double()


def _log_normal(z: Tensor, mean: Tensor, sigma: Tensor) -> Tensor:
    log_q: Tensor = Normal(mean, sigma, validate_args=False).log_prob(z)
    return log_q
