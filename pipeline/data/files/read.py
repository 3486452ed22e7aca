"""What `data.path` holds as images that are decoded when they are asked for, split by split, and what is said of them.

Everything that headers and shapes show is checked before the first split is written. For that a PNG is decoded, since
its orientation may stand after its pixels, and with `data.skip` every image is, so that those which cannot be decoded
are known before the splits are drawn.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from pipeline.data.dataset import Part, Published
from pipeline.data.files.arrays import as_planes, check_labels, read_arrays
from pipeline.data.files.folder import SPLIT_NAMES, image_files, labels_of, split_folders
from pipeline.data.files.images import Encoded, Stored, name_of
from pipeline.data.files.picture import Header, decode, read_header
from pipeline.data.files.tables import Table, table_files
from pipeline.errors import InputError
from pipeline.params import DataParams
from pipeline.progress import track_progress
from pipeline.text import plural

__all__ = ["has_splits", "read_files"]

FEW = 5  # names in a line
ROWS = 4096


def read_files(root: Path, params: DataParams) -> Published:
    """Return the images at `data.path`, which is relative to the project's `root`; raise `InputError` on bad input."""
    path = root / (params.path or "")
    if not path.exists():
        raise InputError(f"data.path: '{params.path}' given; no such file or folder in {root}")
    if path.is_file() and path.suffix.lower() not in (".npy", ".npz", ".parquet", ".arrow"):
        raise InputError(
            f"{path}: not a file of images; allowed: a folder of images, or a file .npy, .npz, .parquet or .arrow"
        )
    if _is_array(path):
        return _arrays(path, params)
    tables = table_files(path)
    return _tables(tables, params, path) if tables else _folder(path, params)


def has_splits(path: Path) -> bool:
    """Return whether folders, arrays or tables at a path have the names of all three splits."""
    if not path.exists():
        return False
    if _is_array(path):
        return "all" not in read_arrays(path)[0]
    return set(SPLIT_NAMES) <= set(table_files(path) or split_folders(path))


def _is_array(path: Path) -> bool:
    return path.suffix.lower() in (".npy", ".npz") or (path.is_dir() and any(path.glob("*.npy")))


def _folder(path: Path, params: DataParams) -> Published:
    """Return the images of a folder; with protocol folders, those of its sub-folders for the splits."""
    bases = {"all": path}
    if params.protocol == "folders":
        bases = split_folders(path)
        _require_splits(bases, f"{path}: has no folder {{}}")
    files, others = {}, 0
    for split, base in bases.items():
        files[split], count = image_files(base)
        others += count
    if not any(files.values()):
        raise InputError(f"{path}: has no image (.png, .jpg, .jpeg, .webp, .bmp, .tif, .tiff)")
    labels, names = labels_of({split: (bases[split], files[split]) for split in files}) if params.labels else ({}, [])
    notes = [f"{plural(others, 'file')} of other kinds left out"] if others else []
    notes += [f"{plural(len(names), 'label')} by sub-folder: {_some(names)}"] if names else []
    notes += _mixed(split_folders(path) if params.protocol != "folders" else ())
    return _encoded(files, labels, params, path, notes)


def _tables(files: dict[str, list[Path]], params: DataParams, path: Path) -> Published:
    """Return the images of Parquet or Arrow files."""
    notes: list[str] = []
    if params.protocol == "folders":
        _require_splits(files, f"{path}: has no table for {{}}")
        files = {split: files[split] for split in SPLIT_NAMES}
    else:
        notes = _mixed([split for split in files if split != "all"])
        files = {"all": sorted(file for own in files.values() for file in own)}
    tables = {split: Table(own) for split, own in files.items()}
    labels = {split: table.labels() for split, table in tables.items()} if params.labels else {}
    columns = {split: array for split, array in labels.items() if array is not None}
    if params.labels and len(columns) < len(tables) and any(table.has_labels for table in tables.values()):
        notes.append("a column of labels that are no whole numbers, or are missing, is left out")
    return _encoded(tables, columns if len(columns) == len(tables) else {}, params, path, notes)


def _mixed(splits: Collection[str]) -> list[str]:
    """Return a line where there are splits that are not taken as such."""
    if not splits:
        return []
    return [f"what is named {', '.join(splits)} is split anew, together; data.protocol folders keeps all three apart"]


def _encoded(
    sources: Mapping[str, Sequence[Path] | Table],
    labels: dict[str, np.ndarray],
    params: DataParams,
    path: Path,
    notes: list[str],
) -> Published:
    """Read all headers, choose the images that can be used, and return them undecoded."""
    headers, skipped = _headers(sources, params)
    every = [header for own in headers.values() for header in own.values()]
    if not every:
        raise InputError(f"{path}: none of {plural(len(skipped), 'image')} can be used; the first: {skipped[0]}")
    sizes = Counter((header.height, header.width) for header in every)

    def example(size: tuple[int, int]) -> str:
        images = ((split, row, h) for split, own in headers.items() for row, h in own.items())
        return next(name_of(sources[split], row) for split, row, h in images if (h.height, h.width) == size)

    _check_sizes(sizes, params, example)
    channels = {"auto": max(header.channels for header in every), "grey": 1, "rgb": 3}[params.channels]
    height, width = (params.size, params.size) if params.size is not None else next(iter(sizes))
    forms = Counter(header.form for header in every)
    kinds = Counter("colour" if header.channels == 3 else "grey" for header in every)
    about = [
        f"{plural(len(every), 'image')}: {_counts(forms)}; {_counts(kinds)}",
        _range(sizes),
    ]
    parts = {}
    for split, source in sources.items():
        rows = np.fromiter(headers[split], np.int64, len(headers[split]))
        own_labels = labels[split][rows] if split in labels else None
        parts[split] = Part(Encoded(source, rows, (channels, height, width), params), labels=own_labels)
    return Published(parts, (channels, height, width), 255, (), (*about, *notes), tuple(sizes), tuple(skipped))


