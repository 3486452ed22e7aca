"""The bound taken apart by level, from the bottom up.

Write z_0 = x and let z_1:T be drawn from q of (20). By the chain rule, in the order in which q draws,

    kl_up/z_t = E_q KL(q(z_t | z_<t) || p(z_t | z_1:t-1))      sums to KL(q(z_1:T | x) || p(z_1:T))           (c)
    gap/z_t   = E_q KL(q(z_t | z_<t) || p(z_t | z_0:t-1))      sums to log p(x) - elbo, equation (10)          (d)

with p(z_t | .) the model's own posterior given the nodes below. Every term is a KL divergence, hence >= 0, unlike
the rates. In a Markov chain (`nearest`) p(z_t | z_0:t-1) = p(z_t | z_t-1), so that the two agree for t >= 2: the upper
levels are a learned prior p(z_1), and add to the gap what they add to the KL. With `every` they differ.

Estimates: with a_t = log q(z_t | z_<t) and M_t = log p(z_1:t) in (c), log p(z_0:t) in (d), each term is

    E[a_t + M_t-1 - M_t],      M_0 = 0 in (c), log p(x) in (d),

and M_t is estimated by L_K, the log mean of K importance weights at draws z_t+1:T ~ q(. | z_0:t); it is exact at t = T.
What stands for M_t cancels in the sums, which hold draw by draw. E L_K = M_t - delta_t, delta_t >= 0 (Burda et al.
2016), hence

    bias of a term = delta_t - delta_t-1,      delta_T = 0, and delta_0 = 0 in (c):

the partial sums of (c) from z_1 up are upper bounds, those from z_T down lower bounds; at T = 2, kl_up/z1 is an upper
bound and kl_up/z2 a lower one. delta_t falls as 1/K, so that L_K - L_K/2 estimates it to first order:
`kl_up_bias/z_t` and `gap_bias/z_t` are the biases that follow. No upper bound of M_t is at hand at draws from q; at
draws from the model there is one (`sandwich`).

With `every` above depth 1, (c) is left out: its q(. | z_0:t) looks at x and its target p(. | z_1:t) does not, which
cost 0.75 nats at K = 100 on a linear chain of two levels. (d) has no such mismatch and is always measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.decompositions.estimates import PerImage, mean_over_images, of_draws
from pipeline.evaluation import Estimate
from pipeline.models import HierarchicalVAE

__all__ = ["level_terms", "sandwich"]

ROWS = 8192  # rows of one pass, draws times nodes


@torch.no_grad()
def level_terms(
    model: HierarchicalVAE, x: Float[Tensor, "batch units"], *, draws: int, inner: int, outer: int
) -> PerImage:
    """Return `kl_up/`, `gap/`, their biases, and `log_marginal/` log p(x) and log p(z_1) of each image, in nats.

    `draws` (at least 2) of the posterior stand behind each mean, `inner` (at least 2) of the levels above behind each
    log p(z_1:t), `outer` (at least 2) behind log p(x).
    """
    z, q = model.posterior(x, draws)
    log_q = [q_t.log_prob(z_t) for q_t, z_t in zip(q, z[1:], strict=True)]
    evidence, error, evidence_lack = _log_mean(_log_weights(model, [x[None]], outer)[1])
    # [2, draws, batch]: log p(z_1:t), log p(z_0:t), from t = 0 up, and what each estimate lacks.
    marginal = [torch.stack([torch.zeros_like(evidence), evidence])[:, None]]
    lack = [torch.stack([torch.zeros_like(evidence), evidence_lack])[:, None]]
    nodes = [node.expand(draws, -1, -1).flatten(0, 1)[None] for node in z]
    for t in range(1, model.depth + 1):
        weights = _log_weights(model, nodes[: t + 1], inner)
        means, _, lacks = zip(*map(_log_mean, weights), strict=True)
        marginal.append(torch.stack(means).unflatten(-1, (draws, -1)))
        lack.append(torch.stack(lacks).unflatten(-1, (draws, -1)))
    measured = {"gap": 1} if _sees_x(model) else {"kl_up": 0, "gap": 1}
    results: PerImage = {"log_marginal/z0": (evidence, error)}
    for name, index in measured.items():
        for t in range(1, model.depth + 1):
            value, variance = of_draws(log_q[t - 1] + marginal[t - 1][index] - marginal[t][index])
            shared = error if name == "gap" and t == 1 else 0.0  # log p(x) is the same in all draws
            results[f"{name}/z{t}"] = (value, variance + shared)
            results[f"{name}_bias/z{t}"] = ((lack[t][index] - lack[t - 1][index]).mean(0), None)
    if "kl_up" in measured:
        results["log_marginal/z1"] = of_draws(marginal[1][0])
    return results


@torch.no_grad()
def sandwich(model: HierarchicalVAE, count: int, *, inner: int, outer: int) -> dict[str, Estimate]:
    """Return the mean width of a two-sided bound on log p(z_0:t), t < T, over `count` draws of the model itself.

    Where the nodes come from the model, z_t+1:T is one exact draw of the posterior given z_0:t. With it among the K
    weights, E log (1/K) sum w >= log p(z_0:t); without it, <=. So `width/z_t` is at least delta_t at the model's own
    draws, for K = `outer` at t = 0 and `inner` above. In a Markov chain it is the width for log p(z_t) too. It says
    nothing rigorous of draws from q. Source: Grosse, Ghahramani, Adams, "Sandwiching the marginal likelihood using
    bidirectional Monte Carlo" (2015), https://arxiv.org/abs/1511.02543
    """
    nodes = [node[None] for node in model.sample(count)]
    log_p = sum(p_t.log_prob(z_t) for p_t, z_t in zip(model.joint(nodes), nodes, strict=True))
    results: PerImage = {}
    for t in range(model.depth):
        weights = _log_weights(model, nodes[: t + 1], outer if t == 0 else inner)[1]
        exact = log_p - sum(
            rung(*_below(model, nodes[:s])).log_prob(nodes[s])
            for s, rung in enumerate(model.inference[t:], start=t + 1)
        )
        upper = torch.logsumexp(torch.cat([exact, weights[1:]]), 0)
        results[f"width/z{t}"] = (upper - torch.logsumexp(weights, 0), None)
    return mean_over_images([results])


def _sees_x(model: HierarchicalVAE) -> bool:
    """Does the posterior of upper levels see x, and not the level below alone?"""
    return model.parents == "every" and model.depth > 1


def _below(model: HierarchicalVAE, nodes: Sequence[Tensor]) -> Sequence[Tensor]:
    """Return what q of the next level sees of the nodes below it, the nearest first."""
    return nodes[::-1] if model.parents == "every" else nodes[-1:]


def _log_weights(
    model: HierarchicalVAE, nodes: Sequence[Float[Tensor, "1 batch _"]], draws: int
) -> tuple[Float[Tensor, "_ batch"], Float[Tensor, "_ batch"]]:
    """Return log-weights whose exponentials have the means p(z_1:t) and p(z_0:t), the nodes z_0, ..., z_t given.

    The draws are z_t+1:T ~ q(. | z_0:t); at t = T there is nothing to draw, and one exact weight.
    """
    per_pass = max(1, ROWS // nodes[0].shape[1])
    passes = (
        [draws] if len(nodes) > model.depth else [min(per_pass, draws - done) for done in range(0, draws, per_pass)]
    )
    latent, joint = [], []
    for size in passes:
        z, log_q = list(nodes), torch.zeros(())
        for rung in model.inference[len(nodes) - 1 :]:
            q_t = rung(*_below(model, z)).expand((size, nodes[0].shape[1]))
            z.append(q_t.sample())
            log_q = log_q + q_t.log_prob(z[-1])
        log_x, *log_p = (p_t.log_prob(z_t) for p_t, z_t in zip(model.joint(z), z, strict=True))
        latent.append(torch.stack(torch.broadcast_tensors(*log_p)).sum(0) - log_q)
        joint.append(log_x + latent[-1])
    return torch.cat(latent), torch.cat(joint)


def _log_mean(log_weight: Float[Tensor, "draws batch"]) -> tuple[Tensor, Tensor, Tensor]:
    """Return log mean w, its first-order variance, and L_K less the mean of L_K/2 of the two halves; [batch] each."""
    k = len(log_weight)
    mean = torch.logsumexp(log_weight, 0) - math.log(k)
    if k == 1:
        return mean, torch.zeros_like(mean), torch.zeros_like(mean)
    half = torch.logsumexp(log_weight[: k - k % 2].unflatten(0, (2, -1)), 1) - math.log(k // 2)
    return mean, (log_weight - mean).exp().var(0) / k, mean - half.mean(0)
