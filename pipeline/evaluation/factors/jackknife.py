"""Standard errors of scores that are functions of sums over images: the delete-a-group jackknife.

Image i belongs to group i mod G. With s the score of all images and s_g that of all but group g,

    se^2 = (G - 1) / G sum_g (s_g - mean s_g)^2.

Efron, Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 11. What goes into the sums is held fixed.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float

from pipeline.evaluation.bounds import Estimate

__all__ = ["GROUPS", "leave_out", "spread", "summarize"]

GROUPS = 50  # or one an image, of fewer


def leave_out(parts: Float[np.ndarray, "groups ..."]) -> Float[np.ndarray, "subsets ..."]:
    """Return the sum over all groups, then the sums over all groups but one."""
    total = parts.sum(0, keepdims=True)
    return np.concatenate([total, total - parts])


def summarize(scores: Float[np.ndarray, " subsets"]) -> Estimate:
    """Return the score of all images, with the error that the scores of all but one group say it has."""
    return Estimate(float(scores[0]), spread(scores[1:]))


def spread(left_out: Float[np.ndarray, " groups"]) -> float:
    """Return the jackknife's standard error."""
    return math.sqrt((len(left_out) - 1) * float(left_out.var()))
