"""Linear probes: what a linear map reads from a representation, on images it was not fitted to.

A number is read by ridge regression, its penalty chosen by leave-one-out error on the training images; the category by
multinomial logistic regression, its penalty chosen by cross-validation there. The score is `skill`.
Alain, Bengio, "Understanding intermediate layers using linear classifier probes" (2016), https://arxiv.org/abs/1610.01644

Units are scaled to deviation 1, as the scale of a level is the model's own choice; pixels are not, so that a rare pixel
does not get a large weight. A probe reads the mean, also of a unit whose posterior is much wider than its mean moves: a
level that carries a fraction of a nat can have a high probe, and the MIG beside it says so.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.model_selection import GridSearchCV

from pipeline.evaluation.bounds import Estimate
from pipeline.evaluation.factors.jackknife import summarize
from pipeline.evaluation.factors.skill import skill

__all__ = ["probe", "standardized"]

RIDGE = np.logspace(-2, 5, 15)
LOGISTIC = {"C": np.logspace(-4, 2, 7)}
FOLDS = 3
TOLERANCE = 1e-2  # of the logistic regression's gradient


def probe(
    train_z: Float[np.ndarray, "n units"],
    test_z: Float[np.ndarray, "m units"],
    train_v: Float[np.ndarray, "n factors"],
    test_v: Float[np.ndarray, "m factors"],
    names: Sequence[str],
    level: str,
) -> dict[str, Estimate]:
    """Return `probe/<factor>/<level>` and the mean over factors `probe/<level>`."""
    numbers = RidgeCV(RIDGE, alpha_per_target=True).fit(train_z, train_v[:, 1:])
    classifier = LogisticRegression(max_iter=1000, tol=TOLERANCE)
    category = GridSearchCV(classifier, LOGISTIC, scoring="neg_log_loss", cv=FOLDS).fit(train_z, train_v[:, 0])
    predicted = np.column_stack([category.predict(test_z), numbers.predict(test_z)])
    scores = skill(predicted, test_v, train_v)
    results = {f"probe/{name}/{level}": summarize(column) for name, column in zip(names, scores.T, strict=True)}
    return results | {f"probe/{level}": summarize(scores.mean(1))}


def standardized(
    train_z: Float[np.ndarray, "n units"], test_z: Float[np.ndarray, "m units"]
) -> tuple[Float[np.ndarray, "n units"], Float[np.ndarray, "m units"]]:
    """Return both with the training set's mean 0 and deviation 1; a constant unit stays 0."""
    centre, scale = train_z.mean(0), train_z.std(0)
    scale[scale == 0] = 1.0
    return (train_z - centre) / scale, (test_z - centre) / scale
