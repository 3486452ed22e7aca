"""The pictures of a model as rows of small images with a label each, for the page."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

__all__ = ["MOST_MODELS", "groups"]

COLUMNS = 10  # images of a row
LEVELS = 6  # levels that are shown, from the top and the bottom
MOST_MODELS = 12  # variants whose pictures a page has
CELL = 46  # CSS pixels of an image


@dataclass(frozen=True)
class Strip:
    """A row of images, or several."""

    label: str
    uri: str
    width: int  # CSS pixels
    alt: str


@dataclass(frozen=True)
class Group:
    """Rows that belong together, and what they show."""

    title: str
    caption: str
    strips: list[Strip]


def groups(variant: str, arrays: Mapping[str, np.ndarray]) -> list[Group]:
    """Return what a model has drawn; `arrays` are those of `pipeline.evaluation.pictures`."""
    ink, depth = bool(arrays["ink"][0]), len(arrays["redrawn"])

    def strip(label: str, images: np.ndarray, alt: str) -> Strip:
        return _strip(label, images if images.ndim == 5 else images[None], f"{variant}: {alt}", ink)

    def rows(name: str) -> np.ndarray:
        return arrays[name][:COLUMNS]

    shown = sorted({*range(1, depth + 1)[: LEVELS // 2], *range(1, depth + 1)[-(LEVELS // 2) :]})
    names = {level: _name(level, depth) for level in shown}
    levels: list[Strip] = []
    for level in shown:
        images = _beside(arrays["base"], arrays["redrawn"][level - 1])
        deviation = float(arrays["redrawn"][level - 1].std(axis=1).mean() / 255)
        text = (
            f"draws, and beside each {images.shape[1] - 1} images in which the noise of z{level} alone is drawn again"
        )
        levels.append(strip(f"{names[level]}: pixels vary by {deviation:.3f}", images, f"{text}, by {deviation:.3f}"))
    traversals: list[Strip] = []
    for level in shown:
        units, nats = arrays[f"traversals/z{level}/units"], arrays[f"nats/z{level}"]
        for unit, nat, images in zip(units, nats, arrays[f"traversals/z{level}"], strict=False):
            label = f"z{level}, unit {unit + 1}: {nat:.2f} nats"
            traversals.append(strip(label, images, f"{len(images)} images along unit {unit + 1} of z{level}"))
    between = [
        strip(
            f"from {names[level]} up",
            arrays["interpolations"][level - 1],
            f"{arrays['interpolations'].shape[1]} ways from one test image to another in z{level} and the levels above",
        )
        for level in shown
    ]
    ends = []
    for name, word in (("best", "highest"), ("worst", "lowest")):
        values = -arrays[f"{name}/nll"][:COLUMNS]
        span = f"{values[0]:.1f} to {values[-1]:.1f} nats"
        ends.append(strip(f"{word}: {span}", rows(name), f"the test images with the {word} log p(x), {span}"))
    some = len(rows("images"))
    return [
        Group(
            "Real and drawn images",
            "Drawn: the mean of p(x | z_1), all levels drawn from the model's prior, no data going in. Below each the"
            " training image that is nearest to it (Euclidean distance of grey levels): a model that copies its"
            " training set shows it here.",
            [
                strip("test images", rows("images"), f"{some} test images"),
                strip("drawn by the model", rows("samples"), f"{some} images drawn from the prior"),
                strip("nearest training images", rows("nearest"), "the training image nearest to each of them"),
            ],
        ),
        Group(
            "Reconstructions",
            "Below each test image the mean of p(x | z_1), with z_1 drawn from q(z_1 | x).",
            [
                strip("test images", rows("images"), f"{some} test images"),
                strip("reconstructed", rows("reconstructions"), "their reconstructions"),
            ],
        ),
        Group(
            "The images it finds likeliest and least likely",
            "Test images with the highest and the lowest estimate of log p(x).",
            ends,
        ),
        Group(
            "What each level decides",
            "The first image of a row is a draw from the prior; beside it the noise of one level alone is drawn again,"
            " levels above keeping their values and levels below their noise. Where images hardly change, the level"
            " decides little. A diffusion is shown as a chain of 6 levels at equal steps of log SNR.",
            levels,
        ),
        Group(
            "One unit at a time",
            "The noise of one unit goes from -2.5 to 2.5 standard deviations, all other noise of all levels being 0."
            " The units of each level with the most nats are shown.",
            traversals,
        ),
        Group(
            "From one image to another",
            "z_t and the levels above it are led from the posterior means of one test image to those of another; the"
            " levels below follow as the model's means. From z_1 up all levels move and both ends are reconstructions;"
            " from the top alone one sees what the top level knows.",
            between,
        ),
    ]


def _beside(base: np.ndarray, redrawn: np.ndarray) -> np.ndarray:
    import numpy as np

    return np.concatenate([base[:, None], redrawn[:, : COLUMNS - 1]], axis=1)


def _name(level: int, depth: int) -> str:
    where = ["next to x"] if level == 1 and depth > 1 else []
    where += ["top"] if level == depth > 1 else []
    return f"z{level}{f' ({where[0]})' if where else ''}"


def _strip(label: str, images: np.ndarray, alt: str, ink: bool) -> Strip:
    from pipeline import figures

    uri = "data:image/png;base64," + base64.b64encode(figures.mosaic(images, ink=ink)).decode()
    return Strip(label, uri, images.shape[1] * CELL, alt)
