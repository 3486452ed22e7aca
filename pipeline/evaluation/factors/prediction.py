"""What can be predicted of the factors from a representation: by linear probes, and by forests of its units.

How much of a factor a prediction explains is its

    skill = 1 - (mean loss of the prediction) / (mean loss of the best constant of the training set)

with squared error for a number, which is R^2, and the share of wrong answers for the category, which is
(accuracy - chance) / (1 - chance), chance being the accuracy of always naming the commonest class. Both are 1 at best
and 0 for the constant, so that their mean over factors makes sense. A fit that does worse than the constant is below 0.

Linear probes say what a linear map reads from a representation, on images it was not fitted to. A number is read by
ridge regression, its penalty chosen by leave-one-out error on the training images; the category by multinomial logistic
regression, its penalty chosen by cross-validation there. The score is `skill`. Alain, Bengio, "Understanding
intermediate layers using linear classifier probes" (2016), https://arxiv.org/abs/1610.01644

Units are scaled to deviation 1, as the scale of a level is the model's own choice; pixels are not, so that a rare pixel
does not get a large weight. A probe reads the mean, also of a unit whose posterior is much wider than its mean moves: a
level that carries a fraction of a nat can have a high probe, and the MIG beside it shows that.

Disentanglement, completeness and informativeness come from forests that predict each factor from a level's mean. With
R_jk >= 0 the importance of unit j to the forest of factor k, sum_j R_jk = 1, and d units and K factors,

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

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.model_selection import GridSearchCV
from sklearn.tree import ExtraTreeRegressor

from pipeline.evaluation.estimates import Estimate
from pipeline.evaluation.jackknife import GROUPS, leave_out, standard_error, summarize
from pipeline.metric import Metric

__all__ = ["concentration", "dci", "probe", "skill", "standardized"]

RIDGE = np.logspace(-2, 5, 15)
LOGISTIC = {"C": np.logspace(-4, 2, 7)}
FOLDS = 3
TOLERANCE = 1e-2  # of the logistic regression's gradient
FIFTHS = 5
TREES = 20  # grown without each fifth
LEAF = 5  # images, at least

Forest = list[ExtraTreeRegressor]


def skill(
    predicted: Float[np.ndarray, "m factors"],
    v: Float[np.ndarray, "m factors"],
    train_v: Float[np.ndarray, "n factors"],
) -> Float[np.ndarray, "subsets factors"]:
    """Return the skill by factor, of all images and of all but one group of them."""
    constant = train_v.mean(0)
    constant[0] = np.bincount(train_v[:, 0].astype(np.int64)).argmax()
    losses = np.stack([_loss(predicted, v), _loss(constant, v)], axis=1)  # [m, 2, factors]
    groups = min(GROUPS, len(v))
    sums = leave_out(np.stack([losses[g::groups].sum(0) for g in range(groups)]))
    return np.asarray(1 - sums[:, 0] / sums[:, 1])


def _loss(predicted: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return the loss of each image and factor, the first of which is the category."""
    loss = np.square(predicted - v)
    loss[:, 0] = predicted[..., 0] != v[:, 0]
    return np.asarray(loss)


def probe(
    train_z: Float[np.ndarray, "n units"],
    test_z: Float[np.ndarray, "m units"],
    train_v: Float[np.ndarray, "n factors"],
    test_v: Float[np.ndarray, "m factors"],
    names: Sequence[str],
    level: int,
) -> dict[str, Estimate]:
    """Predict each factor by a linear map of z (ridge, logistic regression); return the skill on test images.

    The keys are `probe/<factor>/<level>` and, for the mean over factors, `probe/<level>`.
    """
    numbers = RidgeCV(RIDGE, alpha_per_target=True).fit(train_z, train_v[:, 1:])
    classifier = LogisticRegression(max_iter=1000, tol=TOLERANCE)
    category = GridSearchCV(classifier, LOGISTIC, scoring="neg_log_loss", cv=FOLDS).fit(train_z, train_v[:, 0])
    predicted = np.column_stack([category.predict(test_z), numbers.predict(test_z)])
    scores = skill(predicted, test_v, train_v)
    results = {
        str(Metric(f"probe/{name}", level)): summarize(column) for name, column in zip(names, scores.T, strict=True)
    }
    return results | {str(Metric("probe", level)): summarize(scores.mean(1))}


def standardized(
    train_z: Float[np.ndarray, "n units"], test_z: Float[np.ndarray, "m units"]
) -> tuple[Float[np.ndarray, "n units"], Float[np.ndarray, "m units"]]:
    """Return both with the training set's mean 0 and deviation 1; a constant unit stays 0."""
    centre, scale = train_z.mean(0), train_z.std(0)
    scale[scale == 0] = 1.0
    return (train_z - centre) / scale, (test_z - centre) / scale


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

    return Estimate(float(score(importance.mean(0), chance.mean(0))), standard_error(score(importance, chance)))


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
    """Return R without each fifth; a forest without a split is indifferent to all units."""
    raw = np.array(
        [[np.mean([tree.feature_importances_ for tree in trees], 0) for trees in grown] for grown in forests]
    )
    total = raw.sum(-1, keepdims=True)
    return np.where(total > 0, raw / np.where(total > 0, total, 1), 1 / raw.shape[-1]).transpose(1, 2, 0)


def _predict(forests: list[list[Forest]], z: Float[np.ndarray, "m units"]) -> Float[np.ndarray, "m factors"]:
    """Return what all trees of a factor together predict."""
    means = [np.mean([tree.predict(z) for trees in grown for tree in trees], axis=0) for grown in forests]
    return np.column_stack([means[0].argmax(1), *means[1:]])
