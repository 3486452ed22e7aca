"""Arrays of images on the disk: written some rows at a time, and read into memory unless there are too many of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from pipeline.errors import InputError
from pipeline.files import atomic_file

__all__ = ["NEARLY_BINARY", "blocks_of", "greyness_note", "read_arrays", "rows_of", "share_of_ends", "write_images"]

ROWS, BYTES = 4096, 2**26  # images at once, and the most bytes of them
ENDS = 0.1  # of the range at either end, where the pixels of an image that is nearly binary are
NEARLY_BINARY = 0.9  # share of the pixels there
MAPPED = 2**30  # bytes of arrays; larger ones stay on the disk, of which the system holds in memory what is used


def rows_of(values: int) -> int:
    """Return how many images of so many values are handled at once."""
    return max(1, min(ROWS, BYTES // max(1, values)))


def blocks_of(array: np.ndarray) -> Iterator[np.ndarray]:
    """Yield an array some rows at a time."""
    step = rows_of(math.prod(array.shape[1:]))
    return (array[start : start + step] for start in range(0, len(array), step))


def share_of_ends(pixels: np.ndarray, scale: int) -> float:
    """Return the share of stored pixels that are nearly black or nearly white."""
    grey = sum(int(((block > ENDS * scale) & (block < (1 - ENDS) * scale)).sum()) for block in blocks_of(pixels))
    return 1 - grey / max(1, pixels.size)


def greyness_note(pixels: np.ndarray, scale: int, binarization: str) -> list[str]:
    """Return a line where training pixels are not nearly binary before they are made so."""
    ends = share_of_ends(pixels, scale)
    if ends >= NEARLY_BINARY:
        return []
    return [
        f"{1 - ends:.0%} of the training pixels are grey, and data.binarization {binarization} makes them black or"
        " white; data.binarization none with model.likelihood discretized_logistic keeps all levels"
    ]


def write_images(
    folder: Path, counts: Mapping[str, int], units: int, blocks: Mapping[str, Iterable[np.ndarray]]
) -> None:
    """Write a file NAME.npy of uint8 [count, units] for each name, from its blocks of rows: all of them, or none."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as files:
            for name, count in counts.items():
                file, _ = files.enter_context(atomic_file(folder / f"{name}.npy"))
                about = {"descr": "|u1", "fortran_order": False, "shape": (count, units)}
                np.lib.format.write_array_header_1_0(file, about)
                for block in blocks[name]:
                    file.write(np.ascontiguousarray(block, np.uint8).data)
    except OSError as error:
        raise InputError.of_disk(error, error.filename or folder) from None


def read_arrays(folder: Path, names: Iterable[str]) -> dict[str, np.ndarray]:
    """Return the arrays NAME.npy of a folder; all are copied to memory unless they have more than `MAPPED` bytes.

    They are mapped first, so that a header cannot claim more than there is.
    """
    arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="c", allow_pickle=False) for name in names}  # noqa: TID251
    if sum(array.nbytes for array in arrays.values()) > MAPPED:
        return arrays
    return {name: np.array(array) for name, array in arrays.items()}
