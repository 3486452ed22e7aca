"""Images in `.npy` and `.npz` files: bytes, or floats in 0..1, in one of three orders of their axes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.data.files.folder import SPLIT_NAMES
from pipeline.errors import InputError

__all__ = ["as_planes", "check_labels", "read_arrays", "to_bytes"]

LAYOUTS = {"nhw": "[n, h, w]", "nchw": "[n, c, h, w]", "nhwc": "[n, h, w, c]"}
LABELS = ("labels", "label", "y")  # names of an array
CHECKED = 2**24  # values that are looked at at a time


def read_arrays(path: Path) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return the images and the labels of a file, or of a folder of `.npy` files, by split; `all` where there is none.

    The arrays of an `.npz` are called `images` and `labels`, or `train`, `valid`, `test`, `labels_train`, ...; where
    a file has one array alone, its name is of no importance.
    """
    named = _arrays(path)
    labels = {}
    for split in ("all", *SPLIT_NAMES):
        words = SPLIT_NAMES.get(split, ("",))
        names = {f"{label}_{word}".strip("_") for label in LABELS for word in words}
        for name in names & set(named):
            labels[split] = named.pop(name)
    if len(named) == 1:
        only = next(iter(labels.values())) if len(labels) == 1 else labels.get("all")
        return {"all": next(iter(named.values()))}, {} if only is None else {"all": only}
    if "images" in named:
        return {"all": named["images"]}, labels
    images = {split: named[name] for split, names in SPLIT_NAMES.items() for name in names if name in named}
    if len(images) < len(SPLIT_NAMES):
        have = ", ".join(sorted(named))[:100] or "none"
        raise InputError(f"{path}: its arrays are {have}; allowed: images, with labels, or train, valid and test")
    return images, labels


def _arrays(path: Path) -> dict[str, np.ndarray]:
    if path.is_dir():
        return {file.stem: _load(file)[""] for file in sorted(path.glob("*.npy"))}
    arrays = _load(path)
    return {"images": arrays[""]} if "" in arrays else arrays


def _load(file: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a file by name; that of an `.npy`, which stays on the disk until it is used, has none."""
    try:
        content = np.load(file, mmap_mode="r", allow_pickle=False)  # noqa: TID251
        if isinstance(content, np.ndarray):
            return {"": content}
        with content:
            return {name: content[name] for name in content.files}
    except MemoryError:
        raise
    except Exception as error:  # whatever a damaged file makes NumPy raise
        if "allow_pickle" in str(error) or "Python objects" in str(error):
            raise InputError(f"{file}: has an array of Python objects; allowed: uint8, or floats in 0..1") from None
        text = " ".join(str(error).split())[:200]
        raise InputError(f"{file}: not readable as a NumPy file: {text}") from None


def as_planes(images: np.ndarray, layout: str, where: str) -> tuple[np.ndarray, str]:
    """Return images as [n, c, h, w], a view, and the layout: `layout`, or for `auto` what the shape allows alone."""
    shape, possible = list(images.shape), list[str]()
    if images.ndim == 3:
        possible = ["nhw"]
    elif images.ndim == 4:
        possible = [name for name, axis in (("nchw", 1), ("nhwc", 3)) if shape[axis] in (1, 3)]
    if 0 in shape[1:]:
        possible = []
    if layout != "auto":
        possible = [layout] if layout in possible else []
    if not possible:
        allowed = LAYOUTS.get(layout, "[n, h, w], [n, c, h, w] or [n, h, w, c]")
        raise InputError(f"{where}: images of the shape {shape}; allowed: {allowed}, with 1 or 3 channels")
    if len(possible) > 1:
        raise InputError(
            f"{where}: images of the shape {shape}, where the channels may be the second axis or the last; set"
            " data.layout to nchw or nhwc"
        )
    if possible == ["nhw"]:
        return images[:, None], "nhw"
    return (images.transpose(0, 3, 1, 2) if possible == ["nhwc"] else images), possible[0]


def to_bytes(images: np.ndarray, where: str) -> np.ndarray:
    """Return some images as uint8, floats multiplied by 255 and rounded; raise `InputError` where they do not fit."""
    if images.dtype == np.uint8:
        return images
    if images.dtype == np.bool_:
        return images * np.uint8(255)
    if images.dtype.kind != "f":
        raise InputError(f"{where}: images of the type {images.dtype}; allowed: uint8, or floats in 0..1")
    if not np.isfinite(images).all():
        raise InputError(f"{where}: images with values that are not finite (NaN or infinite); allowed: 0..1")
    low, high = float(images.min()), float(images.max())
    if low < 0 or high > 1:
        raise InputError(f"{where}: images of floats from {low:.4g} to {high:.4g}; allowed: 0..1, or uint8 in 0..255")
    return np.rint(255 * images.astype(np.float64)).astype(np.uint8)


def check_labels(labels: np.ndarray, count: int, where: str) -> np.ndarray:
    """Return labels as int64 [n]; raise `InputError` where they are not one whole number an image."""
    if labels.shape != (count,) and labels.shape != (count, 1):
        raise InputError(f"{where}: labels of the shape {list(labels.shape)} for {count} images; allowed: [{count}]")
    if labels.dtype.kind not in "iub":
        raise InputError(f"{where}: labels of the type {labels.dtype}; allowed: whole numbers")
    return labels.reshape(-1).astype(np.int64)
