"""The evidence lower bound, taken apart, and the objectives of training.

Everything is a reduction of the log-weights of the draws z_1:T ~ q(z_1:T | x), in nats:

    log w = log p(x, z_1:T) - log q(z_1:T | x) = log p(x | z_1) - sum_t rate_t                      (25)-(26)
    rate_t = log q(z_t | .) - log p(z_t | .)

    elbo = E log w                                                                                       (13)
    L_k = E log (1/k) sum_{i=1..k} w_i        Burda, Grosse, Salakhutdinov, "Importance Weighted
                                              Autoencoders" (2016), https://arxiv.org/abs/1509.00519

A single rate below the top level is no KL divergence and may be negative; their sum's mean is the KL. Top-down
inference alone has a KL divergence a level, in closed form given what was drawn above (`top_down_kl`):

    KL(q(z_1:T|x) || p(z_1:T)) = KL(q(z_T|x) || p(z_T)) + sum_{t<T} E KL(q(z_t|z_t+1.., x) || p(z_t|z_t+1..))

Two objectives have the value of another and a gradient of less variance for the encoder's weights phi. In both, log q
is a function of the draws in which phi is constant (`pathwise_terms`), so that the score, of mean 0, is left out:

    stl     d/dphi log w along the path of the draws.         Roeder, Wu, Duvenaud, "Sticking the Landing"
                                                              (2017), https://arxiv.org/abs/1703.09194
    dreg    sum_i v_i^2 d/dphi log w_i along the path, v_i = w_i / sum w; sum_i v_i d/dtheta log p(x, z_i).
                                                              Tucker et al., "Doubly Reparameterized Gradient
                                                              Estimators" (2019), https://arxiv.org/abs/1810.04152

The path runs through the whole chain z_1, ..., z_T, so both hold for hierarchies of either direction. In the ladder q
also depends on p's weights theta, in its density and in the path of its draws. For theta both objectives take the
ordinary gradient, that of elbo and iwae draw by draw:

    sum_i v_i (d/dtheta log w_i at the draws + d/dz_i log w_i dz_i/dtheta),      v_i = 1 / L in stl

Without theta in log q, the score of log p(z_t | .) at draws from the much narrower q has nothing to cancel it.
Measured on ladders trained for 40 epochs on digits, the variance of a gradient summed over weights, relative to elbo
(stl, 1 draw) and iwae (dreg, 8 draws): phi 0.14 and 0.08 with two levels, 3e-4 and 5e-6 with three (16, 11 and 8
units); theta 1, where log q without theta has 7e3. In a bottom-up chain of two levels phi has 0.06 and 0.02. With the
prior vamp, which holds phi in log p(z_T), there is no gain: 1.07 and 1.02 at depth 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import MixtureSameFamily, kl_divergence

from pipeline.distributions import FlowDistribution
from pipeline.models import HierarchicalVAE
from pipeline.params import TrainParams

__all__ = ["ELBO", "OBJECTIVES", "PATHWISE", "beta_at", "elbo", "pathwise_terms", "top_down_kl", "training_objective"]


@dataclass(frozen=True)
class ELBO:
    """The terms of the bound, per draw, example and level, in nats. Never weighted.

    `nodes` are the z_1:T that the terms were computed at, where an objective needs the path through them.
    """

    reconstruction: Float[Tensor, "draws batch"]
    rate: Float[Tensor, "depth draws batch"]
    nodes: tuple[Float[Tensor, "draws batch _"], ...] = ()

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


def pathwise_terms(model: HierarchicalVAE, x: Float[Tensor, "batch units"], draws: int = 1) -> ELBO:
    """Return the same terms as `elbo`, with the encoder's weights in log q held constant, and the nodes.

    A gradient that reaches `nodes` goes on to the encoder alone; the path through the weights of p that a ladder's q
    shares passes them by.
    """
    drawn, shared = model.pathwise_draws(x, draws)
    nodes = [
        z_t.view_as(z_t) for z_t in drawn
    ]  # a gradient hook on these sees the terms alone, and not the draws of other levels
    z = [x[None], *nodes]
    if shared:  # adds 0, and the gradient through the weights that q shares with p, which hooks on `nodes` do not see
        z[1:] = [z_t + (s_t - s_t.detach()) for z_t, s_t in zip(nodes, shared, strict=True)]
    log_p = [p_t.log_prob(z_t) for p_t, z_t in zip(model.joint(z), z, strict=True)]
    log_q = [q_t.log_prob(z_t) for q_t, z_t in zip(model.detached_posterior(z), z[1:], strict=True)]
    return ELBO(log_p[0], torch.stack(log_q) - torch.stack(log_p[1:]), tuple(nodes))


def top_down_kl(
    model: HierarchicalVAE, x: Float[Tensor, "batch units"], draws: int = 1
) -> Float[Tensor, "depth draws batch"]:
    """Return KL(q(z_t | .) || p(z_t | .)) of each level at draws of the levels above, all of them 0 or more.

    The mean over draws of their sum is that of `kl`. Where the prior is a mixture or a flow the top level's divergence
    has no closed form, and its log-ratio stands in, which is 0 or more in the mean alone.

    Raises:
        ValueError: the inference is bottom-up, where these divergences are not what a closed form gives.
    """
    if model.direction != "top_down":
        raise ValueError("a KL divergence a level needs inference top_down")
    z, q = model.posterior(x, draws)
    return torch.stack(
        [
            q_t.log_prob(z_t) - p_t.log_prob(z_t)
            if isinstance(p_t, MixtureSameFamily | FlowDistribution)
            else kl_divergence(q_t, p_t)
            for z_t, q_t, p_t in zip(z[1:], q, model.joint(z)[1:], strict=True)
        ]
    )


def _dreg(bound: ELBO) -> Float[Tensor, " batch"]:
    """L_k, the gradient along each draw's path weighed once more by the draw's share of the sum."""
    share = torch.softmax(bound.log_weight.detach(), 0)[..., None]
    for node in bound.nodes:
        node.register_hook(lambda gradient: gradient * share)
    return bound.iwae


OBJECTIVES: dict[str, Callable[[ELBO, float], Float[Tensor, " batch"]]] = {
    "elbo": lambda bound, _: bound.elbo,
    "beta": lambda bound, beta: (bound.reconstruction - beta * bound.kl).mean(0),
    "iwae": lambda bound, _: bound.iwae,
    "stl": lambda bound, _: bound.elbo,
    "dreg": lambda bound, _: _dreg(bound),
}
PATHWISE = {"stl", "dreg"}
"""Objectives of the terms of `pathwise_terms`, to be used once each; at those of `elbo` they are elbo and iwae."""


def beta_at(params: TrainParams, epoch: float) -> float:
    """Return the weight of the rate at `epoch`: `beta`, reached linearly over `warmup` epochs from 0."""
    return params.beta * min(1.0, epoch / params.warmup) if params.warmup else params.beta


def training_objective(bound: ELBO, params: TrainParams, epoch: float) -> Float[Tensor, " batch"]:
    """Return the objective that training maximizes at `epoch`, with free bits and each level's own warm-up.

    A level whose rate, a mean over draws and batch, is below `free_bits` counts as that constant. Level t
    warms up `warmup_stagger` epochs after level t - 1.
    Source: Kingma et al. (2016), appendix C.8, https://arxiv.org/abs/1606.04934
    """
    objective = OBJECTIVES[params.objective]
    if params.free_bits:
        spent = bound.rate.mean((1, 2), keepdim=True) >= params.free_bits
        bound = replace(bound, rate=torch.where(spent, bound.rate, params.free_bits))
    if params.warmup_stagger:
        starts = [epoch - level * params.warmup_stagger for level in range(len(bound.rate))]
        ramps = bound.rate.new_tensor([min(1.0, max(0.0, since / params.warmup)) for since in starts])
        return objective(replace(bound, rate=ramps[:, None, None] * bound.rate), params.beta)
    return objective(bound, beta_at(params, epoch))
