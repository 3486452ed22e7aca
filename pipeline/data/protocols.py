"""Protocols: which published images are for training, validation and test. Numbers compare only within one.

| protocol | training / validation / test |
|---|---|
| stratified | 70 / 15 / 15 % of each label's images, drawn by seed |
| standard | the first / the last 10,000 of the training part / the test part |
| burda | the first / the last 400 of the training part / the test part |
| static, published | the published parts; what was published in fewer is held out from a seeded shuffle |
| fractions | shares `data.fractions` of the images, drawn by seed, in the order of the files |
| folders | the folders, arrays or tables of these names |

burda: Importance Weighted Autoencoders (Burda, Grosse, Salakhutdinov 2016), https://arxiv.org/abs/1509.00519.
A choice maps each split to a published part and the rows of it, int64 [n].
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pipeline.data.dataset import Part
from pipeline.data.registry import DATASETS
from pipeline.errors import InputError
from pipeline.params import DataParams
from pipeline.text import plural

__all__ = ["PROTOCOLS", "check", "choose", "resolve"]

Choice = dict[str, tuple[str, np.ndarray]]
Protocol = Callable[[DataParams, dict[str, Part], np.random.Generator], Choice]

NAMES = ("train", "valid", "test")
FEWEST = 2  # images of a split
SHARE = 0.15  # of validation, and of test, in 'stratified'
MOST = 4 * 2**30  # bytes of rendered images


def _stratified(params: DataParams, parts: dict[str, Part], rng: np.random.Generator) -> Choice:
    labels = parts["all"].labels
    assert labels is not None
    split = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        share = round(SHARE * len(rows))
        split[rows] = 0
        split[rows[:share]] = 1
        split[rows[share : 2 * share]] = 2
    return {name: ("all", np.flatnonzero(split == number)) for number, name in enumerate(NAMES)}


def _last(count: int) -> Protocol:
    def choose(params: DataParams, parts: dict[str, Part], rng: np.random.Generator) -> Choice:
        rows = np.arange(len(parts["train"].images))
        test = np.arange(len(parts["test"].images))
        return {"train": ("train", rows[:-count]), "valid": ("train", rows[-count:]), "test": ("test", test)}

    return choose


def _published(params: DataParams, parts: dict[str, Part], rng: np.random.Generator) -> Choice:
    choice = {name: (name, np.arange(len(part.images))) for name, part in parts.items() if name != "all"}
    if holdout := DATASETS[params.name].holdout:
        source = "all" if "all" in parts else "train"
        rows = rng.permutation(len(parts[source].images))
        for name, count in reversed(holdout.items()):
            choice[name] = (source, rows[-count:])
            rows = rows[:-count]
        choice["train"] = (source, rows)
    return choice


def _fractions(params: DataParams, parts: dict[str, Part], rng: np.random.Generator) -> Choice:
    rows = rng.permutation(len(parts["all"].images))[: params.limit]
    ends = np.rint(np.cumsum(params.fractions)[:2] * len(rows)).astype(int)
    return {name: ("all", np.sort(own)) for name, own in zip(NAMES, np.split(rows, ends), strict=True)}


def _folders(params: DataParams, parts: dict[str, Part], rng: np.random.Generator) -> Choice:
    return {name: (name, np.sort(rng.permutation(len(parts[name].images))[: params.limit])) for name in NAMES}


PROTOCOLS: dict[str, Protocol] = {
    "stratified": _stratified,
    "standard": _last(10_000),
    "burda": _last(400),
    "static": _published,
    "published": _published,
    "fractions": _fractions,
    "folders": _folders,
}


def check(params: DataParams) -> None:
    """Raise `InputError` where the data set has no such protocol, lacks its path, or is too large to be rendered."""
    allowed = DATASETS[params.name].protocols
    if params.protocol not in ("auto", *allowed):
        raise InputError(
            f"data.protocol: '{params.protocol}' given for {params.name}; allowed: auto, {', '.join(allowed)}"
        )
    if params.name == "files" and params.path is None:
        raise InputError("data.path: null given for files; allowed: a folder or a file of images")
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
    choice = PROTOCOLS[resolve(params)](params, parts, rng)
    for name, (_, rows) in choice.items():
        if len(rows) < FEWEST:
            images = sum(len(part.images) for part in parts.values())
            raise InputError(
                f"data: {plural(images, 'image')}, of which {name} gets {len(rows)} by protocol {resolve(params)};"
                f" allowed: {FEWEST} or more in each of {', '.join(NAMES)}"
            )
    return choice
