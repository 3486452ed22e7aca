"""Disentanglement, completeness and informativeness, from forests that predict each factor from a level's mean.

With R_jk >= 0 the importance of unit j to the forest of factor k, sum_j R_jk = 1, and d units and K factors,

    disentanglement = sum_j rho_j [1 - H_K(R_j. / sum_k R_jk)],     rho_j = sum_k R_jk / K
    completeness    = 1/K sum_k [1 - H_d(R_.k)]

H_b being entropy to base b; informativeness is the mean over factors of the forests' `skill`, higher is better.
Eastwood, Williams, "A Framework for the Quantitative Evaluation of Disentangled Representations" (2018),
https://openreview.net/forum?id=By-7dz-AZ

Forests are extremely randomized trees that look at every unit at each split; R is the impurity that splits of a unit
remove. A category is predicted by its indicators: squared error summed over these is Gini impurity. R of finitely
many images is uneven also where nothing can be predicted, so that each of the two scores s stands here for

    (s - s_0) / (1 - s_0),     s_0 that of forests grown on the same images with their factors permuted.

Errors: the training images are cut in five, and a fifth of the trees is grown on all images but one of the fifths. R is
the mean of the five; each alone is the score of a jackknife that leaves out a fifth of the training images. As
each has a fifth of the trees only, the trees' own randomness is over-stated in the error. A level of one unit is
complete by definition.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from sklearn.tree import ExtraTreeRegressor

from pipeline.evaluation.bounds import Estimate
from pipeline.evaluation.factors.jackknife import spread, summarize
from pipeline.evaluation.factors.skill import skill

__all__ = ["concentration", "dci"]

FIFTHS = 5
TREES = 20  # grown without each fifth
LEAF = 5  # images, at least

Forest = list[ExtraTreeRegressor]


def dci(
    train_z: Float[np.ndarray, "n units"],
    test_z: Float[np.ndarray, "m units"],
    train_v: Float[np.ndarray, "n factors"],
    test_v: Float[np.ndarray, "m factors"],
    random: np.random.Generator,
) -> dict[str, Estimate]:
    """Return `disentanglement`, `completeness` and `informativeness`."""
    fifth = random.permutation(len(train_z)) % FIFTHS
    forests = _grow(train_z, train_v, fifth, random)
    importance = _importance(forests)
    chance = _importance(_grow(train_z, random.permutation(train_v), fifth, random))
    complete = Estimate(1.0, 0.0)
    if train_z.shape[1] > 1:
        complete = _above_chance(importance.swapaxes(1, 2), chance.swapaxes(1, 2))
    return {
        "disentanglement": _above_chance(importance, chance),
        "completeness": complete,
        "informativeness": summarize(skill(_predict(forests, test_z), test_v, train_v).mean(1)),
    }


def concentration(importance: Float[np.ndarray, "*batch rows columns"]) -> Float[np.ndarray, "*batch"]:
    """Return the mean over rows, by their weight, of 1 - H(row) / log(columns)."""
    weight = importance.sum(-1)
    p = importance / np.where(weight == 0, 1, weight)[..., None]
    entropy = -(p * np.log(np.where(p > 0, p, 1))).sum(-1) / np.log(importance.shape[-1])
    return np.asarray(((1 - entropy) * weight).sum(-1) / weight.sum(-1))


def _above_chance(importance: np.ndarray, chance: np.ndarray) -> Estimate:
    """Return (s - s_0) / (1 - s_0) of the mean importance, and its error from the fifths."""

    def score(r: np.ndarray, r_0: np.ndarray) -> np.ndarray:
        s, s_0 = concentration(r), concentration(r_0)
        return np.asarray((s - s_0) / (1 - s_0))

    return Estimate(float(score(importance.mean(0), chance.mean(0))), spread(score(importance, chance)))


def _grow(
    z: Float[np.ndarray, "n units"], v: Float[np.ndarray, "n factors"], fifth: np.ndarray, random: np.random.Generator
) -> list[list[Forest]]:
    """Return for each factor the forests grown without each fifth."""
    indicators = np.eye(int(v[:, 0].max()) + 1)[v[:, 0].astype(np.int64)]
    targets = [indicators, *v[:, 1:].T]
    return [[_forest(z[fifth != f], target[fifth != f], random) for f in range(FIFTHS)] for target in targets]


def _forest(z: np.ndarray, target: np.ndarray, random: np.random.Generator) -> Forest:
    seeds = random.integers(2**31, size=TREES)
    return [
        ExtraTreeRegressor(max_features=None, min_samples_leaf=LEAF, random_state=seed).fit(z, target) for seed in seeds
    ]


def _importance(forests: list[list[Forest]]) -> Float[np.ndarray, "fifths units factors"]:
    """Return R without each fifth; a forest that found nothing to split by is indifferent to all units."""
    found = np.array(
        [[np.mean([tree.feature_importances_ for tree in trees], 0) for trees in grown] for grown in forests]
    )
    total = found.sum(-1, keepdims=True)
    return np.where(total > 0, found / np.where(total > 0, total, 1), 1 / found.shape[-1]).transpose(1, 2, 0)


def _predict(forests: list[list[Forest]], z: Float[np.ndarray, "m units"]) -> Float[np.ndarray, "m factors"]:
    """Return what all trees of a factor together predict."""
    means = [np.mean([tree.predict(z) for trees in grown for tree in trees], axis=0) for grown in forests]
    return np.column_stack([means[0].argmax(1), *means[1:]])
