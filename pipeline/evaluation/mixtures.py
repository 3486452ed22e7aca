"""log q(z) at draws, q the mean of n densities: never of a minibatch, in float64 and in blocks of bounded memory.

    log_mixture       log (1/n) sum_n N(z; mean_n, diag sigma_n^2), all dimensions together
    log_dimensions    log (1/n) sum_n N(z_j; mean_nj, sigma_nj^2), each dimension by itself
    log_posteriors    log (1/n) sum_n q(z_1:T | x_n), all levels together

Each query has one component of its own, the one that it was drawn from, whose log-density is an argument.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.evaluation.passes import LATENT_ROWS
from pipeline.models import HierarchicalVAE
from pipeline.progress import track_progress

__all__ = ["log_dimensions", "log_mixture", "log_posteriors"]

CELLS = 2**19  # of one block, queries times components: 4 MB
QUERIES = 64  # of those at most


def log_mixture(
    z: Float[Tensor, "queries d"],
    mean: Float[Tensor, "n d"],
    sigma: Float[Tensor, "n d"],
    own: Int[Tensor, " queries"],
    log_own: Float[Tensor, " queries"],
) -> Float[Tensor, " queries"]:
    """Return the joint log-density of each query, the component `own` of each being `log_own`.

    Quadratic forms of all pairs are one matrix product, [z^2, z] against [-1/(2 sigma^2), mean / sigma^2], around the
    components' mean.
    """
    centre = mean.mean(0)
    shifted = mean - centre
    precision = sigma**-2
    right = torch.cat([-0.5 * precision, shifted * precision], dim=1).mT
    constant = -(0.5 * shifted**2 * precision + sigma.log() + 0.5 * math.log(2 * math.pi)).sum(-1)
    size = max(1, CELLS // len(mean))
    sums = []
    for rows, index in zip((z - centre).split(size), own.split(size), strict=True):
        log_q = torch.addmm(constant, torch.cat([rows**2, rows], dim=1), right)
        log_q[torch.arange(len(rows), device=z.device), index] = -math.inf
        sums.append(torch.logsumexp(log_q, 1))
    return torch.logaddexp(torch.cat(sums), log_own) - math.log(len(mean))


def log_dimensions(
    z: Float[Tensor, "queries d"],
    mean: Float[Tensor, "n d"],
    sigma: Float[Tensor, "n d"],
    own: Int[Tensor, " queries"],
    log_own: Float[Tensor, "queries d"],
) -> Float[Tensor, "queries d"]:
    """Return the log-density of each query in each dimension, the component `own` of each being `log_own`."""
    size = max(1, CELLS // len(mean))
    columns = []
    for j in range(z.shape[1]):
        mu, rate = mean[:, j], math.sqrt(0.5) / sigma[:, j]
        height = -sigma[:, j].log() - 0.5 * math.log(2 * math.pi)
        sums = []
        for rows, index in zip(z[:, j].split(size), own.split(size), strict=True):
            log_q = height - ((rows[:, None] - mu) * rate) ** 2
            log_q[torch.arange(len(rows), device=z.device), index] = -math.inf
            sums.append(torch.logsumexp(log_q, 1))
        columns.append(torch.logaddexp(torch.cat(sums), log_own[:, j]) - math.log(len(mean)))
    return torch.stack(columns, dim=1)


def log_posteriors(
    model: HierarchicalVAE,
    x: Float[Tensor, "n units"],
    z: Sequence[Float[Tensor, "queries _"]],
    own: Int[Tensor, " queries"],
    log_own: Float[Tensor, " queries"],
) -> Float[Tensor, " queries"]:
    """Return the log-density of z_1:T of each query, the component `own` of each being `log_own`.

    Every pair of an example and a query goes through the networks that see both.
    """
    sums = []
    for start in track_progress(range(0, len(own), QUERIES), "surgery", f"blocks of {QUERIES} queries"):
        block = slice(start, start + QUERIES)
        nodes = [level[None, block] for level in z]
        log_q = torch.cat([_pairs(model, rows, nodes) for rows in x.split(max(1, LATENT_ROWS // nodes[0].shape[1]))])
        log_q[own[block], torch.arange(log_q.shape[1], device=x.device)] = -math.inf
        sums.append(torch.logsumexp(log_q, 0))
    return torch.logaddexp(torch.cat(sums), log_own) - math.log(len(x))


def _pairs(
    model: HierarchicalVAE, x: Float[Tensor, "n units"], nodes: Sequence[Float[Tensor, "1 queries _"]]
) -> Float[Tensor, "n queries"]:
    """Return log q(z_1:T | x_n) of every example and query."""
    q = model.posterior_at([x[:, None], *nodes])
    terms = [q_t.log_prob(z_t).double() for q_t, z_t in zip(q, nodes, strict=True)]
    return torch.stack(torch.broadcast_tensors(*terms)).sum(0).expand(len(x), -1)
