"""Downloads: each published file is fetched once into `downloads/<checksum>/` of the cache and linked from there.

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
from pipeline.data.transport import (
    Chunks,
    DownloadError,
    counted_bytes,
    decompress,
    is_url,
    read_chunks,
    without_secrets,
)
from pipeline.errors import InputError
from pipeline.files import atomic_file, file_lock, write_json
from pipeline.params import DataParams

__all__ = ["fetch", "verify"]

MAX_BYTES = 2**29  # bytes of a file whose size was not published
ATTEMPTS = 3  # at each address
RETRY_PAUSE = 1.0  # seconds before the second try, doubled from try to try


def fetch(params: DataParams, folder: Path, cache: Path, mirror: str = "") -> None:
    """Put the data set's files and `files.json`, which lists them, into `folder`.

    `mirror`, a folder or an address, is asked instead of the addresses at which they are published.

    Raises `InputError`, and leaves `folder` as it was, where a file cannot be had.
    """
    check(params)
    dataset = DATASETS[params.name]
    with _explain_disk_errors(cache):
        paths = [_fetch_to_cache(params.name, remote, cache / "downloads", mirror) for remote in dataset.remotes]
    with _explain_disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for path in paths:
            _link(path, folder / path.name)
        rows = [
            {
                "name": params.name,
                "file": remote.file,
                "bytes": path.stat().st_size,
                "checksum": f"{remote.checksum_type}:{remote.checksum}",
            }
            for remote, path in zip(dataset.remotes, paths, strict=True)
        ]
        write_json(folder / "files.json", rows)
        expected = {"files.json", *(path.name for path in paths)}
        for other in folder.iterdir():
            if other.name not in expected and (other.is_symlink() or other.is_file()):
                other.unlink()


def verify(dataset: Dataset, folder: Path) -> None:
    """Raise `InputError` unless all files of the data set lie in `folder` as published."""
    for remote in dataset.remotes:
        path = folder / remote.file
        try:
            mismatch = remote.mismatch(path)
        except OSError as error:
            raise InputError(f"{path}: {(error.strerror or 'not readable').lower()}; fetch the data again") from None
        if mismatch:
            raise InputError(f"{path}: is not the published file ({mismatch}); fetch the data again")


def _fetch_to_cache(name: str, remote: Remote, downloads: Path, mirror: str) -> Path:
    """Return the verified file in the cache; fetch it from the first address that has it where it is not there yet."""
    folder_of_file = downloads / remote.checksum
    path = folder_of_file / remote.file
    # Two studies that need the same file wait for each other; the second one finds it in the cache.
    with file_lock(downloads / f"{remote.checksum}.lock"):
        if path.is_file() and remote.mismatch(path) is None:
            return path
        folder_of_file.mkdir(exist_ok=True)
        for leftover in folder_of_file.glob(f".{remote.file}.*"):  # of a killed process, since this one has the lock
            leftover.unlink()
        reasons = []
        for address in _addresses(name, remote, mirror):
            try:
                _download_with_retries(name, remote, address, path)
            except DownloadError as error:
                reasons.append(f"{without_secrets(address)}: {error}")
            else:
                return path
    raise InputError(f"{name}: {remote.file} cannot be fetched: {'; '.join(reasons)}")


def _addresses(name: str, remote: Remote, mirror: str) -> tuple[str, ...]:
    if not mirror:
        return remote.addresses
    base = mirror.rstrip("/") if is_url(mirror) else str(Path(mirror).expanduser())
    plain = f"{base}/{name}/{remote.file}"
    return (plain,) if plain.endswith(".gz") else (plain, plain + ".gz")


def _download_with_retries(name: str, remote: Remote, address: str, path: Path) -> None:
    """Download a file to `path`, in several attempts where a fault may pass."""
    for attempt in range(ATTEMPTS):
        try:
            return _download(name, remote, address, path)
        except DownloadError as error:
            if not error.retryable or attempt == ATTEMPTS - 1:
                raise
        time.sleep(RETRY_PAUSE * 2**attempt)
    return None


def _download(name: str, remote: Remote, address: str, path: Path) -> None:
    """Download a file to `path`, whole or not at all.

    Raises:
        DownloadError: the address does not give the published file.
        OSError: the disk is full or not writable.
    """
    limit = MAX_BYTES if remote.bytes is None else remote.bytes
    is_gzipped = address.endswith(".gz") and not remote.file.endswith(".gz")
    with atomic_file(path) as (file, partial):
        with (
            closing(_chunks(address, limit, is_gzipped)) as chunks,
            counted_bytes(f"{name}/{remote.file}", address, remote.bytes) as advance,
        ):
            for chunk in chunks:
                file.write(chunk)
                advance(len(chunk))
        file.flush()
        mismatch = remote.mismatch(partial)
        if mismatch:
            raise DownloadError(mismatch, retryable=partial.stat().st_size < (remote.bytes or 0))


def _chunks(address: str, limit: int, is_gzipped: bool) -> Chunks:
    # Compression makes no file larger, except for its header.
    raw = read_chunks(address, limit + 2**16 if is_gzipped else limit)
    with closing(raw):
        yield from decompress(raw, limit) if is_gzipped else raw


def _link(source: Path, path: Path) -> None:
    """Put a file in place by a hard link, or a copy where the file system has none."""
    if path.exists() and path.samefile(source):
        return  # a rename over another link to the same file would do nothing
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        new = temporary / path.name
        try:
            os.link(source, new)
        except OSError:
            shutil.copyfile(source, new)
            with new.open("rb") as file:
                os.fsync(file.fileno())
        os.replace(new, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _explain_disk_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        path = error.filename or folder
        raise InputError.of_disk(error, path) from None
