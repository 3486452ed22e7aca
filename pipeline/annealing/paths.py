"""Paths from a density that can be drawn from to the posterior of a model, in non-centred coordinates.

With z_t = mu_t(z_{t+1}, ...) + sigma_t eps_t the prior of eps = (eps_1, ..., eps_T) is N(0, I), whatever the depth
and the parents. At inverse temperature beta a path has the density, known up to its integral Z(beta),

    log f_beta(eps) = base(eps) + beta * ratio(eps),        Z(0) = 1,  Z(1) = p(x)

    prior       base = log N(eps; 0, I)                     ratio = log p(x | z(eps))
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.models import HierarchicalVAE

__all__ = ["PATHS", "Path", "widths"]


@dataclass(frozen=True)
class Path:
    """A family of densities over eps [chains, batch, units].

    `terms` returns base and ratio, each [chains, batch], in nats; `draw` returns that many draws from f_0.
    """

    terms: Callable[[Tensor], tuple[Tensor, Tensor]]
    draw: Callable[[int], Tensor]

    def ratio(self, eps: Float[Tensor, "chains batch units"]) -> Float[Tensor, "chains batch"]:
        """Return log f_1 - log f_0."""
        return self.terms(eps)[1]

    def at(self, beta: float) -> Callable[[Tensor], Tensor]:
        """Return log f_beta."""

        def log_f(eps: Tensor) -> Tensor:
            base, ratio = self.terms(eps)
            return base + beta * ratio

        return log_f


def widths(model: HierarchicalVAE) -> list[int]:
    """Return the units of z_1, ..., z_T."""
    return [z.shape[-1] for z in model.sample(1)[1:]]


def _normal(eps: Tensor) -> Tensor:
    return -(eps.square().sum(-1) + eps.shape[-1] * math.log(2 * math.pi)) / 2


def from_prior(model: HierarchicalVAE, x: Float[Tensor, "batch units"]) -> Path:
    """Return the path from the prior to the posterior of each example."""
    levels = widths(model)

    def terms(eps: Tensor) -> tuple[Tensor, Tensor]:
        _, p = model.descend(eps.split(levels, dim=-1))
        return _normal(eps), p[0].log_prob(x)

    return Path(terms, lambda chains: torch.randn(chains, len(x), sum(levels), dtype=x.dtype, device=x.device))


PATHS: dict[str, Callable[[HierarchicalVAE, Tensor], Path]] = {"prior": from_prior}
