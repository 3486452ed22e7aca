"""The image files of a folder, and the labels that its sub-folders are."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.errors import InputError

__all__ = ["SPLIT_NAMES", "image_files", "labels_of", "last_change", "split_folders"]

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
SPLIT_NAMES = {"train": ("train", "training"), "valid": ("valid", "validation", "val", "dev"), "test": ("test",)}
SPLIT_WORDS = frozenset(word for words in SPLIT_NAMES.values() for word in words)
CACHED = re.compile(r"/files/md5/[0-9a-f]{2}/[0-9a-f]{30}$")  # where DVC keeps the files that it tracks


def image_files(folder: Path) -> tuple[list[Path], int]:
    """Return the images below a folder in the order of their names, and how many other files are there.

    Raises:
        InputError: a folder cannot be read, or a link leads out of the folder or to another one; DVC's own links are
            followed.
    """
    base, images, others = folder.resolve(), list[Path](), 0
    for at, folders, files in os.walk(folder, onerror=_refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in [*folders, *sorted(files)]:
            path = Path(at, name)
            if path.is_symlink():
                _check_link(path, base)
            if name in folders or name.startswith("."):
                continue
            if name.lower().endswith(SUFFIXES):
                images.append(path)
            else:
                others += 1
    return images, others


def _refuse(error: OSError) -> None:
    raise InputError.of_disk(error, error.filename, "read") from None


def _check_link(path: Path, base: Path) -> None:
    target = path.resolve()
    if CACHED.search(target.as_posix()):
        return
    if not target.is_relative_to(base):
        raise InputError(f"{path}: a link that leads out of the folder, to {target}; allowed: files within it")
    if not target.is_file():
        raise InputError(f"{path}: a link to {target}, which is no file; allowed: files within the folder")


def last_change(path: Path) -> float:
    """Return the time of the last change of a file, or of any file or folder below a folder, in seconds."""
    below = (Path(at, name) for at, folders, files in os.walk(path) for name in (*folders, *files))
    return max(item.lstat().st_mtime for item in (path, *below))


def split_folders(folder: Path) -> dict[str, Path]:
    """Return by split the sub-folders whose names are those of splits."""
    return {split: folder / name for split, names in SPLIT_NAMES.items() for name in names if (folder / name).is_dir()}


def _label(file: Path, base: Path) -> str:
    """Return the sub-folder that an image lies in, without the folder of a split around it."""
    parts = file.parent.relative_to(base).parts
    return "/".join(parts[1:] if parts[:1] and parts[0] in SPLIT_WORDS else parts) or "."


def labels_of(groups: dict[str, tuple[Path, Sequence[Path]]]) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return a number for each image, by group, and the names of these labels: the sub-folders that the images lie in.

    There are none unless all images lie in two or more sub-folders. `groups` has a base folder and its images by name.
    """
    names = {group: [_label(file, base) for file in files] for group, (base, files) in groups.items()}
    every = sorted({name for group in names.values() for name in group})
    if len(every) < 2 or "." in every:
        return {}, []
    numbers = {name: number for number, name in enumerate(every)}
    return {group: np.array([numbers[name] for name in own], np.int64) for group, own in names.items()}, every
