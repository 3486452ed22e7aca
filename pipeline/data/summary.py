"""What is to be known of images before a model is trained on them: their range, their copies, what suits them."""

from __future__ import annotations

import hashlib
from collections.abc import Collection

import numpy as np

from pipeline.data.splits import Splits
from pipeline.data.storage import blocks_of, greyness_note
from pipeline.text import plural

__all__ = ["misfits", "survey"]


def survey(splits: Splits) -> list[str]:
    """Return lines on counts, shape, range, labels, copies across splits, and values that never change."""
    train, valid, test = splits.train, splits.valid, splits.test
    size = " x ".join(map(str, splits.array_shape))
    lines = [f"{len(train)} / {len(valid)} / {len(test)} images of {size} for training, validation and test"]
    low, high = _extremes(train)
    lines.append(
        f"values from {low.min()} to {high.max()} of {splits.scale}, in the mean {splits.mean.mean():.3f} of it"
    )
    constant = int((low == high).sum())
    if constant:
        lines.append(f"{constant} of {plural(len(low), 'value')} are the same in all training images")
    seen = {_key(row) for block in blocks_of(train) for row in block}
    held_out = [row for part in (valid, test) for block in blocks_of(part) for row in block]
    copies = sum(_key(row) in seen for row in held_out)
    lines.append(f"{copies} of {plural(len(held_out), 'image')} of validation and test are in the training set too")
    repeated = len(train) - len(seen)
    if repeated:
        are = "is a copy" if repeated == 1 else "are copies"
        lines.append(f"{plural(repeated, 'training image')} {are} of another one")
    if "train" in splits.labels:
        lines.append(f"{plural(len(np.unique(splits.labels['train'])), 'label')}")
    return lines


def misfits(splits: Splits, likelihoods: Collection[str]) -> list[str]:
    """Return a line for each thing in which likelihoods or the binarization do not fit the pixels."""
    lines = []
    if splits.shape[0] > 1 and splits.binary:
        lines.append(
            f"the images are in colour, and data.binarization {splits.binarization} makes each value 0 or 1;"
            " data.binarization none with model.likelihood discretized_logistic keeps all of them"
        )
    elif splits.binary and splits.name == "files" and splits.binarization == "dynamic":
        lines += greyness_note(splits.train, splits.scale, splits.binarization)  # with static, `prepare` has seen them
    if not splits.binary and _extremes(splits.train)[1].max() == splits.scale and _is_binary(splits):
        lines.append(
            "all pixels are black or white; data.binarization static with model.likelihood bernoulli fits them"
        )
    densities = sorted({"gaussian", "continuous_bernoulli"} & set(likelihoods))
    if densities and not splits.dequantized and splits.name == "files":
        lines.append(
            f"model.likelihood {' and '.join(densities)} is a density, which grows without limit at the few values that"
            " pixels have; data.dequantization uniform bounds it"
        )
    return lines


def _is_binary(splits: Splits) -> bool:
    return all(bool(((block == 0) | (block == splits.scale)).all()) for block in blocks_of(splits.train))


def _extremes(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the lowest and the highest number of each value."""
    blocks = [(block.min(0), block.max(0)) for block in blocks_of(pixels)]
    return np.min([low for low, _ in blocks], 0), np.max([high for _, high in blocks], 0)


def _key(image: np.ndarray) -> bytes:
    return hashlib.blake2b(image.tobytes(), digest_size=16).digest()
