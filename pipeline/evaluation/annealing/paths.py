"""Paths from a density that can be drawn from to the posterior of a model, in non-centred coordinates.

The chains move in noise eps = (eps_1, ..., eps_T), in which the start of a path is N(0, I), whatever the depth and the
parents: z_t = mu_t + sigma_t eps_t, with the mu_t and sigma_t of p(z_t | .) on the path `prior`, and with those of
q(z_t | ., x) on the path `posterior`. At inverse temperature beta a path has the density, known up to its integral
Z(beta),

    log f_beta(eps) = base(eps) + beta * ratio(eps),        Z(0) = 1,  Z(1) = p(x)

    prior       base = log N(eps; 0, I)                     ratio = log p(x | z(eps))
    posterior   base = log N(eps; 0, I)                     ratio = log p(x, z(eps)) - log q(z(eps) | x)

The ratio of the path `posterior` is the log-weight of the bound, so that chains of a single temperature give L_k, and
where q is the true posterior every chain has the weight p(x). Where q covers little of the true posterior, the path
`prior` may be the better one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.distributions import to_noise
from pipeline.models import HierarchicalVAE

__all__ = ["PATHS", "Path", "widths"]


@dataclass(frozen=True)
class Path:
    """A family of densities over eps [chains, batch, units].

    `terms` returns base and ratio, each [chains, batch], in nats; `draw` returns that many draws from f_0. `locate`
    returns the coordinates of draws of the model, which it takes as their noise under the prior and their nodes.
    """

    terms: Callable[[Tensor], tuple[Tensor, Tensor]]
    draw: Callable[[int], Tensor]
    locate: Callable[[Tensor, Sequence[Tensor]], Tensor] = lambda eps, nodes: eps

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


def _standard(x: Tensor, units: int) -> Callable[[int], Tensor]:
    """Return a function that draws so many times from N(0, I) for each example."""
    return lambda chains: torch.randn(chains, len(x), units, dtype=x.dtype, device=x.device)


def from_prior(model: HierarchicalVAE, x: Float[Tensor, "batch units"]) -> Path:
    """Return the path from the prior to the posterior of each example."""
    levels = widths(model)

    def terms(eps: Tensor) -> tuple[Tensor, Tensor]:
        _, p = model.decode_noncentered(eps.split(levels, dim=-1))
        return _normal(eps), p[0].log_prob(x)

    return Path(terms, _standard(x, sum(levels)))


def from_posterior(model: HierarchicalVAE, x: Float[Tensor, "batch units"]) -> Path:
    """Return the path from the model's approximate posterior q to the true one of each example."""
    levels = widths(model)

    def terms(eps: Tensor) -> tuple[Tensor, Tensor]:
        z, q = model.posterior(x, len(eps), noise=eps.split(levels, dim=-1))
        log_p = [p_t.log_prob(z_t) for p_t, z_t in zip(model.joint(z), z, strict=True)]
        log_q = [q_t.log_prob(z_t) for q_t, z_t in zip(q, z[1:], strict=True)]
        return _normal(eps), torch.stack(torch.broadcast_tensors(*log_p)).sum(0) - torch.stack(log_q).sum(0)

    def locate(eps: Tensor, nodes: Sequence[Tensor]) -> Tensor:
        z = [x[None], *(node[None] for node in nodes)]
        noise = [to_noise(q_t, z_t) for q_t, z_t in zip(model.posterior_at(z), z[1:], strict=True)]
        return torch.cat(noise, dim=-1)[0]

    return Path(terms, _standard(x, sum(levels)), locate)


PATHS: dict[str, Callable[[HierarchicalVAE, Tensor], Path]] = {"posterior": from_posterior, "prior": from_prior}
