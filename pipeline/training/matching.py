"""Matched comparisons: models of as many weights as each other, or trainings that are given as much time.

A variant is matched to the number in `compare.parameters` or `compare.seconds` and to no other variant, so that adding
a variant changes none of those that are there.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from itertools import pairwise

import torch

from pipeline.data import Splits
from pipeline.errors import InputError
from pipeline.models import build
from pipeline.params import ModelParams, Params
from pipeline.training.loop import fit, initial_model

__all__ = ["count_weights", "match_weights", "seconds_per_epoch"]

TOLERANCE = 0.01  # by which the number of weights may differ from `compare.parameters`
LARGEST = 65536  # units of a hidden layer
TIMED = 3  # epochs that are timed, after a first one, which also warms up caches and compiles
Hidden = tuple[tuple[int, ...], ...]  # hidden widths by rung


def count_weights(model: ModelParams, splits: Splits) -> int:
    """Return the number of weights of a model for these images, without allocating them."""
    with torch.device("meta"):
        built = build(model, torch.full((splits.train.shape[1],), 0.5), splits.shape)
    return sum(weights.numel() for weights in built.parameters())


def match_weights(params: Params, splits: Splits) -> Params:
    """Return the parameters with hidden widths scaled to `compare.parameters` weights, if `compare.match` asks for it.

    All hidden widths of a model are multiplied by one factor and rounded; of the roundings up and down at the best
    factor, the one whose number of weights is nearest is taken; where that is not near enough, one layer of one
    rung is changed further, by a quarter at most.

    Raises:
        InputError: no widths give a number of weights within 1%.
    """
    target = params.compare.parameters
    if params.compare.match != "parameters" or target is None:
        return params

    def weights(hidden: Hidden) -> int:
        return count_weights(params.model.model_copy(update={"hidden": hidden}), splits)

    def distance(hidden: Hidden) -> int:
        return abs(weights(hidden) - target)

    best = min(_candidates(params.model.hidden, target, weights), key=distance)
    if distance(best) > TOLERANCE * target:
        best = min(_neighbours(best, _networks(params.model), target, weights), key=distance)
    if distance(best) > TOLERANCE * target:
        raise InputError(
            f"compare.parameters: {target} given, but levels of {_units(params.model)} units"
            f" have {weights(best)} weights with hidden widths {[list(rung) for rung in best]}, the nearest to it;"
            f" allowed: a number that hidden widths from 1 to {LARGEST} reach within {TOLERANCE:.0%}"
        )
    return params.override({"model.hidden": best})


def _candidates(hidden: Hidden, target: int, weights: Callable[[Hidden], int]) -> list[Hidden]:
    """Return hidden widths of about as many weights as are wanted: all of one factor, and between two next ones."""
    widest = max((width for rung in hidden for width in rung), default=LARGEST)
    if weights(hidden) == target or widest == LARGEST:
        return [hidden]
    low, high = 0.0, 1.0
    while weights(_scaled(hidden, high)) < target and widest * high < LARGEST:
        low, high = high, 2 * high
    below, above = _scaled(hidden, low), _scaled(hidden, high)
    while any(b - a > 1 for some, more in zip(below, above, strict=True) for a, b in zip(some, more, strict=True)):
        middle = (low + high) / 2
        if weights(_scaled(hidden, middle)) <= target:
            low, below = middle, _scaled(hidden, middle)
        else:
            high, above = middle, _scaled(hidden, middle)
    candidates = [below]
    for rung, widths in enumerate(above):
        for layer, width in enumerate(widths):
            changed = [list(some) for some in candidates[-1]]
            changed[rung][layer] = width
            candidates.append(tuple(map(tuple, changed)))
    return candidates


def _units(model: ModelParams) -> str:
    return " + ".join(map(str, model.level_widths)) or "the data's"


def _networks(model: ModelParams) -> int:
    """Return how many rungs have networks of their own."""
    return 1 if model.inference == "diffusion" else model.levels


def _neighbours(hidden: Hidden, depth: int, target: int, weights: Callable[[Hidden], int]) -> list[Hidden]:
    """Return the hidden widths of each of `depth` rungs, and those with one layer changed by what is still missing."""
    hidden = tuple(hidden[min(rung, len(hidden) - 1)] for rung in range(depth))
    missing = target - weights(hidden)

    def changed(rung: int, layer: int, units: int) -> Hidden:
        widths = list(hidden[rung])
        widths[layer] = max(1, widths[layer] + units)
        return (*hidden[:rung], tuple(widths), *hidden[rung + 1 :])

    candidates = [hidden]
    for rung, widths in enumerate(hidden):
        for layer, width in enumerate(widths):
            units = round(missing / (weights(changed(rung, layer, 1)) - target + missing))
            if abs(units) <= max(3, width // 4):
                candidates.append(changed(rung, layer, units))
    return candidates


def _scaled(hidden: Hidden, factor: float) -> Hidden:
    return tuple(tuple(min(LARGEST, max(1, int(width * factor + 0.5))) for width in rung) for rung in hidden)


def seconds_per_epoch(params: Params, splits: Splits, seed: int, device: torch.device) -> float:
    """Train a model for a few epochs, discard it, and return the median time of an epoch, validation included."""
    model = initial_model(params.model, splits, seed)
    short = {"epochs": 1 + TIMED, "patience": None, "milestones": (), "schedule": "constant"}
    train = params.train.model_copy(update=short)
    seconds = [record.seconds for record in fit(model, splits, train, seed=seed, device=device)]
    return statistics.median(after - before for before, after in pairwise(seconds))
