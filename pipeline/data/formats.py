"""Readers of the published file formats: IDX, .amat, .mat and archives of files of records.

No file is trusted: magic number, shape, type and range must be the expected ones, and no more is decompressed than
they allow. Anything else raises an `InputError` that names the file. No reader runs code from a file.
"""

from __future__ import annotations

import gzip
import struct
import tarfile  # noqa: TID251 (members are read as streams, and none is written)
import warnings
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pipeline.errors import InputError

__all__ = ["read_amat", "read_idx", "read_mat", "read_tar"]

SLACK = 2**25  # bytes of a MATLAB file or an archive for what else there may be in it
CHUNK = 2**18  # bytes unpacked at once
MAT_CLASSES = ("double", "single", "logical", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64")


def read_idx(path: Path, shape: tuple[int, ...], what: str) -> np.ndarray:
    """Read a gzipped IDX file of unsigned bytes; return uint8 of exactly `shape`.

    Source: The MNIST database (LeCun, Cortes, Burges), http://yann.lecun.com/exdb/mnist/: two zero bytes, the type
    (8: unsigned byte), the number of dimensions, the dimensions as big-endian 32-bit numbers, the values.
    """
    head = struct.pack(f">BBBB{len(shape)}I", 0, 0, 8, len(shape), *shape)
    total = len(head) + int(np.prod(shape))
    try:
        with gzip.open(path) as file:
            content = file.read(total + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read as gzip: {error}") from None
    if len(content) != total or not content.startswith(head):
        size = "x".join(str(length) for length in shape[1:])
        raise InputError(f"{path}: is not an IDX file of {shape[0]} {what} {size}".rstrip())
    return np.frombuffer(content, np.uint8, offset=len(head)).reshape(shape)


def read_amat(path: Path, rows: int, columns: int) -> np.ndarray:
    """Read a text of `rows` lines of `columns` digits 0 or 1, parted by single blanks; return uint8 [rows, columns]."""
    total = 2 * rows * columns
    try:
        with path.open("rb") as file:
            content = file.read(total + 1)
    except OSError as error:
        raise InputError.of_disk(error, path, "read") from None
    if len(content) == total:
        text = np.frombuffer(content, np.uint8).reshape(rows, columns, 2)
        pixels = text[..., 0] - np.uint8(ord("0"))
        blanks = (text[:, :-1, 1] == ord(" ")).all() and (text[:, -1, 1] == ord("\n")).all()
        if blanks and (pixels <= 1).all():
            return pixels
    raise InputError(f"{path}: is not a text of {rows} lines of {columns} digits 0 or 1")


def read_tar(path: Path, sizes: Mapping[str, int]) -> dict[str, bytes]:
    """Read the regular files of a gzipped tar archive that `sizes` names, of exactly these numbers of bytes.

    The archive is read as a stream: no member is written to the disk, and others are passed over.
    """
    contents: dict[str, bytes] = {}
    try:
        limit = sum(sizes.values()) + SLACK
        with _Limited(path, limit) as file, tarfile.open(fileobj=file, mode="r|") as archive:
            for member in archive:
                if member.name in sizes and member.isreg() and member.size == sizes[member.name]:
                    content = archive.extractfile(member)
                    contents[member.name] = content.read() if content else b""
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise InputError(f"{path}: cannot be read as a gzipped tar archive: {error}") from None
    for name, size in sizes.items():
        if len(contents.get(name, b"")) != size:
            raise InputError(f"{path}: is not an archive with {size} bytes {name}")
    return {name: contents[name] for name in sizes}


class _Limited(gzip.GzipFile):
    """A gzipped file that unpacks to no more than `limit` bytes."""

    def __init__(self, path: Path, limit: int) -> None:
        super().__init__(path, "rb")
        self.limit = limit

    def read(self, size: int | None = -1) -> bytes:
        content = super().read(size)
        self.limit -= len(content)
        if self.limit < 0:
            raise InputError(f"{self.name}: is not an archive of these files: it unpacks to more")
        return content


def read_mat(
    path: Path,
    shapes: Mapping[str, tuple[int, ...]],
    optional: Mapping[str, tuple[int | None, ...]] | None = None,
    itemsize: int = 16,
) -> dict[str, np.ndarray]:
    """Read the numeric variables of a MATLAB file (version 4 to 7) that `shapes` names, of exactly these shapes.

    A variable of `optional` is left out where it is absent or has another shape; None stands for any length there.
    `itemsize` is the most bytes that a number takes in the file.
    """
    from scipy.io import loadmat, whosmat

    expected = dict(shapes)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if not _decompresses_within(path, itemsize * sum(int(np.prod(shape)) for shape in shapes.values()) + SLACK):
                raise InputError(f"{path}: is not a MATLAB file of these numbers: it unpacks to more")
            # Names and shapes come before any content, so that a false file cannot unpack to more than they say.
            declared = {name: (shape, kind) for name, shape, kind in whosmat(path, appendmat=False)}
            for name, shape in (optional or {}).items():
                actual, kind = declared.get(name, ((), ""))
                fits = len(actual) == len(shape) and all(b in (None, a) for a, b in zip(actual, shape, strict=True))
                if fits and kind in MAT_CLASSES:
                    expected[name] = actual
            for name, shape in expected.items():
                if declared.get(name, (None,))[0] != tuple(shape) or declared[name][1] not in MAT_CLASSES:
                    size = "x".join(str(length) for length in shape)
                    raise InputError(f"{path}: is not a MATLAB file with {size} numbers {name}")
            content = loadmat(path, appendmat=False, variable_names=list(expected))
    except InputError:
        raise
    except Exception as error:  # whatever a damaged file makes the reader raise
        raise InputError(f"{path}: cannot be read as a MATLAB file: {' '.join(str(error).split())}") from None
    arrays = {name: np.asarray(content[name]) for name in expected if name in content}
    for name, shape in expected.items():
        array = arrays.get(name)
        if array is None or array.shape != tuple(shape) or array.dtype.kind not in "buif":
            raise InputError(f"{path}: variable {name} cannot be read as numbers")
        if not np.isfinite(array).all():
            raise InputError(f"{path}: variable {name} holds values that are not finite")
    return arrays


def _decompresses_within(path: Path, limit: int) -> bool:
    """Return whether the compressed parts of a MATLAB file hold at most `limit` bytes; its reader would read all.

    Source: MAT-File Format (MathWorks), version 5: 128 bytes, the last two the order of bytes, then parts, each with
    its type (15: packed by zlib) and its length. Version 4 has no packed parts.
    """
    with path.open("rb") as file:
        order = {b"IM": "<", b"MI": ">"}.get(file.read(128)[126:])
        while order and len(head := file.read(8)) == 8:
            kind, length = struct.unpack(f"{order}II", head)
            end = file.tell() + length
            unpacker = zlib.decompressobj()
            while kind == 15 and not unpacker.eof and file.tell() < end:
                rest = file.read(min(CHUNK, end - file.tell()))
                if not rest:
                    break
                while rest and not unpacker.eof:
                    limit -= len(unpacker.decompress(rest, CHUNK))
                    rest = unpacker.unconsumed_tail
                    if limit < 0:
                        return False
            file.seek(end)
    return True
