"""What a data set is: its files as published, how they are read, and how they may be split."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pipeline.params import DataParams

__all__ = ["Dataset", "Part", "Published", "Remote"]


@dataclass(frozen=True)
class Remote:
    """A published file: its name, where it lies, and what proves that it is the one."""

    file: str
    addresses: tuple[str, ...]
    bytes: int | None = None
    sha256: str | None = None
    md5: str | None = None

    @property
    def kind(self) -> str:
        """The checksum that counts: sha256 where it is known."""
        return "sha256" if self.sha256 else "md5"

    @property
    def checksum(self) -> str:
        """Its value, hexadecimal."""
        return self.sha256 or self.md5 or ""

    def fault(self, path: Path) -> str | None:
        """Say in what `path` differs from the published file; None where it does not. May raise `OSError`."""
        size = path.stat().st_size
        if self.bytes is not None and size != self.bytes:
            return f"{size} bytes instead of {self.bytes}"
        with path.open("rb") as file:
            found = hashlib.file_digest(file, self.kind).hexdigest()
        return None if found == self.checksum else f"{self.kind} {found} instead of {self.checksum}"


@dataclass(frozen=True)
class Part:
    """Images that were published together."""

    images: np.ndarray  # uint8 [n, D], 0..scale, rows of an image one after another
    labels: np.ndarray | None = None  # int64 [n]
    factors: np.ndarray | None = None  # float64 [n, F]


@dataclass(frozen=True)
class Published:
    """A data set as published: its parts ("train", "valid", "test"; "all" where it has but one), not yet split."""

    parts: dict[str, Part]
    shape: tuple[int, int]
    scale: int
    factor_names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Dataset:
    """An entry of `DATASETS`."""

    source: str  # title and link
    protocols: tuple[str, ...]  # allowed; the first is what 'auto' means
    read: Callable[[Path, DataParams], Published]  # from the folder of its files
    remotes: tuple[Remote, ...] = ()
    dark_on_light: bool = True  # 1 is the ink of a drawing, which figures show black; else the light of a photograph
    holdout: dict[str, int] = field(default_factory=dict)  # split -> number of images that 'published' holds out
