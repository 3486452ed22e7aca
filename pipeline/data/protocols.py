"""Protocols: which published images are for training, validation and test. Numbers compare only within one.

| protocol | training / validation / test |
|---|---|
| stratified | 70 / 15 / 15 % of each label's images, drawn by seed |
| standard | the first / the last 10,000 of the training part / the test part |
| burda | the first / the last 400 of the training part / the test part |
| static, published | the published parts; what was published in fewer is set aside from a seeded shuffle |

burda: Importance Weighted Autoencoders (Burda, Grosse, Salakhutdinov 2016), https://arxiv.org/abs/1509.00519.
A choice maps each split to a published part and the rows of it, int64 [n].
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pipeline.data.dataset import Dataset, Part
from pipeline.data.registry import DATASETS
from pipeline.errors import InputError
from pipeline.params import DataParams

__all__ = ["PROTOCOLS", "check", "choose", "resolve"]

Choice = dict[str, tuple[str, np.ndarray]]
Protocol = Callable[[Dataset, dict[str, Part], np.random.Generator], Choice]

SHARE = 0.15  # of validation, and of test, in 'stratified'
MOST = 4 * 2**30  # bytes of rendered images


def _stratified(dataset: Dataset, parts: dict[str, Part], rng: np.random.Generator) -> Choice:
    labels = parts["all"].labels
    assert labels is not None
    split = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        share = round(SHARE * len(rows))
        split[rows] = 0
        split[rows[:share]] = 1
        split[rows[share : 2 * share]] = 2
    return {name: ("all", np.flatnonzero(split == number)) for number, name in enumerate(("train", "valid", "test"))}


def _last(count: int) -> Protocol:
    def choose(dataset: Dataset, parts: dict[str, Part], rng: np.random.Generator) -> Choice:
        rows = np.arange(len(parts["train"].images))
        test = np.arange(len(parts["test"].images))
        return {"train": ("train", rows[:-count]), "valid": ("train", rows[-count:]), "test": ("test", test)}

    return choose


def _published(dataset: Dataset, parts: dict[str, Part], rng: np.random.Generator) -> Choice:
    choice = {name: (name, np.arange(len(part.images))) for name, part in parts.items() if name != "all"}
    if dataset.holdout:
        source = "all" if "all" in parts else "train"
        rows = rng.permutation(len(parts[source].images))
        for name, count in reversed(dataset.holdout.items()):
            choice[name] = (source, rows[-count:])
            rows = rows[:-count]
        choice["train"] = (source, rows)
    return choice


PROTOCOLS: dict[str, Protocol] = {
    "stratified": _stratified,
    "standard": _last(10_000),
    "burda": _last(400),
    "static": _published,
    "published": _published,
}


def check(params: DataParams) -> None:
    """Raise `InputError` where the data set does not have the protocol, or is too large to be rendered."""
    allowed = DATASETS[params.name].protocols
    if params.protocol not in ("auto", *allowed):
        raise InputError(
            f"data.protocol: '{params.protocol}' given for {params.name}; allowed: auto, {', '.join(allowed)}"
        )
    size = params.cave.images * params.cave.size**2
    if params.name == "cave" and size > MOST:
        raise InputError(
            f"data.cave: {params.cave.images} images of {params.cave.size}x{params.cave.size} pixels given;"
            f" allowed: {MOST} pixels in all"
        )


def resolve(params: DataParams) -> str:
    """Return the checked protocol's name, never 'auto'."""
    check(params)
    return DATASETS[params.name].protocols[0] if params.protocol == "auto" else params.protocol


def choose(params: DataParams, parts: dict[str, Part]) -> Choice:
    """Choose the images of every split; drawn from the seed where the protocol draws."""
    rng = np.random.default_rng([params.seed, 0])
    return PROTOCOLS[resolve(params)](DATASETS[params.name], parts, rng)
