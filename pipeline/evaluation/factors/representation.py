"""What a level says of an image: draws of z_t from q(z_t | x), and the mean E_q[z_t | x].

The factor q(z_t | .) of (20) or of the ladder depends on draws of other levels, except at the level that the posterior
starts with (z_1 bottom-up, z_T top-down), whose mean is exact. Elsewhere the mean is averaged over S draws of the
levels that come before it,

    E_q[z_t | x] = E[E[z_t | its parents] | x]  ~  (1/S) sum_s E[z_t | parents_s],

whose error has the variance of the conditional mean, at most Var_q(z_t | x), over S. To a reader of the mean it is
noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.models import HierarchicalVAE

__all__ = ["Representation", "represent"]

ROWS = 8192  # rows of one pass, draws times images


@dataclass(frozen=True)
class Representation:
    """One level's z of n images."""

    mean: Float[np.ndarray, "n units"]
    draws: Float[np.ndarray, "draws n units"]


@torch.no_grad()
def represent(model: HierarchicalVAE, x: Float[Tensor, "n units"], draws: int) -> list[Representation]:
    """Return the representation of each level, the lowest first, in float64."""
    passes = [model.posterior(rows, draws) for rows in x.split(max(1, ROWS // draws))]
    return [
        Representation(
            mean=torch.cat([q[t].mean.double().mean(0) for _, q in passes]).cpu().numpy(),
            draws=torch.cat([z[t + 1].double() for z, _ in passes], dim=1).cpu().numpy(),
        )
        for t in range(model.depth)
    ]
