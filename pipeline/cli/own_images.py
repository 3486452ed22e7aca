"""A study of a user's own images: what is there, the settings that suit it, and a sheet of examples."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import data
from pipeline.errors import InputError
from pipeline.files import write_bytes
from pipeline.params import Params
from pipeline.params.text import format_value
from pipeline.progress import reporting
from pipeline.study import Study

__all__ = ["SHEET", "describe_images", "own_settings"]

SHEET = "contact-sheet.png"
SIDE, PIXELS = 10, 64  # images of a row and of a column of the sheet, and their height on it


def own_settings(root: Path, path: Path, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a study of the images at `path`: those of the user, and others that suit the images."""
    if not path.exists():
        raise InputError(f"--data: '{path}' given; no such file or folder")
    fixed = {"data.name": "files", "data.path": os.path.relpath(path.absolute(), root)}
    for name in fixed.keys() & overrides.keys():
        raise InputError(f"--set: {name}: --data gives it; leave one of the two out")
    chosen = {**fixed, **overrides}
    with reporting(str(path)):
        of_data = {name: value for name, value in chosen.items() if name.startswith("data.")}
        params = Params.read_values(root / "params.yaml").override(of_data)
        suggested = data.suggest_settings(root, params.data, overrides.keys())
    if suggested:
        values = ", ".join(f"{name}={format_value(value)}" for name, value in suggested.items())
        print(f"settings that suit these images: {values}")
    return {**suggested, **chosen}


def describe_images(study: Study) -> None:
    """Read a new study's images as stage prepare does, print what is there, and draw some of them on a sheet."""
    from pipeline import figures

    with tempfile.TemporaryDirectory(dir=study.folder, prefix=".images-") as folder, reporting(study.params.data.name):
        splits = data.prepare(study.params.data, study.raw, Path(folder), study.root)
        for line in data.survey(splits):
            print(line)
        columns = min(SIDE, len(splits.train))
        count = min(SIDE**2, len(splits.train) // columns * columns)
        rows = np.linspace(0, len(splits.train) - 1, count).astype(int)
        grid = np.asarray(splits.train[rows]).reshape(-1, columns, *splits.shape)
    times = max(1, -(-PIXELS // max(splits.shape[1:])))
    sheet = figures.mosaic(grid.repeat(times, 3).repeat(times, 4), ink=False)
    write_bytes(study.folder / SHEET, sheet)
