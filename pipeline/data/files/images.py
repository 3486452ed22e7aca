"""Images of a user's files that are decoded, converted and brought to their size when they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.data.files.arrays import to_bytes
from pipeline.data.files.picture import decode, pixels_at_size
from pipeline.data.files.tables import Table
from pipeline.params import DataParams

__all__ = ["Encoded", "Stored", "name_of"]


@dataclass(frozen=True)
class Encoded:
    """Images that are encoded one by one, of a folder or of tables; those at `rows` are used."""

    source: Sequence[Path] | Table
    rows: np.ndarray
    channels: int
    params: DataParams

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        images = ((self.source[row], name_of(self.source, row)) for row in self.rows[rows].tolist())
        return np.stack([decode(image, name, self.channels, self.params) for image, name in images])


@dataclass(frozen=True)
class Stored:
    """Images [n, c, h, w] of an array, as it is stored."""

    planes: np.ndarray
    factor: int  # by which bytes are multiplied: 255 where an array of 0 and 1 is stored
    channels: int
    params: DataParams
    where: str

    def __len__(self) -> int:
        return len(self.planes)

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        from PIL import Image

        planes = to_bytes(self.planes[rows], self.where) * np.uint8(self.factor)
        if planes.shape[1] == self.channels and self.params.size in (None, *_square(planes.shape)):
            return np.ascontiguousarray(planes).reshape(len(planes), -1)
        mode = "L" if self.channels == 1 else "RGB"
        images = (Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)) for image in planes)
        return np.stack([pixels_at_size(image.convert(mode), self.params) for image in images])


def name_of(source: Sequence[Path] | Table, row: int) -> str:
    """Return what an image is called in a message."""
    return source.name(row) if isinstance(source, Table) else str(source[row])


def _square(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the side of square images, nothing of others."""
    return (shape[-1],) if shape[-1] == shape[-2] else ()
