"""The splits that a training needs, from what a user has: an array, a tensor, or the name of a data set."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import data
from pipeline.api.images import array_of, as_rows
from pipeline.data import Shape, Splits
from pipeline.environment import data_mirror, shared_root
from pipeline.errors import InputError
from pipeline.files import sha256
from pipeline.location import nearest_project
from pipeline.params import DataParams
from pipeline.text import did_you_mean

__all__ = ["prepared", "splits_of"]

SHARE = 0.15  # of the images of an array that are held out for validation
SCALE = 255  # of the intensities that are stored


def prepared(params: DataParams) -> Splits:
    """Return a data set of the registry, fetched and split as the stages do it."""
    root = nearest_project(Path.cwd())
    cache = Path.home() / ".cache" / "platos-cave" if root is None else shared_root(root) / ".cache"
    with tempfile.TemporaryDirectory() as folder:
        data.fetch(params, Path(folder) / "raw", cache, data_mirror())
        return data.prepare(params, Path(folder) / "raw", Path(folder) / "data")


def data_set(name: str) -> dict[str, Any]:
    """Return the parameters that choose a data set by its name.

    Raises:
        InputError: there is none of this name.
    """
    if name not in data.DATASETS:
        raise InputError(
            f"images: '{name}' given{did_you_mean(name, data.DATASETS)}; allowed: {', '.join(data.DATASETS)}"
        )
    return {"data.name": name}


def splits_of(images: Any, params: DataParams, valid: Any = None) -> Splits:
    """Return images [n, h, w] or [n, c, h, w] as splits without a test set; some are held out where `valid` is None.

    Raises:
        InputError: the images cannot be used.
    """
    array = array_of(images)
    shape = _shape(array)
    train = _stored(as_rows(array, shape))
    if valid is None:
        chosen = np.random.default_rng([params.seed, 0]).permutation(len(train))
        count = max(1, round(SHARE * len(train)))
        if count == len(train):
            raise InputError(f"images: {len(train)} given; allowed: 2 or more, some of which are for validation")
        train, held_out = train[np.sort(chosen[count:])], train[np.sort(chosen[:count])]
    else:
        held_out = _stored(as_rows(valid, shape, "valid"))
    if params.binarization != "none":
        held_out = data.binarize(held_out, SCALE, np.random.default_rng([params.seed, 1]))
    return Splits(
        name="array",
        protocol="none",
        binarization=params.binarization,
        train=train,
        valid=held_out,
        test=held_out[:0],
        labels={},
        factors={},
        factor_names=(),
        shape=shape,
        scale=SCALE,
        binary=params.binary,
        digest=sha256([str(shape).encode(), train.tobytes(), b"valid", held_out.tobytes()])[:32],
        dequantization=params.dequantization,
    )


def _shape(array: np.ndarray) -> Shape:
    if array.ndim == 3:
        return 1, array.shape[1], array.shape[2]
    if array.ndim != 4:
        raise InputError(f"images: shape {list(array.shape)} given; allowed: [n, height, width] or [n, channels, h, w]")
    return array.shape[1], array.shape[2], array.shape[3]


def _stored(rows: np.ndarray) -> np.ndarray:
    levels: np.ndarray = np.rint(SCALE * rows).astype(np.uint8)
    return levels
