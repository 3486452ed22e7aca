"""How much of a factor a prediction explains.

    skill = 1 - (mean loss of the prediction) / (mean loss of the best constant of the training set)

with squared error for a number, which is R^2, and the share of wrong answers for the category, which is
(accuracy - chance) / (1 - chance), chance being the accuracy of always naming the commonest class. Both are 1 at best
and 0 for the constant, so that their mean over factors makes sense. A fit that does worse than the constant is below 0.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from pipeline.evaluation.factors.jackknife import GROUPS, leave_out

__all__ = ["skill"]


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
