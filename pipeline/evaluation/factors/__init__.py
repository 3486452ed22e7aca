"""Scores of how well the factors that images were made from can be read from each level.

The representation of level t is z_t ~ q(z_t | x) and its mean E_q[z_t | x]. The factor q(z_t | .) of (20) or of the
ladder depends on draws of other levels, except at the level that the posterior starts with (z_1 bottom-up, z_T
top-down), whose mean is exact. Elsewhere the mean is averaged over S draws of the levels that come before it,

    E_q[z_t | x] = E[E[z_t | its parents] | x]  ~  (1/S) sum_s E[z_t | parents_s],

whose error has the variance of the conditional mean, at most Var_q(z_t | x), over S. In the mean it is noise.

With v_k the factors,

    mig/z_t                   mean over k of [I(z_j; v_k) - I(z_i; v_k)] / H(v_k), j and i the best and the second unit
    dci_disentanglement/z_t   does a unit speak of one factor alone?       importances of the units to a forest
    dci_completeness/z_t      does one unit alone speak of a factor?       the same importances
    dci_informativeness/z_t   1 - (loss of the forest) / (loss of a constant), mean over factors
    probe/<factor>/z_t        1 - (loss of a linear map) / (loss of a constant), factor by factor
    probe/z_t                 their mean over factors

`information` says how the first is measured, `prediction` the others. At level x, the pixels, there is the probe alone,
as what can be read linearly without any model. All scores are 1 at best and about 0 where the level holds nothing of a
factor; probes and informativeness are below 0 where a fit does worse than a constant.

The first factor is a category, the others are numbers. A number is its own target, angles included: over the ranges of
`cave` none of them wraps around (the widest, `roll`, spans 2/3 of a half turn), so that neighbouring angles are
neighbouring numbers. A factor that wraps around would need another loss, which is not here. Not every factor can be
read perfectly: the shadow of an ellipsoid is an ellipse, five numbers for its seven factors, and one of height 1 is a
sphere, without lean and roll. What is below 1 is no fault of the model alone.

Edges of bins, forests and linear maps are fitted on the training images, and scores are measured on the test images.
Standard errors are over test images, the fits held fixed, by the jackknife (`jackknife`); those of disentanglement and
completeness, which no test image enters, are over training images.

At 1000 training and 900 test images of 784 pixels, 20 draws, levels of 16, 8 and 4 units, it took 9 s of one CPU
thread; at 4200 and 1200 images 25 s. The trees take most of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.errors import InputError
from pipeline.evaluation.estimates import Estimate
from pipeline.evaluation.factors.information import mutual_information_gap
from pipeline.evaluation.factors.prediction import dci, probe, standardized
from pipeline.evaluation.passes import LATENT_ROWS
from pipeline.metric import Metric
from pipeline.models import HierarchicalVAE
from pipeline.randomness import seeded

__all__ = ["Representation", "factor_scores", "represent"]


@dataclass(frozen=True)
class Representation:
    """One level's z of n images."""

    mean: Float[np.ndarray, "n units"]
    draws: Float[np.ndarray, "draws n units"]


def factor_scores(
    model: HierarchicalVAE,
    train_x: Float[Tensor, "n units"],
    train_factors: Float[np.ndarray, "n factors"],
    test_x: Float[Tensor, "m units"],
    test_factors: Float[np.ndarray, "m factors"],
    names: Sequence[str],
    *,
    draws: int,
    seed: int,
    stream: str = "",
) -> dict[str, Estimate]:
    """Score how well the factors can be read from every level of `model`, from `draws` posterior draws per image.

    Raises:
        InputError: there are not two factors or more, one is constant, or a category occurs in the test set alone.
    """
    train_v, test_v = _checked(train_factors, test_factors, names)
    with seeded(seed, f"factors {stream}"):
        train, test = represent(model, train_x, draws), represent(model, test_x, draws)
        random = np.random.default_rng(int(torch.randint(2**31, ())))
    pixels, new_pixels = (x.double().cpu().numpy() for x in (train_x, test_x))
    results = probe(pixels, new_pixels, train_v, test_v, names, 0)
    for t, (seen, new) in enumerate(zip(train, test, strict=True), start=1):
        results[str(Metric("mig", t))] = mutual_information_gap(seen.draws, new.draws, train_v, test_v, random)
        scaled = standardized(seen.mean, new.mean)
        results |= {
            str(Metric(f"dci_{name}", t)): score for name, score in dci(*scaled, train_v, test_v, random).items()
        }
        results |= probe(*scaled, train_v, test_v, names, t)
    return results


def _checked(train: np.ndarray, test: np.ndarray, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the factors with the category as numbers 0, 1, ... of the classes of the training set."""
    if len(names) < 2 or train.shape[1] != len(names):
        raise InputError(
            f"factor scores need ground-truth factors, a category and numbers: got {len(names)} names"
            f" for {train.shape[1]} columns; data.name=cave has them"
        )
    for split, factors in (("train", train), ("test", test)):
        for name, column in zip(names, factors.T, strict=True):
            if len(np.unique(column)) < 2:
                raise InputError(f"factor {name} is constant in the {split} set: nothing can be learnt of it")
    classes = np.unique(train[:, 0])
    if not np.isin(test[:, 0], classes).all():
        raise InputError(f"factor {names[0]} has categories in the test set that are not in the train set")
    coded = [np.column_stack([np.searchsorted(classes, v[:, 0]), v[:, 1:]]).astype(np.float64) for v in (train, test)]
    return coded[0], coded[1]


@torch.no_grad()
def represent(model: HierarchicalVAE, x: Float[Tensor, "n units"], draws: int) -> list[Representation]:
    """Return the representation of each level, the lowest first, in float64."""
    passes = [model.posterior(rows, draws) for rows in x.split(max(1, LATENT_ROWS // draws))]
    return [
        Representation(
            mean=torch.cat([q[t].mean.double().mean(0) for _, q in passes]).cpu().numpy(),
            draws=torch.cat([z[t + 1].double() for z, _ in passes], dim=1).cpu().numpy(),
        )
        for t in range(model.depth)
    ]
