"""Images as users have them, checked, and as models see them: rows of numbers from 0 to 1."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from pipeline.data import Shape
from pipeline.errors import InputError

__all__ = ["array_of", "as_rows", "in_form_of", "unit_interval"]

DTYPES = "uint8 from 0 to 255, float from 0 to 1, or bool"


def array_of(images: Any, what: str = "images") -> np.ndarray:
    """Return images as an array.

    Raises:
        InputError: they are no numbers.
    """
    if isinstance(images, Tensor):
        return images.detach().cpu().numpy()
    try:
        array = np.asarray(images)
    except ValueError as error:  # rows of different lengths
        raise InputError(f"{what}: not an array: {error}") from None
    if array.dtype.kind not in "bfiu":
        raise InputError(f"{what}: {array.dtype} given; allowed: {DTYPES}")
    return array


def unit_interval(array: np.ndarray, what: str = "images") -> np.ndarray:
    """Return pixels as float32 from 0 to 1; bytes of 0 and 1 alone are taken as such.

    Raises:
        InputError: they are of another type, or lie outside.
    """
    if array.dtype == bool:
        return array.astype(np.float32)
    if array.dtype == np.uint8:
        return array.astype(np.float32) / (1 if array.size and array.max() == 1 else 255)
    if array.dtype.kind != "f":
        raise InputError(f"{what}: {array.dtype} given; allowed: {DTYPES}")
    values = array.astype(np.float32)
    if not np.isfinite(values).all():
        raise InputError(f"{what}: values that are not finite given; allowed: {DTYPES}")
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    if low < 0 or high > 1:
        raise InputError(f"{what}: float from {low:.4g} to {high:.4g} given; allowed: {DTYPES}")
    return values


def as_rows(images: Any, shape: Shape, what: str = "images") -> np.ndarray:
    """Return images [n, height, width] or [n, channels, height, width] of a shape as rows [n, units] from 0 to 1.

    Raises:
        InputError: they have another shape or type, or lie outside; or there are none.
    """
    array = array_of(images, what)
    allowed = [shape, shape[1:]] if shape[0] == 1 else [shape]
    if array.shape[1:] not in allowed or len(array) == 0:
        forms = " or ".join(f"[n, {', '.join(map(str, form))}]" for form in allowed)
        raise InputError(f"{what}: shape {list(array.shape)} given; allowed: {forms}, n from 1")
    return unit_interval(array, what).reshape(len(array), -1)


def in_form_of(rows: Tensor, shape: Shape, images: Any = None) -> Any:
    """Return rows [n, units] as images: in the shape of `images`, as a tensor where they are one, else as an array."""
    form = shape if shape[0] > 1 else shape[1:]
    if images is not None:
        form = tuple(np.shape(images))[1:]
    made = rows.detach().reshape(-1, *form)
    return made.to(images.device) if isinstance(images, Tensor) else made.cpu().numpy()
