"""What single units of a model carry, and where images lie in its top level: for figures, of the first test images.

The rate of a unit is E_q[log q(z_tj | .) - log p(z_tj | .)], averaged over images: those of a level sum to `rate/z_t`.
A prior of the top level that is no product over units has no such parts; its units have the information
-1/2 log(1 - share) of `activity` instead. Means are over `DRAWS` draws of the posterior.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from pipeline.evaluation.passes import LATENT_ROWS
from pipeline.models import HierarchicalVAE, rows_within

__all__ = ["MOST_IMAGES", "Latents", "has_units_apart", "latents"]

DRAWS = 20
MOST_IMAGES = 1000


@dataclass(frozen=True)
class Latents:
    """Nats of each unit by level, z_1 first, and the posterior means of the top level of each image."""

    nats: list[Float[Tensor, " _"]]
    top: Float[Tensor, "images units"]


@torch.no_grad()
def latents(model: HierarchicalVAE, x: Float[Tensor, "images units"]) -> Latents:
    """Measure both on images as the model sees them; the random numbers are the caller's."""
    rates: list[list[Tensor]] = [[] for _ in range(model.depth)]
    moments: list[list[Tensor]] = [[] for _ in range(model.depth)]
    for batch in x.split(max(1, rows_within(model, x, LATENT_ROWS) // DRAWS)):
        z, q = model.posterior(batch, DRAWS)
        p = model.joint(z)[1:]
        for level, (q_t, p_t, z_t) in enumerate(zip(q, p, z[1:], strict=True)):
            moments[level].append(torch.stack([q_t.mean.mean(0), (q_t.variance + q_t.mean**2).mean(0)]))
            if _by_unit(p_t) and _by_unit(q_t):
                rate = _log_prob(q_t, z_t) - _log_prob(p_t, z_t)
                rates[level].append(rate.expand(DRAWS, len(batch), -1).mean(0))
    nats = []
    for level in range(model.depth):
        mean, square = torch.cat(moments[level], dim=1).double()
        share = mean.var(0, correction=0) / (square.mean(0) - mean.mean(0) ** 2)
        information = -0.5 * torch.log1p(-share.clamp(max=1 - 1e-9))
        nats.append(torch.cat(rates[level]).double().mean(0) if rates[level] else information)
    return Latents(nats, torch.cat([part[0] for part in moments[-1]]))


@torch.no_grad()
def has_units_apart(model: HierarchicalVAE, x: Float[Tensor, "images units"]) -> bool:
    """Return whether every factor of the posterior is a diagonal Gaussian."""
    return all(_by_unit(q_t) for q_t in model.posterior(x)[1])


def _by_unit(p: Distribution) -> bool:
    return isinstance(p, Independent) and isinstance(p.base_dist, Normal)


def _log_prob(p: Distribution, z: Tensor) -> Tensor:
    assert isinstance(p, Independent)
    density: Tensor = p.base_dist.log_prob(z)
    return density
