"""Images of a user's files that are decoded, converted and brought to their size when they are asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.data.dataset import Shape
from pipeline.data.files.arrays import to_bytes
from pipeline.data.files.picture import decode, pixels_at_size
from pipeline.data.files.tables import Table
from pipeline.errors import InputError
from pipeline.params import DataParams

__all__ = ["Encoded", "Stored", "name_of"]


@dataclass(frozen=True)
class Encoded:
    """Images that are encoded one by one, of a folder or of tables; those at `rows` are used."""

    source: Sequence[Path] | Table
    rows: np.ndarray
    shape: Shape
    params: DataParams

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        images = ((self.source[row], name_of(self.source, row)) for row in self.rows[rows].tolist())
        return np.stack([self._decoded(image, name) for image, name in images])

    def _decoded(self, image: Path | bytes, name: str) -> np.ndarray:
        pixels = decode(image, name, self.shape[0], self.params)
        if len(pixels) != math.prod(self.shape):
            raise InputError(f"{name}: its pixels are not as many as its header says")
        return pixels


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
