"""Readers of the data sets: published files, or a rendering, as arrays with rows of pixels in reading order.

Counts are arguments, so that the registry states them and a reader rejects any other.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from pipeline.data import cave as shadows
from pipeline.data.dataset import Part, Published
from pipeline.data.formats import read_amat, read_idx, read_mat, read_tar
from pipeline.errors import InputError
from pipeline.params import DataParams

__all__ = ["binarized_mnist", "caltech101", "cave", "cifar10", "digits", "frey_face", "mnist", "omniglot", "svhn"]

COLOUR = (3, 32, 32)  # of CIFAR-10 and SVHN


def digits(folder: Path, params: DataParams) -> Published:
    """Return the digits that come with scikit-learn: 1,797 images 8x8 of intensities 0..16."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    part = Part(images.astype(np.uint8), labels=labels.astype(np.int64))
    return Published({"all": part}, shape=(1, 8, 8), scale=16)


def cave(folder: Path, params: DataParams) -> Published:
    """Render the shadows that `data.cave` asks for; the label is the solid."""
    size, grey = params.cave.size, params.cave.grey
    factors = shadows.draw(params.cave.images, params.seed)
    part = Part(shadows.render(factors, size, grey), labels=factors[:, 0].astype(np.int64), factors=factors)
    return Published(
        {"all": part}, shape=(1, size, size), scale=255 if grey else 1, factor_names=tuple(shadows.FACTORS)
    )


def mnist(folder: Path, params: DataParams, *, train: int, test: int) -> Published:
    """Read the four IDX files of MNIST, or of a set in its form."""
    parts = {}
    for name, stem, count in (("train", "train", train), ("test", "t10k", test)):
        images = read_idx(folder / f"{stem}-images-idx3-ubyte.gz", (count, 28, 28), "images").reshape(count, 784)
        path = folder / f"{stem}-labels-idx1-ubyte.gz"
        labels = read_idx(path, (count,), "labels")
        if labels.max() > 9:
            raise InputError(f"{path}: holds a label {labels.max()}; labels are 0..9")
        parts[name] = Part(images, labels=labels.astype(np.int64))
    return Published(parts, shape=(1, 28, 28), scale=255)


def binarized_mnist(folder: Path, params: DataParams, *, train: int, valid: int, test: int) -> Published:
    """Read MNIST as binarized once and for all by Larochelle; its order is not MNIST's, so there are no labels."""
    counts = {"train": train, "valid": valid, "test": test}
    parts = {
        name: Part(read_amat(folder / f"binarized_mnist_{name}.amat", count, 784)) for name, count in counts.items()
    }
    return Published(parts, shape=(1, 28, 28), scale=1)


def omniglot(folder: Path, params: DataParams, *, train: int, test: int) -> Published:
    """Read the 28x28 OMNIGLOT of the IWAE paper, an image a column; the label is the alphabet where it is given."""
    path = folder / "chardata.mat"
    shapes = {"data": (784, train), "testdata": (784, test)}
    content = read_mat(path, shapes, optional={"target": (None, train), "testtarget": (None, test)})
    parts = {}
    for name, images, target in (("train", "data", "target"), ("test", "testdata", "testtarget")):
        values = content[images].astype(np.float64)
        if values.min() < 0 or values.max() > 1:
            raise InputError(f"{path}: {images} holds values outside 0..1")
        labels = content[target].argmax(0).astype(np.int64) if {"target", "testtarget"} <= set(content) else None
        parts[name] = Part(_upright(np.rint(255 * values).astype(np.uint8).T), labels=labels)
    return Published(parts, shape=(1, 28, 28), scale=255)


