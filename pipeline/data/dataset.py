"""A data set: its published files, how they are read, and how they may be split."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from pipeline.params import DataParams

__all__ = ["Dataset", "Part", "Published", "Remote", "Shape"]

Shape = tuple[int, int, int]
"""Of an image: channels (1 for grey levels, 3 for red, green and blue), height, width."""


@dataclass(frozen=True)
class Remote:
    """A published file: its name, its addresses, and its size and checksum."""

    file: str
    addresses: tuple[str, ...]
    bytes: int | None = None
    sha256: str | None = None
    md5: str | None = None

    @property
    def checksum_type(self) -> str:
        """The name of the checksum that is verified: sha256 where it was published, else md5."""
        return "sha256" if self.sha256 else "md5"

    @property
    def checksum(self) -> str:
        """The checksum that is verified, hexadecimal."""
        return self.sha256 or self.md5 or ""

    def mismatch(self, path: Path) -> str | None:
        """Return how the file at `path` differs from the published one, or None; may raise `OSError`."""
        size = path.stat().st_size
        if self.bytes is not None and size != self.bytes:
            return f"{size} bytes instead of {self.bytes}"
        with path.open("rb") as file:
            actual = hashlib.file_digest(file, self.checksum_type).hexdigest()
        return None if actual == self.checksum else f"{self.checksum_type} {actual} instead of {self.checksum}"


@runtime_checkable
class Images(Protocol):
    """Images of a file, or a whole array of them."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: np.ndarray, /) -> np.ndarray:
        """Return the images at some positions, uint8 [k, D]."""


@dataclass(frozen=True)
class Part:
    """Images that were published together."""

    images: Images  # uint8 [n, D], 0..scale; channels one after another, of each its rows
    labels: np.ndarray | None = None  # int64 [n]
    factors: np.ndarray | None = None  # float64 [n, F]


@dataclass(frozen=True)
class Published:
    """A data set as published: its parts ("train", "valid", "test"; "all" where it has but one), not yet split."""

    parts: dict[str, Part]
    shape: Shape
    scale: int
    factor_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()  # on the files, a line each
    sizes: tuple[tuple[int, int], ...] = ()  # height and width of the files' images, where they may differ
    skipped: tuple[str, ...] = ()  # images that are left out, each with what is wrong


@dataclass(frozen=True)
class Dataset:
    """An entry of `DATASETS`."""

    source: str  # title and link
    protocols: tuple[str, ...]  # allowed; the first is what 'auto' means
    read: Callable[[Path, DataParams], Published]  # from the folder of its files
    remotes: tuple[Remote, ...] = ()
    dark_on_light: bool = True  # 1 is the ink of a drawing, which figures show black; else the light of a photograph
    holdout: dict[str, int] = field(default_factory=dict)  # split -> number of images that 'published' holds out
    local: bool = False  # `read` gets the project's root instead, where a user's own files lie
