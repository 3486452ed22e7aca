"""Splits: the images that models are trained, chosen and tested on, as one checked folder of arrays.

Intensities are uint8 in 0..scale. Binarization draws each pixel x from Bernoulli(x / scale) and stores 0 or `scale`,
so that 0 and `scale` stay what they are, and images of 0 and 1 as well. Validation and test images are drawn once,
from a stream of random numbers of their own: the same whether training images are drawn once (static) or anew at every
presentation (dynamic, left to the training loop), so that all models are compared on one frozen binarization.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data.dataset import Images, Published, Shape
from pipeline.data.download import verify
from pipeline.data.protocols import choose, resolve
from pipeline.data.registry import DATASETS
from pipeline.data.storage import blocks_of, greyness_note, read_arrays, rows_of, write_images
from pipeline.errors import InputError
from pipeline.files import read_json, sha256, write_bytes, write_json, write_text
from pipeline.params import DataParams
from pipeline.progress import print_note, track_progress
from pipeline.text import plural

__all__ = ["Splits", "binarize", "image_shape", "load", "prepare", "save"]

STREAMS = {"train": 1, "valid": 2, "test": 3}  # of random numbers; 0 is that of the choice of images
SKIPPED, SHOWN = "skipped.txt", 10  # the file that lists images that are left out; lines that are printed
DEQUANTIZATION = "dequantization"  # recorded where it is not none, so that other digests stay what they were
FIELDS = ("name", "protocol", "binarization", "factor_names", "shape", "scale", "binary")


@dataclass(frozen=True)
class Splits:
    """A data set, split and binarized; D = channels * height * width, channel after channel, each row by row."""

    name: str
    protocol: str  # never 'auto'
    binarization: str
    train: np.ndarray  # uint8 [n, D], 0..scale; grey under 'dynamic'
    valid: np.ndarray  # uint8 [n, D]; 0 or scale unless binarization is 'none'
    test: np.ndarray  # the same
    labels: dict[str, np.ndarray]  # split -> int64 [n]; empty if the set has none
    factors: dict[str, np.ndarray]  # split -> float64 [n, F]; empty if the set has none
    factor_names: tuple[str, ...]
    shape: Shape  # channels, height, width
    scale: int  # the highest intensity
    binary: bool  # are model inputs binary
    digest: str  # sha256 of all of the above and of the dequantization, 32 hexadecimal characters
    dequantization: str = "none"  # or 'uniform': models see (pixel + u) / (scale + 1), which `images` draws

    @property
    def mean(self) -> np.ndarray:
        """Mean intensity of the training images as models see them, float64 [D] in [0, 1]."""
        mean: np.ndarray = self.train.mean(0, dtype=np.float64)
        return (mean + 0.5) / (self.scale + 1) if self.dequantized else mean / self.scale

    @property
    def array_shape(self) -> tuple[int, ...]:
        """Shape of an image in a user's arrays: [height, width] in grey, else [channels, height, width]."""
        return self.shape if self.shape[0] > 1 else self.shape[1:]

    @property
    def is_mapped(self) -> bool:
        """Whether the images stay on the disk until they are used, since there are so many of them."""
        return isinstance(self.train, np.memmap)

    @property
    def dequantized(self) -> bool:
        """Whether models see grey levels with uniform noise."""
        return self.dequantization == "uniform"


def binarize(images: np.ndarray, scale: int, rng: np.random.Generator) -> np.ndarray:
    """Draw each pixel of uint8 images [n, D] from Bernoulli(x / scale); return 0 or `scale`."""
    drawn = np.empty_like(images)
    step = rows_of(images.shape[1])
    for start in range(0, len(images), step):
        rows = images[start : start + step]
        # random() < 1 always, and x / scale is exactly 1 at x = scale: the extremes never flip.
        drawn[start : start + step] = np.where(rng.random(rows.shape) < rows / scale, scale, 0)
    return drawn


def prepare(params: DataParams, raw: Path, folder: Path, root: Path | None = None) -> Splits:
    """Split and binarize the files in `raw` (as `fetch` wrote them), write the result to `folder` and return it.

    A user's own images are read at their path in the project's `root` instead. All images are read and written some at
    a time; where one cannot be used, `InputError` is raised and `folder` stays as it was.
    """
    protocol = resolve(params)
    dataset = DATASETS[params.name]
    verify(dataset, raw)
    root = root or Path.cwd()
    published = dataset.read(root if dataset.local else raw, params)
    for note in published.notes:
        print_note(note)
    parts = {name: (published.parts[source], rows) for name, (source, rows) in choose(params, published.parts).items()}
    counts = {name: len(rows) for name, (_, rows) in parts.items()}
    units = math.prod(published.shape)
    blocks = {name: _blocks(params, published, name, part.images, rows) for name, (part, rows) in parts.items()}
    write_images(folder, counts, units, blocks)
    _list_skipped([line.removeprefix(f"{root}/") for line in published.skipped], folder)
    splits = Splits(
        name=params.name,
        protocol=protocol,
        binarization=params.binarization,
        **read_arrays(folder, STREAMS),
        labels={name: part.labels[rows] for name, (part, rows) in parts.items() if part.labels is not None},
        factors={name: part.factors[rows] for name, (part, rows) in parts.items() if part.factors is not None},
        factor_names=published.factor_names,
        shape=published.shape,
        scale=published.scale,
        binary=params.binary,
        digest="",
        dequantization=params.dequantization,
    )
    splits = replace(splits, digest=_digest(splits))
    _save(splits, folder, {name: array for name, array in _arrays(splits).items() if name not in STREAMS})
    return splits


