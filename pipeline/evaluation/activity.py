"""How many units of each level depend on the image, and how much.

With means and variances over the posterior q of a unit z, and over the images x of the test set,

    active       units with Var_x(E[z|x]) > threshold.         Burda et al. (2016), section 5
    share        Var_x(E[z|x]) / (Var_x(E[z|x]) + E_x Var[z|x]), the part of z's variance that the image explains
    informative  units whose share is above 0.01
    information  sum over units of -1/2 log(1 - share), in nats

The count of active units depends on the scale of z: multiplied by a number, with the networks on either side changed
to match, a unit has the same bound, and any variance. No linear map of a unit moves its share. Where the units of the
aggregate posterior have variance 1, as those of the prior do, both counts ask the same of a unit.

`information` is the mutual information of image and unit where E[z|x] and the noise around it are Gaussian, summed as
if units were independent. It is no bound: what several units know alike counts for each of them (13.0 nats in z_1 of a
ladder on digits whose levels together share 1.9 nats with the image), and `mutual_information` of the surgery is what
images and units really share, where that can be measured.

Above the level that q draws first, E[z|x] and Var[z|x] are themselves averages over draws of the levels drawn before.
The Monte Carlo variance of the average is subtracted from the variance over images and added to that within (one draw
would count noise as activity), so that a unit that does not depend on the image has a share around 0, also just below
it. Standard errors are jackknives over ten blocks of draws, the images held fixed; that of a count is what units near
the threshold add. The subtraction is this project's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.evaluation.jackknife import BLOCKS, variance
from pipeline.metric import Metric
from pipeline.models import HierarchicalVAE
from pipeline.params import INFORMATIVE

__all__ = ["activity"]


@torch.no_grad()
def activity(
    model: HierarchicalVAE, batches: Iterable[Float[Tensor, "batch units"]], draws: int, threshold: float
) -> dict[str, tuple[float, float]]:
    """Return `active/`, `informative/` and `information/` of each level, each with its standard error.

    `draws`, a multiple of ten, of the posterior of each image stand behind levels that are not drawn first; `threshold`
    is that of the active units.
    """
    means: list[list[Tensor]] = [[] for _ in range(model.depth)]
    squares: list[list[Tensor]] = [[] for _ in range(model.depth)]
    for x in batches:
        blocks = [model.posterior(x, draws // BLOCKS)[1] for _ in range(BLOCKS)]
        for level in range(model.depth):
            moments = [(q[level].mean.double(), q[level].variance.double()) for q in blocks]
            means[level].append(torch.stack([mu.mean(0) for mu, _ in moments]))
            squares[level].append(torch.stack([(mu**2 + var).mean(0) for mu, var in moments]))
    results: dict[str, tuple[float, float]] = {}
    for level in range(model.depth):
        mean, square = torch.cat(means[level], dim=1), torch.cat(squares[level], dim=1)  # [blocks, images, units]
        between, error = _jackknife(_between, mean, square)
        results[str(Metric("active", level + 1))] = _count(between, error, threshold)
        share, error = _jackknife(_share, mean, square)
        results[str(Metric("informative", level + 1))] = _count(share, error, INFORMATIVE)
        information, error = _jackknife(_information, mean, square)
        results[str(Metric("information", level + 1))] = information.item(), error.item()
    return results


def _between(mean: Float[Tensor, "blocks images units"], square: Tensor) -> Float[Tensor, " units"]:
    """Return the variance over images of the mean over blocks, less the part that the blocks' noise adds."""
    return mean.mean(0).var(0) - mean.var(0).mean(0) / len(mean)


def _share(
    mean: Float[Tensor, "blocks images units"], square: Float[Tensor, "blocks images units"]
) -> Float[Tensor, " units"]:
    """Return the share of a unit's variance under the aggregate posterior of these images that lies between them."""
    images = mean.shape[1]
    between = _between(mean, square) * (images - 1) / images
    within = (square.mean(0) - mean.mean(0) ** 2 + mean.var(0) / len(mean)).mean(0)
    return between / (between + within)


def _information(mean: Tensor, square: Tensor) -> Float[Tensor, ""]:
    return (-0.5 * torch.log1p(-_share(mean, square))).sum()


def _jackknife(statistic: Callable[[Tensor, Tensor], Tensor], mean: Tensor, square: Tensor) -> tuple[Tensor, Tensor]:
    """Return a statistic and its standard error, by leaving out each block of draws."""
    left_out = torch.stack(
        [statistic(*(torch.cat([part[:b], part[b + 1 :]]) for part in (mean, square))) for b in range(BLOCKS)]
    )
    return statistic(mean, square), variance(left_out).sqrt()


def _count(value: Float[Tensor, " units"], error: Float[Tensor, " units"], threshold: float) -> tuple[float, float]:
    """Return how many values are above a threshold, and the standard error of that number."""
    chance = torch.special.ndtr((value - threshold) / error.clamp(min=1e-12))
    return float((value > threshold).sum()), (chance * (1 - chance)).sum().sqrt().item()
