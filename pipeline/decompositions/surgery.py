"""The mean KL taken apart over the data set: q(z) = (1/N) sum_n q(z | x_n), all N posteriors, never a minibatch.

    mean KL          = mutual_information + marginal_kl,   I_q(n; z) + KL(q(z) || p(z))
    marginal_kl      = total_correlation + dimension_kl,   KL(q(z) || prod_j q(z_j)) + sum_j KL(q(z_j) || p(z_j))

Hoffman, Johnson, "ELBO surgery" (2016), http://approximateinference.org/accepted/HoffmanJohnson2016.pdf
Chen, Li, Grosse, Duvenaud, "Isolating Sources of Disentanglement in VAEs" (2018), https://arxiv.org/abs/1802.04942

Each is a mean over pairs (n, z ~ q(z | x_n)) of M examples, one draw each; log q(z) at every draw is exact, so that
the means are unbiased and the identities hold draw by draw. Standard errors: deviation over the M pairs / sqrt(M).

In a Markov chain log q(z_1:T | x_n) - log q(z_1 | x_n) does not depend on n: I_q(n; z_1:T) = I_q(n; z_1), and
q(z_1:T) = q(z_1) prod_{t>=2} q(z_t | z_t-1) is exact too. With `every` above depth 1 only level 1 is measured. The
second split needs a prior without dependence: `dimension_kl` exists at depth 1 alone; `total_correlation/z1` is the
dependence in q(z_1) at any depth. q(z_t), t >= 2, is a mixture that no finite sum gives: `upper_information` bounds it.
Every single log q(z | x_n) - log q(z) <= log N, hence I <= log N.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.distributions import Distribution, Independent, MixtureSameFamily, Normal

from pipeline.evaluation import Estimate
from pipeline.models import HierarchicalVAE

__all__ = ["log_dimensions", "log_mixture", "surgery", "upper_information"]

CELLS = 2**22  # of one block, queries times components
ROWS = 8192  # rows of one pass through a network


@torch.no_grad()
def surgery(model: HierarchicalVAE, x: Float[Tensor, "n units"], queries: int) -> dict[str, Estimate]:
    """Return the surgery's terms in nats, from one draw at each of `queries` examples against all n posteriors.

    Keys: `mutual_information/z1`, `total_correlation/z1`; but with `every` at depth above 1, `mutual_information` and
    `marginal_kl` of z_1:T; at depth 1, `total_correlation` and `dimension_kl`, the latter two
    under a prior that factorises. More than n queries are n.

    Raises:
        TypeError: the level-1 posterior is not a diagonal Gaussian.
    """
    chosen = torch.randperm(len(x), device=x.device)[:queries]
    mean, sigma = _components(model, x)
    z, q = _draw(model, x[chosen])
    p = model.joint(z)
    z_1 = z[1][0].double()
    own = _log_normal(z_1, mean[chosen], sigma[chosen]).sum(-1)
    marginal = log_mixture(z_1, mean, sigma, chosen, own)
    dimensions = log_dimensions(z_1, mean, sigma).sum(-1)
    terms = {"mutual_information/z1": own - marginal, "total_correlation/z1": marginal - dimensions}
    if model.parents == "nearest" or model.depth == 1:
        log_q = sum((q_t.log_prob(z_t)[0].double() for q_t, z_t in zip(q[1:], z[2:], strict=True)), marginal)
        log_p = sum(p_t.log_prob(z_t)[0].double() for p_t, z_t in zip(p[1:], z[1:], strict=True))
        terms |= {"mutual_information": own - marginal, "marginal_kl": log_q - log_p}
        if model.depth == 1 and not isinstance(p[-1], MixtureSameFamily):
            terms |= {"total_correlation": marginal - dimensions, "dimension_kl": dimensions - log_p}
    return {name: _estimate(term) for name, term in terms.items()}


@torch.no_grad()
def upper_information(
    model: HierarchicalVAE, x: Float[Tensor, "n units"], queries: int, draws: int
) -> dict[str, Estimate]:
    """Return a lower and an upper estimate of I_q(n; z_t), t >= 2, of a Markov chain, and of KL(q(z_T) || p(z_T)).

    log q(z_t | x_n) is estimated from `draws` paths of the levels below, log q(z_t) from one path at each of the n
    examples. With fresh paths alone the expectation is too low (Jensen), with the path that z_t came from among them
    too high; a lower estimate of I joins the low conditional to the high marginal. Keys end in `/lower` and `/upper`.
    Source: Titsias, Ruiz, "Unbiased Implicit Variational Inference" (2019), https://arxiv.org/abs/1808.02078, and
    Molchanov et al., "Doubly Semi-Implicit Variational Inference" (2019), https://arxiv.org/abs/1810.02789
    """
    if model.parents != "nearest":
        raise ValueError("the information of upper levels is measured in a Markov chain only (parents: nearest)")
    chosen = torch.randperm(len(x), device=x.device)[:queries]
    z, q = _draw(model, x[chosen])
    own = [q_t.log_prob(z_t)[0].double() for q_t, z_t in zip(q, z[1:], strict=True)]
    paths = [_draw(model, rows)[1] for rows in x.split(ROWS)]
    results = {}
    for t in range(2, model.depth + 1):
        parts = [_normal(factors[t - 1]) for factors in paths]
        mean, sigma = torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])
        node = z[t][0].double()
        fresh = _log_normal(node, mean[chosen], sigma[chosen]).sum(-1)
        low, high = (log_mixture(node, mean, sigma, chosen, term) for term in (fresh, own[t - 1]))
        given = torch.stack(
            [model.posterior(x[chosen])[1][t - 1].log_prob(z[t])[0].double() for _ in range(draws)]
        )  # [draws, queries]
        given_low = torch.logsumexp(given, 0) - math.log(draws)
        given_high = torch.logsumexp(torch.cat([own[t - 1][None], given[1:]]), 0) - math.log(draws)
        results[f"mutual_information/z{t}/lower"] = _estimate(given_low - high)
        results[f"mutual_information/z{t}/upper"] = _estimate(given_high - low)
        if t == model.depth:
            log_p = model.joint(z)[-1].log_prob(z[-1])[0].double()
            results[f"marginal_kl/z{t}/lower"] = _estimate(low - log_p)
            results[f"marginal_kl/z{t}/upper"] = _estimate(high - log_p)
    return results


def log_mixture(
    z: Float[Tensor, "queries d"],
    mean: Float[Tensor, "n d"],
    sigma: Float[Tensor, "n d"],
    own: Int[Tensor, " queries"],
    log_own: Float[Tensor, " queries"],
) -> Float[Tensor, " queries"]:
    """Return log (1/n) sum_n N(z; mean_n, diag sigma_n^2), the component `own` of each query being `log_own`.

    Quadratic forms of all pairs are one matrix product, [z^2, z] against [-1/(2 sigma^2), mean / sigma^2], in float64
    and in blocks, around the components' mean; memory does not grow with queries * n.
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
    z: Float[Tensor, "queries d"], mean: Float[Tensor, "n d"], sigma: Float[Tensor, "n d"]
) -> Float[Tensor, "queries d"]:
    """Return log q(z_j) = log (1/n) sum_n N(z_j; mean_nj, sigma_nj^2) of each query and dimension, in blocks."""
    size = max(1, CELLS // len(mean))
    columns = []
    for j in range(z.shape[1]):
        mu, rate = mean[:, j], math.sqrt(0.5) / sigma[:, j]
        height = -sigma[:, j].log() - 0.5 * math.log(2 * math.pi)
        blocks = [torch.logsumexp(height - ((rows[:, None] - mu) * rate) ** 2, 1) for rows in z[:, j].split(size)]
        columns.append(torch.cat(blocks) - math.log(len(mean)))
    return torch.stack(columns, dim=1)


def _components(model: HierarchicalVAE, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and sigma [n, d] of q(z_1 | x_n) for all n."""
    parts = [_normal(model.inference[0](rows[None])) for rows in x.split(ROWS)]
    return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])


def _draw(model: HierarchicalVAE, x: Tensor) -> tuple[list[Tensor], list[Distribution]]:
    """Draw z_1:T once for each example, nodes [1, n, d]."""
    return model.posterior(x)


def _normal(q: Distribution) -> tuple[Tensor, Tensor]:
    if not (isinstance(q, Independent) and isinstance(q.base_dist, Normal)):
        raise TypeError(f"the surgery needs diagonal Gaussian posteriors, not {q}")
    return q.mean[0].double(), q.stddev[0].double()


def _log_normal(z: Tensor, mean: Tensor, sigma: Tensor) -> Tensor:
    log_q: Tensor = Normal(mean, sigma, validate_args=False).log_prob(z)
    return log_q


def _estimate(term: Tensor) -> Estimate:
    return Estimate(term.mean().item(), term.std().item() / math.sqrt(len(term)))
