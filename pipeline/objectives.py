"""The evidence lower bound, taken apart, and what training climbs.

Everything is a reduction of the log-weights of the draws z_1:T ~ q(z_1:T | x), in nats:

    log w = log p(x, z_1:T) - log q(z_1:T | x) = log p(x | z_1) - sum_t rate_t                      (25)-(26)
    rate_t = log q(z_t | .) - log p(z_t | .)

    elbo = E log w                                                                                       (13)
    L_k = E log (1/k) sum_{i=1..k} w_i        Burda, Grosse, Salakhutdinov, "Importance Weighted
                                              Autoencoders" (2016), https://arxiv.org/abs/1509.00519

A single rate below the top level is no KL divergence and may be negative; their sum's mean is the KL.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.models import HierarchicalVAE
from pipeline.params import TrainParams

__all__ = ["ELBO", "OBJECTIVES", "elbo", "weight"]


@dataclass(frozen=True)
class ELBO:
    """The terms of the bound, per draw, example and level, in nats. Never weighted."""

    reconstruction: Float[Tensor, "draws batch"]
    rate: Float[Tensor, "depth draws batch"]

    @property
    def kl(self) -> Float[Tensor, "draws batch"]:
        """Sum of the rates; its mean over draws estimates KL(q(z_1:T|x) || p(z_1:T))."""
        return self.rate.sum(0)

    @property
    def log_weight(self) -> Float[Tensor, "draws batch"]:
        """The log-weight log p(x, z_1:T) - log q(z_1:T | x) of each draw."""
        return self.reconstruction - self.kl

    @property
    def elbo(self) -> Float[Tensor, " batch"]:
        """Mean log-weight over the draws: the evidence lower bound of each example, to be maximized."""
        return self.log_weight.mean(0)

    @property
    def iwae(self) -> Float[Tensor, " batch"]:
        """L_k of each example with k all the draws."""
        return torch.logsumexp(self.log_weight, 0) - math.log(len(self.log_weight))

    def detach(self) -> ELBO:
        """Return the same terms without their graph."""
        return ELBO(self.reconstruction.detach(), self.rate.detach())


def elbo(model: HierarchicalVAE, x: Float[Tensor, "batch units"], draws: int = 1) -> ELBO:
    """Return the terms of the bound of (21)-(26) at draws from the posterior."""
    z, q = model.posterior(x, draws)  # (20): [x, z_1, ..., z_T] and the T factors of q
    p = model.joint(z)  # (19): p(x|z_1), p(z_1|z_2), ..., p(z_T)
    log_p = [p_t.log_prob(z_t) for p_t, z_t in zip(p, z, strict=True)]
    log_q = [q_t.log_prob(z_t) for q_t, z_t in zip(q, z[1:], strict=True)]
    return ELBO(reconstruction=log_p[0], rate=torch.stack(log_q) - torch.stack(log_p[1:]))


OBJECTIVES: dict[str, Callable[[ELBO, float], Float[Tensor, " batch"]]] = {
    "elbo": lambda bound, _: bound.elbo,
    "beta": lambda bound, beta: (bound.reconstruction - beta * bound.kl).mean(0),
    "iwae": lambda bound, _: bound.iwae,
}


def weight(params: TrainParams, epoch: float) -> float:
    """Return the weight of the rate at `epoch`: `beta`, reached linearly over `warmup` epochs from 0."""
    return params.beta * min(1.0, epoch / params.warmup) if params.warmup else params.beta
