"""What a model draws: samples, reconstructions, and what each of its levels decides."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pipeline.figures.images import levels, reconstructions, samples
from pipeline.figures.style import save

__all__ = ["MODEL_IMAGES", "draw_model"]

MODEL_IMAGES = ("samples", "reconstructions", "levels")


def draw_model(folder: Path, arrays: Mapping[str, np.ndarray], *, name: str) -> list[Path]:
    """Write the three figures of `MODEL_IMAGES` into a folder; return their paths.

    Args:
        folder: to write into.
        arrays: what `pipeline.evaluation.pictures` has computed.
        name: of the model, in the titles.
    """
    ink = bool(arrays["ink"][0])
    shown = {key: arrays[key] / 255 for key in ("samples", "images", "reconstructions", "base", "redrawn")}
    drawings = {
        "samples": samples(shown["samples"], f"{name}: draws from the prior", ink=ink),
        "reconstructions": reconstructions(shown["images"], shown["reconstructions"], name, ink=ink),
        "levels": levels(shown["base"], shown["redrawn"], name, ink=ink),
    }
    for kind, drawing in drawings.items():
        save(drawing, folder / f"{kind}.png")
    return [folder / f"{kind}.png" for kind in MODEL_IMAGES]
