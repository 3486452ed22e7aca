"""Settings that suit a user's images, so that a new study of them runs as it is."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from pipeline.data.files import has_splits, read_files
from pipeline.data.storage import NEARLY_BINARY, share_of_ends
from pipeline.params import DataParams

__all__ = ["suggest_settings"]

SIZES = (32, 28, 16, 8)  # images of the first of them train on a processor in minutes
SAMPLE = 200  # images whose pixels are looked at
GREY = {"data.binarization": "none", "model.likelihood": "discretized_logistic", "model.grey_levels": 256}


def suggest_settings(root: Path, params: DataParams, fixed: Collection[str]) -> dict[str, Any]:
    """Return settings by dotted path, none of them at the paths that are `fixed`.

    Splits that the files have are taken as they are; images of several sizes, or of a large one, are cropped; grey
    levels and colour get a likelihood that has them, images that are nearly black and white do not.
    """
    settings: dict[str, Any] = {}
    if "data.protocol" not in fixed and has_splits(root / (params.path or "")):
        settings["data.protocol"] = "folders"
        params = params.model_copy(update={"protocol": "folders"})
    if not {"data.size", "data.fit"} & set(fixed):
        sizes = read_files(root, params.model_copy(update={"size": SIZES[0], "fit": "crop"})).sizes
        if len(sizes) > 1 or max(map(max, sizes)) > SIZES[0]:
            side = median(map(min, sizes))
            crop = {"size": next((size for size in SIZES if size <= side), SIZES[-1]), "fit": "crop"}
            settings |= {f"data.{name}": value for name, value in crop.items()}
            params = params.model_copy(update=crop)
    if not GREY.keys() & set(fixed):
        published = read_files(root, params)
        images = next(part.images for part in published.parts.values() if len(part.images))
        sample = images[np.linspace(0, len(images) - 1, min(SAMPLE, len(images))).astype(int)]
        if published.shape[0] > 1 or share_of_ends(sample, published.scale) < NEARLY_BINARY:
            settings |= GREY
    return settings
