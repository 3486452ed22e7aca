"""Out-of-distribution images: likelihood ratios by level, and their AUROC between two data sets.

The bound with the levels up to k drawn from the generative model in place of the posterior is

    L^{>k} = E[log p(x | z) + sum_{t>k} log p(z_t | .) - sum_{t>k} log q(z_t | .)],
             z_>k from q(. | x), z_k, ..., z_1 from p(. | the levels above),                    L^{>0} = elbo
    LLR^{>k} = elbo - L^{>k}

the nats that levels 1 to k add to the bound beyond what the levels above them imply. They are many for an image whose
details q describes well and whose upper levels mean little to the model: the ratio is higher outside of the training
data.

Top-down inference draws z_>k before the levels below, so that q(z_>k | x) is the product of its factors. Bottom-up
inference draws z_>k through z_1, ..., z_k, and its q(z_>k | x) is an intractable mixture. Here the factors given the
drawn lower levels stand in its place. For every z_<=k these are a proposal for z_>k whose weight has the mean p(x), so
that L^{>k} is a lower bound of log p(x) in both cases; the bound of bottom-up inference is lower than that by the
mixture by I_q(z_<=k; z_>k | x), at least 0.

An AUROC is the probability that the score of an image from elsewhere is the higher one, one half where scores are
equal: of -elbo (`outlier_auroc/elbo`), and of LLR^{>k} (`outlier_auroc/llr/z_k`). A value below one half
says that images from elsewhere look more likely to the model than its own, or that levels 1 to k add fewer nats there.
Its standard error, over the images of both sets, is that of DeLong.

Havtorn, Frellsen, Hauberg, Maaløe, "Hierarchical VAEs Know What They Don't Know" (2021),
https://arxiv.org/abs/2102.08248
DeLong, DeLong, Clarke-Pearson, "Comparing the areas under two or more correlated receiver operating characteristic
curves" (1988), https://doi.org/10.2307/2531595
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from pipeline.evaluation.estimates import Estimate
from pipeline.evaluation.passes import DECODED_ROWS, passes
from pipeline.metric import Metric
from pipeline.models import HierarchicalVAE, rows_within
from pipeline.progress import track_progress

__all__ = ["auroc", "bounds_above", "outliers", "scores", "shuffled"]

IMAGES = 20  # a batch


@torch.no_grad()
def bounds_above(
    model: HierarchicalVAE, x: Float[Tensor, "batch units"], draws: int
) -> Float[Tensor, "levels draws batch"]:
    """Return log-weights whose means over draws are the bounds L^{>0}, ..., L^{>T-1} of each image."""
    z, q = model.posterior(x, draws)
    log_q = [q_t.log_prob(z_t) for q_t, z_t in zip(q, z[1:], strict=True)]
    bounds = []
    for k in range(model.depth):
        nodes = model.redraw(z, k)
        log_p = [p_t.log_prob(z_t) for p_t, z_t in zip(model.joint(nodes), nodes, strict=True)]
        bounds.append(log_p[0] + torch.stack(log_p[k + 1 :]).sum(0) - torch.stack(log_q[k:]).sum(0))
    return torch.stack(bounds)


def scores(model: HierarchicalVAE, x: Float[Tensor, "n units"], draws: int) -> dict[str, Float[Tensor, " n"]]:
    """Return -elbo and LLR^{>k} of each image, k from 1 to T - 1, by the names that their AUROC has."""
    means = []
    for batch in track_progress(x.split(IMAGES), "likelihood ratios", f"batches of {IMAGES} images"):
        sizes = passes(draws, len(batch), rows_within(model, batch, DECODED_ROWS))
        sums = [bounds_above(model, batch, size).sum(1) for size in sizes]
        means.append(torch.stack(sums).sum(0) / draws)
    elbo, *above = torch.cat(means, dim=1)
    return {"elbo": -elbo} | {str(Metric("llr", k)): elbo - bound for k, bound in enumerate(above, start=1)}


def outliers(own: dict[str, Float[Tensor, " n"]], other: dict[str, Float[Tensor, " m"]]) -> dict[str, Estimate]:
    """Return the AUROC of each score: of images of the test set (`own`) against images from elsewhere (`other`)."""
    return {f"outlier_auroc/{name}": auroc(own[name], other[name]) for name in own}


def auroc(own: Float[Tensor, " n"], other: Float[Tensor, " m"]) -> Estimate:
    """Return P(other > own) + P(other = own) / 2 and its standard error by DeLong; two of each are needed."""
    wins = (other[:, None] > own).double() + (other[:, None] == own).double() / 2
    by_other, by_own = wins.mean(1), wins.mean(0)
    return Estimate(wins.mean().item(), math.sqrt(by_other.var() / len(other) + by_own.var() / len(own)))


def shuffled(pixels: Shaped[Tensor, "n units"], seed: int, channels: int = 1) -> Shaped[Tensor, "n units"]:
    """Return the images with the pixels of each in a random order of its own, each in its colour."""
    planes = pixels.unflatten(1, (channels, -1))
    size, generator = (len(planes), planes.shape[2]), torch.Generator().manual_seed(seed)
    order = torch.rand(size, generator=generator, dtype=torch.float64).argsort(1).to(pixels.device)
    moved: Tensor = planes.gather(2, order[:, None].expand_as(planes)).flatten(1)
    return moved
