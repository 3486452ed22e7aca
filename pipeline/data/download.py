"""Downloads: each published file is brought once into `downloads/<checksum>/` of the cache and linked from there.

The environment variable CAVE_DATA_MIRROR, a folder or an http(s) address laid out `<data set>/<file>`, takes the place
of the published addresses; there a file may also lie gzipped, as `<file>.gz`. A file counts when its checksum is the
published one, however it came, and it is verified at every use. It is in place whole or not at all.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from pipeline.data.dataset import Dataset, Remote
from pipeline.data.protocols import check
from pipeline.data.registry import DATASETS
from pipeline.data.transport import Pieces, RefusedError, is_web, progress, public, stream, unpack
from pipeline.errors import InputError
from pipeline.files import atomic_file, file_lock, write_json
from pipeline.params import DataParams

__all__ = ["fetch", "verify"]

MIRROR = "CAVE_DATA_MIRROR"
MOST = 2**29  # bytes of a file whose size is not known
TRIES = 3  # of an address
PAUSE = 1.0  # seconds before the second try, doubled from try to try


def fetch(params: DataParams, folder: Path, cache: Path, mirror: str = "") -> None:
    """Put the data set's files and `files.json`, which lists them, into `folder`.

    `mirror`, a folder or an address, is asked instead of the addresses at which they are published.

    Raises `InputError`, and leaves `folder` as it was, where a file cannot be had.
    """
    check(params)
    dataset = DATASETS[params.name]
    with _writable(cache):
        paths = [_obtain(params.name, remote, cache / "downloads", mirror) for remote in dataset.remotes]
    with _writable(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for path in paths:
            _link(path, folder / path.name)
        rows = [
            {
                "name": params.name,
                "file": remote.file,
                "bytes": path.stat().st_size,
                "checksum": f"{remote.kind}:{remote.checksum}",
            }
            for remote, path in zip(dataset.remotes, paths, strict=True)
        ]
        write_json(folder / "files.json", rows)
        kept = {"files.json", *(path.name for path in paths)}
        for other in folder.iterdir():
            if other.name not in kept and (other.is_symlink() or other.is_file()):
                other.unlink()


def verify(dataset: Dataset, folder: Path) -> None:
    """Raise `InputError` unless all files of the data set lie in `folder` as published."""
    for remote in dataset.remotes:
        path = folder / remote.file
        try:
            fault = remote.fault(path)
        except OSError as error:
            raise InputError(f"{path}: {(error.strerror or 'not readable').lower()}; fetch the data again") from None
        if fault:
            raise InputError(f"{path}: is not the published file ({fault}); fetch the data again")


def _obtain(name: str, remote: Remote, downloads: Path, mirror: str) -> Path:
    """Return the verified file in the cache, fetched from the first address that gives it."""
    home = downloads / remote.checksum
    path = home / remote.file
    # Two studies that want the same file take turns; the second finds it there.
    with file_lock(downloads / f"{remote.checksum}.lock"):
        if path.is_file() and remote.fault(path) is None:
            return path
        home.mkdir(exist_ok=True)
        for left in home.glob(f".{remote.file}.*"):  # by a process that was killed: the lock is ours
            left.unlink()
        reasons = []
        for address in _addresses(name, remote, mirror):
            try:
                _persist(name, remote, address, path)
            except RefusedError as refusal:
                reasons.append(f"{public(address)}: {refusal}")
            else:
                return path
    raise InputError(f"{name}: {remote.file} cannot be fetched: {'; '.join(reasons)}")


def _addresses(name: str, remote: Remote, mirror: str) -> tuple[str, ...]:
    if not mirror:
        return remote.addresses
    base = mirror.rstrip("/") if is_web(mirror) else str(Path(mirror).expanduser())
    plain = f"{base}/{name}/{remote.file}"
    return (plain,) if plain.endswith(".gz") else (plain, plain + ".gz")


def _persist(name: str, remote: Remote, address: str, path: Path) -> None:
    """Try an address a few times."""
    for tries in range(TRIES):
        try:
            return _take(name, remote, address, path)
        except RefusedError as refusal:
            if not refusal.again or tries == TRIES - 1:
                raise
        time.sleep(PAUSE * 2**tries)
    return None


def _take(name: str, remote: Remote, address: str, path: Path) -> None:
    """Bring a file from an address to `path`; the fault of an address raises `RefusedError`, the disk's `OSError`."""
    most = MOST if remote.bytes is None else remote.bytes
    packed = address.endswith(".gz") and not remote.file.endswith(".gz")
    with atomic_file(path) as (file, part):
        with (
            closing(_pieces(address, most, packed)) as pieces,
            progress(f"{name}/{remote.file}", address, remote.bytes) as tick,
        ):
            for piece in pieces:
                file.write(piece)
                tick(len(piece))
        file.flush()
        fault = remote.fault(part)
        if fault:
            raise RefusedError(fault, again=part.stat().st_size < (remote.bytes or 0))


def _pieces(address: str, most: int, packed: bool) -> Pieces:
    # Packing makes no file larger, but for a header.
    raw = stream(address, most + 2**16 if packed else most)
    with closing(raw):
        yield from unpack(raw, most) if packed else raw


def _link(source: Path, path: Path) -> None:
    """Put a file in place by a hard link, or a copy where the file system has none."""
    if path.exists() and path.samefile(source):
        return  # a rename over another link to the same file would do nothing
    scratch = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        new = scratch / path.name
        try:
            os.link(source, new)
        except OSError:
            shutil.copyfile(source, new)
            with new.open("rb") as file:
                os.fsync(file.fileno())
        os.replace(new, path)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def _writable(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        path = error.filename or folder
        raise InputError.of_disk(error, path) from None
