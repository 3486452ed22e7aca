"""Tables and images as files that MLflow's pages show: what its client writes by `log_table` and `log_image`.

Their names follow from what is shown, so that logging them again replaces them. A tag of the run says that they are
there: `TABLES`, whose value is that of `tables_tag`, and `IMAGES`, whose value is `True`.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.files import sha256

__all__ = ["IMAGES", "TABLES", "step_image", "table", "tables_tag"]

TABLES, IMAGES = "mlflow.loggedArtifacts", "mlflow.loggedImages"
SMALLEST, OF_TABLE = 280, 224  # pixels of the longer side of an image, to which small ones are enlarged
Files = dict[str, bytes]  # by artifact


def table(name: str, columns: Mapping[str, Sequence[Any]]) -> Files:
    """Return a table of numbers, texts and images, and the files of its images.

    An image is an array [channels, height, width] in [0, 1].
    """
    files: Files = {}
    for column, cells in columns.items():
        for row, cell in enumerate(cells):
            if isinstance(cell, np.ndarray):
                files[_image_path(name, column, row)] = _encoded(cell, "PNG", OF_TABLE)

    def shown(column: str, row: int, cell: Any) -> Any:
        if isinstance(cell, np.ndarray):
            path = _image_path(name, column, row)
            return {"type": "image", "filepath": path, "compressed_filepath": path}
        return cell

    shown_cells = ([shown(column, row, cell) for row, cell in enumerate(cells)] for column, cells in columns.items())
    rows = zip(*shown_cells, strict=True)
    content = {"columns": list(columns), "data": [list(row) for row in rows]}
    return files | {f"{name}.json": json.dumps(content).encode()}


def _image_path(name: str, column: str, row: int) -> str:
    return f"table_images/{name}/{column.replace(' ', '-')}-{row}.png"


def tables_tag(names: Iterable[str]) -> str:
    """Return the value of the tag `TABLES` of a run that has the tables of these names."""
    return json.dumps([{"path": f"{name}.json", "type": "table"} for name in names])


def step_image(key: str, step: int, time: int, image: np.ndarray) -> Files:
    """Return the files of an image [channels, height, width] in [0, 1] that is one of a series by `step`.

    The UI begins at step 0, and puts what stands before a `/` in the key above a section of charts.
    """
    content = _encoded(image, "PNG")
    path = f"images/{key.replace('/', '~')}+step+{step}+timestamp+{time}+{sha256([content])[:32]}"
    return {f"{path}.png": content, f"{path}+compressed.webp": _encoded(image, "WEBP")}


def _encoded(image: np.ndarray, form: str, smallest: int = SMALLEST) -> bytes:
    from PIL import Image

    times = max(1, -(-smallest // max(image.shape[1:])))
    pixels = np.rint(255 * np.clip(image, 0, 1)).astype(np.uint8).repeat(times, 1).repeat(times, 2)
    out = io.BytesIO()
    Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)).save(
        out, form, lossless=True, method=0
    )
    return out.getvalue()
