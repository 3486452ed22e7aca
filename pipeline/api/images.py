"""Images as users have them, checked, and as models see them: rows of numbers from 0 to 1."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
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
        images = images.detach().cpu()
        array: np.ndarray = (images.float() if images.dtype == torch.bfloat16 else images).numpy()
        return array
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
    """Return images of a shape as rows [n, units] from 0 to 1.

    They are [n, height, width] in grey, [n, channels, height, width], or with the channels last.

    Raises:
        InputError: they have another shape or type, or lie outside; or there are none.
    """
    array = array_of(images, what)
    forms = _forms(shape)
    if array.shape[1:] not in forms or len(array) == 0:
        texts = " or ".join(f"[n, {', '.join(map(str, form))}]" for form in forms)
        raise InputError(f"{what}: shape {list(array.shape)} given; allowed: {texts}, n from 1")
    if _has_channels_last(array.shape, shape):
        array = np.moveaxis(array, -1, 1)
    return unit_interval(array, what).reshape(len(array), -1)


def in_form_of(images: Any, made: Any, shape: Shape) -> Any:
    """Return images [n, height, width] or [n, channels, height, width] in the form that others have."""
    form = np.shape(images)
    if _has_channels_last(form, shape):
        return made.movedim(1, -1) if isinstance(made, Tensor) else np.moveaxis(made, 1, -1)
    return made.reshape(form)


def _forms(shape: Shape) -> list[tuple[int, ...]]:
    channels, height, width = shape
    return [shape, (height, width)] + (
        [(height, width, channels)] if shape[1:] != (width, channels) or channels > 1 else []
    )


def _has_channels_last(form: tuple[int, ...], shape: Shape) -> bool:
    return shape[0] > 1 and form[1:] == (*shape[1:], shape[0]) != shape