def _headers(
    sources: Mapping[str, Sequence[Path] | Table], params: DataParams
) -> tuple[dict[str, dict[int, Header]], list[str]]:
    """Return by split and row the headers of the images that can be used, and what is wrong with those left out."""
    headers: dict[str, dict[int, Header]] = {}
    skipped: list[str] = []
    whole = params.model_copy(update={"size": None})
    for split, source in sources.items():
        headers[split] = {}
        for row in track_progress(range(len(source)), "reading headers", "images"):
            try:
                header = read_header(source[row], name_of(source, row))
                if params.skip and header.form != "PNG":
                    decode(source[row], name_of(source, row), header.channels, whole)
                headers[split][row] = header
            except InputError as error:
                if not params.skip:
                    raise
                skipped.append(str(error))
    return headers, skipped


def _arrays(path: Path, params: DataParams) -> Published:
    """Return the images of `.npy` and `.npz` files."""
    where = str(path)
    images, labels = read_arrays(path)
    if params.protocol == "folders":
        _require_splits(images, f"{where}: has no array {{}}")
    elif "all" not in images:
        raise InputError(f"{where}: has arrays {', '.join(images)}; set data.protocol to folders, which takes them so")
    planes, notes, parts, shapes = {}, [], {}, {}
    for split, array in images.items():
        name = where if split == "all" else f"{where}: {split}"
        planes[split], layout = as_planes(array, params.layout, name)
        shapes[split] = planes[split].shape[1:]
        notes.append(f"{split}: {array.dtype} {list(array.shape)}, read as {layout}")
    if len(set(shapes.values())) > 1:
        texts = [f"{split} {' x '.join(map(str, shape))}" for split, shape in shapes.items()]
        raise InputError(f"{where}: images of different shapes: {', '.join(texts)}")
    stored, height, width = next(iter(shapes.values()))
    sizes = Counter({(height, width): 1})
    _check_sizes(sizes, params, lambda size: where)
    channels = {"auto": stored, "grey": 1, "rgb": 3}[params.channels]
    for split, array in planes.items():
        name = where if split == "all" else f"{where}: {split}"
        factor = 255 if array.dtype == np.uint8 and _highest(array) == 1 else 1
        notes += [f"{split}: its values are 0 and 1, taken as 0 and 255"] if factor == 255 else []
        if not len(array):
            raise InputError(f"{name}: has no image")
        own_labels = check_labels(labels[split], len(array), name) if split in labels and params.labels else None
        parts[split] = Part(Stored(array, factor, channels, params, name), labels=own_labels)
    if params.size is not None:
        height = width = params.size
    return Published(parts, (channels, height, width), 255, (), tuple(notes), tuple(sizes))


def _check_sizes(sizes: Counter[tuple[int, int]], params: DataParams, named: Callable[[tuple[int, int]], str]) -> None:
    """Raise `InputError` where images have sizes that `data.size` and `data.fit` do not allow."""
    (common, _), *others = sizes.most_common()
    if params.size is not None and params.fit != "refuse":
        return
    expected = common if params.size is None else (params.size, params.size)
    odd = [size for size in (common, *(size for size, _ in others)) if size != expected]
    if not odd:
        return
    what = "that of most images is" if params.size is None else "data.size is"
    raise InputError(
        f"{named(odd[0])}: {odd[0][0]} x {odd[0][1]} pixels, but {what} {expected[0]} x {expected[1]}; allowed:"
        " images of one size, or data.size with data.fit resize or crop"
    )


def _require_splits(having: Collection[str], text: str) -> None:
    missing = [split for split in SPLIT_NAMES if split not in having]
    if missing:
        raise InputError(f"{text.format(' or '.join(missing))}, which data.protocol folders needs; allowed: fractions")


def _highest(array: np.ndarray) -> int:
    return max((int(array[start : start + ROWS].max()) for start in range(0, len(array), ROWS)), default=0)


def _counts(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.most_common())


def _range(sizes: Counter[tuple[int, int]]) -> str:
    """Return the heights and widths of images, and the size that most of them have."""
    heights, widths = ((min(side), max(side)) for side in zip(*sizes, strict=True))
    ((height, width), _), *_ = sizes.most_common(1)
    if len(sizes) == 1:
        return f"height {height}, width {width}"
    return (
        f"{len(sizes)} sizes, heights {heights[0]} to {heights[1]}, widths {widths[0]} to {widths[1]}, most often"
        f" {height} x {width}"
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:FEW]) + (f" and {len(names) - FEW} more" if len(names) > FEW else "")
