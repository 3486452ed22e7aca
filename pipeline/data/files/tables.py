"""Encoded images in Parquet files, or in the Arrow files of a folder that Hugging Face's `datasets` has saved."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data.files.folder import SPLIT_NAMES
from pipeline.errors import InputError
from pipeline.files import read_group, table_groups

__all__ = ["Table", "table_files"]

LABELS = ("label", "labels")  # names of the column


def table_files(path: Path) -> dict[str, list[Path]]:
    """Return the tables at a path by the split that names of files or folders say, `all` where they say none."""
    files = (
        [path] if path.is_file() else sorted(p for ending in ("parquet", "arrow") for p in path.rglob(f"*.{ending}"))
    )
    files = [file for file in files if file.suffix.lower() in (".parquet", ".arrow")]
    files = [file for file in files if not file.name.startswith("cache-")]
    by_split: dict[str, list[Path]] = {}
    for file in files:
        words = re.split(r"[^a-z]+", file.relative_to(path.parent if path.is_file() else path).as_posix().lower())
        splits = [split for split, names in SPLIT_NAMES.items() if set(names) & set(words)]
        by_split.setdefault(splits[0] if len(splits) == 1 else "all", []).append(file)
    return by_split


class Table:
    """The images of some tables with equal columns, of which one group of rows is in memory at a time."""

    def __init__(self, files: list[Path]) -> None:
        self.groups: list[tuple[Path, int]] = []  # a file, a group of rows in it
        counts = []
        for file in files:
            sizes = table_groups(file)
            self.groups += [(file, number) for number in range(len(sizes))]
            counts += sizes
        self.ends = np.cumsum(counts, dtype=np.int64)
        self.open_group, self.images, self.column = -1, list[Any](), ""

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def name(self, row: int) -> str:
        """Return what an image is called in a message."""
        file = self.groups[int(np.searchsorted(self.ends, row, side="right"))][0]
        first = next(number for number, (other, _) in enumerate(self.groups) if other == file)
        return f"{file}: image {row - (int(self.ends[first - 1]) if first else 0)}"

    @property
    def has_labels(self) -> bool:
        """Whether there is a column of labels of whatever type."""
        return any(name in read_group(*self.groups[0]).schema.names for name in LABELS) if self.groups else False

    def __getitem__(self, row: int) -> bytes:
        group = int(np.searchsorted(self.ends, row, side="right"))
        start = int(self.ends[group - 1]) if group else 0
        if group != self.open_group:
            batch = read_group(*self.groups[group])
            self.images, self.open_group = _encoded(batch, self.groups[group][0]), group
        content = self.images[row - start].as_py()
        content = content.get("bytes") if isinstance(content, dict) else content
        if not isinstance(content, bytes):
            raise InputError(f"{self.name(row)}: has no content; allowed: encoded images in the file itself")
        return content

    def labels(self) -> np.ndarray | None:
        """Return the column of labels, int64 [n], where there is one of whole numbers."""
        parts = []
        for file, number in self.groups:
            batch = read_group(file, number)
            column = next((batch.column(name) for name in LABELS if name in batch.schema.names), None)
            if column is None or column.null_count or not str(column.type).startswith(("int", "uint")):
                return None
            parts.append(column.to_numpy(zero_copy_only=False).astype(np.int64))
        return np.concatenate(parts) if parts else None


def _encoded(batch: Any, file: Path) -> Any:
    """Return the column of encoded images: bytes, or the structure of `bytes` and `path` of `datasets`."""
    columns = [
        name
        for name, kind in zip(batch.schema.names, batch.schema.types, strict=True)
        if str(kind) in ("binary", "large_binary") or str(kind).startswith("struct<bytes: binary")
    ]
    chosen = "image" if "image" in columns else columns[0] if len(columns) == 1 else ""
    if not chosen:
        have = ", ".join(batch.schema.names)[:100]
        raise InputError(f"{file}: has no single column of encoded images; its columns: {have}")
    return batch.column(chosen)