def caltech101(folder: Path, params: DataParams, *, train: int, valid: int, test: int) -> Published:
    """Read the silhouettes, an image a row; labels 0..100 are the published ones less 1.

    The polarity stays as published: 1 is the background. Only the order of the pixels is changed, from columns to rows.
    """
    path = folder / "caltech101_silhouettes_28_split1.mat"
    keys = {"train": ("train", train), "valid": ("val", valid), "test": ("test", test)}
    shapes: dict[str, tuple[int, ...]] = {f"{key}_data": (count, 784) for key, count in keys.values()}
    content = read_mat(path, shapes | {f"{key}_labels": (count, 1) for key, count in keys.values()})
    parts = {}
    for name, (key, _) in keys.items():
        images, labels = content[f"{key}_data"], content[f"{key}_labels"][:, 0]
        if not np.isin(images, (0, 1)).all():
            raise InputError(f"{path}: {key}_data holds values other than 0 and 1")
        if not np.isin(labels, np.arange(1, 102)).all():
            raise InputError(f"{path}: {key}_labels holds values outside 1..101")
        parts[name] = Part(_upright(images.astype(np.uint8)), labels=labels.astype(np.int64) - 1)
    return Published(parts, shape=(1, 28, 28), scale=1)


def frey_face(folder: Path, params: DataParams, *, frames: int) -> Published:
    """Read the frames of a film of one face, a frame a column, 28 rows of 20 pixels."""
    path = folder / "frey_rawface.mat"
    values = read_mat(path, {"ff": (560, frames)})["ff"]
    if values.min() < 0 or values.max() > 255 or (values != np.rint(values)).any():
        raise InputError(f"{path}: ff holds values other than 0..255")
    return Published({"all": Part(np.ascontiguousarray(values.T).astype(np.uint8))}, shape=(1, 28, 20), scale=255)


def cifar10(folder: Path, params: DataParams, *, batches: int, images: int) -> Published:
    """Read the binary version of CIFAR-10, in batches of so many images: records of a label and three planes.

    Source: https://www.cs.toronto.edu/~kriz/cifar.html, "Binary version".
    """
    path, record = folder / "cifar-10-binary.tar.gz", 1 + math.prod(COLOUR)
    names = [f"data_batch_{number}" for number in range(1, batches + 1)]
    sizes = {f"cifar-10-batches-bin/{name}.bin": images * record for name in (*names, "test_batch")}
    *train, test = [np.frombuffer(c, np.uint8).reshape(images, record) for c in read_tar(path, sizes).values()]
    parts = {}
    for name, rows in (("train", np.concatenate(train)), ("test", test)):
        labels = rows[:, 0].astype(np.int64)
        if labels.max() > 9:
            raise InputError(f"{path}: holds a label {labels.max()}; labels are 0..9")
        parts[name] = Part(np.ascontiguousarray(rows[:, 1:]), labels=labels)
    return Published(parts, shape=COLOUR, scale=255)


def svhn(folder: Path, params: DataParams, *, train: int, test: int) -> Published:
    """Read the cropped digits of SVHN, numbers [height, width, channel, image]; the published label of 0 is 10.

    Source: http://ufldl.stanford.edu/housenumbers/, "Format 2".
    """
    channels, height, width = COLOUR
    parts = {}
    for name, count in (("train", train), ("test", test)):
        path = folder / f"{name}_32x32.mat"
        content = read_mat(path, {"X": (height, width, channels, count), "y": (count, 1)}, itemsize=1)
        pixels, labels = content["X"], content["y"][:, 0]
        if pixels.dtype != np.uint8:
            raise InputError(f"{path}: X holds numbers of type {pixels.dtype} instead of bytes")
        if not np.isin(labels, np.arange(1, 11)).all():
            raise InputError(f"{path}: y holds values outside 1..10")
        images = pixels.transpose(3, 2, 0, 1).reshape(count, -1)
        parts[name] = Part(np.ascontiguousarray(images), labels=labels.astype(np.int64) % 10)
    return Published(parts, shape=COLOUR, scale=255)


def _upright(images: np.ndarray) -> np.ndarray:
    """Turn square images [n, D] from column after column to row after row."""
    side = round(images.shape[1] ** 0.5)
    return images.reshape(-1, side, side).transpose(0, 2, 1).reshape(len(images), -1)
