"""The splits that a training needs, from what a user has: arrays, a path, or the name of a data set.

An array is written to a file and read as the stages read it, so that its splits are those of the same file in a study.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import data
from pipeline.api.images import array_of
from pipeline.data import Splits
from pipeline.environment import data_mirror, shared_root
from pipeline.errors import InputError
from pipeline.location import nearest_project
from pipeline.params import DataParams
from pipeline.text import did_you_mean

__all__ = ["PARTS", "prepare_splits", "source_of"]

PARTS = ("train", "valid", "test")


@contextmanager
def source_of(images: Any) -> Iterator[tuple[dict[str, Any], Path]]:
    """Yield the parameters that lead to images, `data.name`, and `data.path` of files, and what that is relative to.

    Raises:
        InputError: there are no such images; in the block, a line about a file of arrays names the arrays instead.
    """
    if isinstance(images, str) and images in data.DATASETS and images != "files":
        yield {"data.name": images}, Path.cwd()
    elif isinstance(images, str | Path):
        if not Path(images).exists():
            names = [name for name in data.DATASETS if name != "files"]
            hint = did_you_mean(str(images), names)
            raise InputError(f"images: '{images}' given{hint}; allowed: a folder or a file, or {', '.join(names)}")
        yield _files(Path(images).absolute())
    else:
        with tempfile.TemporaryDirectory() as folder:
            path = _write(images, Path(folder))
            try:
                yield _files(path)
            except InputError as error:
                raise InputError(str(error).replace(str(path), "images")) from None


def prepare_splits(params: DataParams, folder_of_path: Path) -> Splits:
    """Return the images that parameters lead to, fetched and split as the stages do it."""
    root = nearest_project(Path.cwd())
    cache = Path.home() / ".cache" / "platos-cave" if root is None else shared_root(root) / ".cache"
    with tempfile.TemporaryDirectory() as folder:
        data.fetch(params, Path(folder) / "raw", cache, data_mirror())
        return data.prepare(params, Path(folder) / "raw", Path(folder) / "data", folder_of_path)


def _files(path: Path) -> tuple[dict[str, Any], Path]:
    return {"data.name": "files", "data.path": path.name}, path.parent


def _write(images: Any, folder: Path) -> Path:
    """Write an array, or those of the splits, to a file."""
    if not isinstance(images, Mapping):
        np.save(folder / "images.npy", _bytes(array_of(images)), allow_pickle=False)  # noqa: TID251
        return folder / "images.npy"
    if set(images) != set(PARTS):
        raise InputError(f"images: arrays {', '.join(map(str, images)) or 'none'} given; allowed: {', '.join(PARTS)}")
    arrays = {name: _bytes(array_of(images[name], name)) for name in PARTS}
    np.savez(folder / "images.npz", allow_pickle=False, **arrays)
    return folder / "images.npz"


def _bytes(array: np.ndarray) -> np.ndarray:
    """Return an array of truth values as bytes of 0 and 255, any other as it is."""
    return 255 * array.astype(np.uint8) if array.dtype == bool else array