def _blocks(
    params: DataParams, published: Published, name: str, images: Images, rows: np.ndarray
) -> Iterator[np.ndarray]:
    """Yield the images of a split some at a time, binarized where they are binarized once."""
    binarized = params.binarization == "static" or (params.binarization == "dynamic" and name != "train")
    rng = np.random.default_rng([params.seed, STREAMS[name]])
    step = rows_of(math.prod(published.shape))
    for start in track_progress(range(0, len(rows), step), f"reading {name}", f"batches of {step} images"):
        block = images[rows[start : start + step]]
        if start == 0 and name == "train" and params.binarization == "static" and _is_grey(params, published):
            for line in greyness_note(block, published.scale, "static"):
                print_note(f"note: {line}")
        yield binarize(block, published.scale, rng) if binarized else block


def _is_grey(params: DataParams, published: Published) -> bool:
    return params.name == "files" and published.shape[0] == 1


def _list_skipped(skipped: Sequence[str], folder: Path) -> None:
    """Print which images are left out, as far as they are few, and write the list of all beside the splits."""
    path = folder / SKIPPED
    if not skipped:
        path.unlink(missing_ok=True)
        return
    for line in skipped[:SHOWN]:
        print_note(f"left out: {line}")
    print_note(f"{plural(len(skipped), 'image')} left out; {path} lists them")
    write_text(path, "".join(f"{line}\n" for line in skipped))


def load(folder: Path) -> Splits:
    """Read what `prepare` wrote; raise `InputError` where it is missing or damaged."""
    record = read_json(folder / "data.json")
    try:
        arrays = read_arrays(folder, record["arrays"])
        splits = Splits(
            name=record["name"],
            protocol=record["protocol"],
            binarization=record["binarization"],
            train=arrays["train"],
            valid=arrays["valid"],
            test=arrays["test"],
            labels={name: arrays[f"labels_{name}"] for name in STREAMS if f"labels_{name}" in arrays},
            factors={name: arrays[f"factors_{name}"] for name in STREAMS if f"factors_{name}" in arrays},
            factor_names=tuple(record["factor_names"]),
            shape=image_shape(record["shape"]),
            scale=record["scale"],
            binary=record["binary"],
            digest=record["digest"],
            dequantization=record.get(DEQUANTIZATION, "none"),
        )
        intact = _digest(splits) == splits.digest
    except FileNotFoundError as error:
        raise InputError(f"{error.filename}: no such file; prepare the data again") from None
    except MemoryError:
        raise
    except Exception:  # whatever damaged content makes numpy raise
        intact = False
    if not intact:
        raise InputError(f"{folder}: damaged, its digest differs; prepare the data again")
    return splits


def image_shape(recorded: Sequence[int]) -> Shape:
    """Return the shape that a file states; where it has two numbers, they are height and width of grey images."""
    *channels, height, width = recorded
    (count,) = channels or [1]
    return count, height, width


def _arrays(splits: Splits) -> dict[str, np.ndarray]:
    """Return all arrays under the names of their files."""
    return (
        {name: getattr(splits, name) for name in STREAMS}
        | {f"labels_{name}": array for name, array in splits.labels.items()}
        | {f"factors_{name}": array for name, array in splits.factors.items()}
    )


def _describe(splits: Splits) -> dict[str, Any]:
    noise = {DEQUANTIZATION: splits.dequantization} if splits.dequantized else {}
    described = {name: getattr(splits, name) for name in FIELDS} | noise | {"arrays": sorted(_arrays(splits))}
    return described | {"shape": splits.array_shape}  # so that the digests of grey images stay what they were


def _digest(splits: Splits) -> str:
    def parts() -> Iterator[bytes]:
        yield json.dumps(_describe(splits), sort_keys=True).encode()
        for name, array in sorted(_arrays(splits).items()):
            yield f"{name} {array.dtype.str} {array.shape}".encode()
            yield from (block.tobytes() for block in blocks_of(array))

    return sha256(parts())[:32]


def save(splits: Splits, folder: Path) -> Splits:
    """Write splits of any origin as `prepare` does; return them with their digest."""
    splits = replace(splits, digest=_digest(splits))
    _save(splits, folder, _arrays(splits))
    return splits


def _save(splits: Splits, folder: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write some of the arrays, then `data.json`; a folder written in part does not match its digest."""
    try:
        for name, array in arrays.items():
            content = io.BytesIO()
            np.save(content, array, allow_pickle=False)  # noqa: TID251
            write_bytes(folder / f"{name}.npy", content.getvalue())
        write_json(folder / "data.json", _describe(splits) | {"digest": splits.digest})
        for other in folder.glob("*.npy"):
            if other.stem not in _arrays(splits):
                other.unlink()
    except OSError as error:
        raise InputError.of_disk(error, error.filename or folder) from None
