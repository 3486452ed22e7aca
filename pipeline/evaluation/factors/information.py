"""The mutual information gap, of draws of the posterior.

    MIG = 1/K sum_k [I(z_j; v_k) - I(z_i; v_k)] / H(v_k),   j the best, i the second unit for factor k
    Chen, Li, Grosse, Duvenaud, "Isolating Sources of Disentanglement in VAEs" (2018), https://arxiv.org/abs/1802.04942

As there, z_j is a draw from the aggregate posterior q(z_j | v_k), not the mean: a unit of wide posterior says little
however its mean moves. As in Locatello et al., "Challenging Common Assumptions in the Unsupervised Learning of
Disentangled Representations" (2019), https://arxiv.org/abs/1811.12359, z_j falls into 20 bins; here these hold equally
many training draws each, so that I does not change under monotone maps of a unit. Numbers v_k become 10 classes of
equally many training images, and H is that of the class. Bins can only lower I: a unit that is a number v_k keeps
I = H, as two bins make a class; one that is a category loses what lies in a bin that two classes share.

A table of counts of independent z and v has I > 0, by about (20 - 1) (10 - 1) / 2n: 0.1 nats at 900 images and one
draw. So I and H stand here for

    (I - E_0) / (H - E_0),     E_0 = mean of I over permutations of the images' factors,

the chance correction of Vinh, Epps, Bailey, "Information theoretic measures for clusterings comparison" (2010),
https://jmlr.org/papers/v11/vinh10a.html: in the mean 0 at independence, 1 where z determines v. In between, at 900
pairs of Gaussians of correlation 0.3 to 0.99, its mean was off I / H by less than 0.005, I / H itself by up to 0.05.
The larger of two noises is above 0 too: j and i are chosen on the training images and measured on the test images,
so that the gap of a level that holds nothing of a factor is 0 in the mean, and may be negative.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from pipeline.evaluation.estimates import Estimate
from pipeline.evaluation.jackknife import GROUPS, leave_out, summarize

__all__ = ["adjusted_information", "bin_edges", "bin_shares", "discretize", "information", "mutual_information_gap"]

BINS = 20  # of a unit
CLASSES = 10  # of a factor that is a number
PERMUTATIONS = 20


def mutual_information_gap(
    train_z: Float[np.ndarray, "draws n units"],
    test_z: Float[np.ndarray, "draws m units"],
    train_v: Float[np.ndarray, "n factors"],
    test_v: Float[np.ndarray, "m factors"],
    random: np.random.Generator,
) -> Estimate:
    """Return the gap between the best and the second unit; a level's only unit has its whole information as gap."""
    edges = bin_edges(train_z)
    chosen = adjusted_information(bin_shares(train_z, edges), discretize(train_v, train_v), random)[0]
    scores = adjusted_information(bin_shares(test_z, edges), discretize(train_v, test_v), random)
    order = np.argsort(-chosen, axis=0)[:2]  # [2, factors]
    ranked = np.take_along_axis(scores, order[None], axis=1)  # [groups + 1, 2, factors]
    second = ranked[:, 1] if len(order) == 2 else 0.0
    return summarize((ranked[:, 0] - second).mean(1))


def adjusted_information(
    shares: Float[np.ndarray, "n units bins"], classes: Int[np.ndarray, "n factors"], random: np.random.Generator
) -> Float[np.ndarray, "subsets units factors"]:
    """Return (I - E_0) / (H - E_0) of each unit and factor, of all images and of all but one group."""
    orders = [random.permutation(len(shares)) for _ in range(PERMUTATIONS)]
    columns = []
    for column in classes.T:
        indicator = np.eye(column.max() + 1)[column]
        chance = np.mean([information(_tables(shares, indicator[order])) for order in orders], axis=0)
        groups = min(GROUPS, len(shares))
        parts = np.stack([_tables(shares[g::groups], indicator[g::groups]) for g in range(groups)])
        tables = leave_out(parts)
        entropy = -_plogp(_normalized(tables).sum(-1)).sum(-1)
        columns.append((information(tables) - chance) / (entropy - chance))
    return np.stack(columns, axis=-1)


def information(table: Float[np.ndarray, "*batch classes bins"]) -> Float[np.ndarray, "*batch"]:
    """Return I of the joint frequencies in nats, as they stand: biased upward."""
    p = _normalized(table)
    joint, rows, columns = _plogp(p).sum((-2, -1)), _plogp(p.sum(-1)).sum(-1), _plogp(p.sum(-2)).sum(-1)
    return np.asarray(joint - rows - columns)


def bin_edges(z: Float[np.ndarray, "draws n units"]) -> Float[np.ndarray, "inner units"]:
    """Return the inner edges of bins that hold equally many draws of a unit."""
    quantiles = np.arange(1, BINS) / BINS
    return np.asarray(np.quantile(z.reshape(-1, z.shape[-1]), quantiles, axis=0))


def bin_shares(
    z: Float[np.ndarray, "draws n units"], edges: Float[np.ndarray, "inner units"]
) -> Float[np.ndarray, "n units bins"]:
    """Return the share of each image's draws that falls into each bin."""
    shares = np.empty((*z.shape[1:], len(edges) + 1))
    for j, inner in enumerate(edges.T):
        bins = np.searchsorted(inner, z[..., j], side="right")
        shares[:, j] = np.stack([(bins == b).mean(0) for b in range(len(edges) + 1)], axis=-1)
    return shares


def discretize(
    train: Float[np.ndarray, "n factors"], v: Float[np.ndarray, "m factors"]
) -> Int[np.ndarray, "m factors"]:
    """Return the classes of v: the category itself, and the training set's quantiles that a number lies between."""
    edges = np.quantile(train[:, 1:], np.arange(1, CLASSES) / CLASSES, axis=0)
    numbers = [np.searchsorted(inner, column, side="right") for inner, column in zip(edges.T, v[:, 1:].T, strict=True)]
    return np.column_stack([v[:, 0].astype(np.int64), *numbers])


def _tables(shares: np.ndarray, indicator: np.ndarray) -> Float[np.ndarray, "units classes bins"]:
    """Return how often each class meets each bin of each unit."""
    n, units, bins = shares.shape
    counts = indicator.T @ shares.reshape(n, units * bins)
    return np.asarray(counts.reshape(-1, units, bins).swapaxes(0, 1))


def _normalized(table: np.ndarray) -> np.ndarray:
    return np.asarray(table / table.sum((-2, -1), keepdims=True))


def _plogp(p: np.ndarray) -> np.ndarray:
    # What rounding leaves of an empty cell may be negative.
    return np.where(p > 1e-15, p * np.log(np.maximum(p, 1e-15)), 0.0)
