"""Files that are whole or absent: written under a temporary name, flushed to the disk, then renamed."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import os
import re
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from pipeline.errors import InputError

__all__ = [
    "atomic_file",
    "csv_text",
    "exclusive",
    "file_lock",
    "is_temporary",
    "json_text",
    "read_csv",
    "read_group",
    "read_json",
    "read_parquet",
    "sha256",
    "table_groups",
    "write_bytes",
    "write_csv",
    "write_json",
    "write_parquet",
    "write_text",
]

LARGEST = 2**26  # bytes of a file that is read as text
TEMPORARY = re.compile(r"\..+\.[a-z0-9_]{8}")  # .NAME. and the eight letters of `tempfile`
POLL = 0.02  # seconds between two attempts to get a lock


@contextmanager
def atomic_file(path: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """Open a temporary file beside `path`, which replaces it when the block ends, and is removed on an error."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file, Path(name)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)


def is_temporary(name: str) -> bool:
    """Return whether `atomic_file` may have made a file of this name."""
    return TEMPORARY.fullmatch(name) is not None


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file at once: a reader, or a crash, sees the old content or the new, never a part."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as (file, _):
            file.write(content)
    except OSError as error:
        raise InputError.of_disk(error, path) from None


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text at once."""
    write_bytes(path, text.encode())


def json_text(value: Any) -> str:
    """Return a value as indented JSON."""
    return json.dumps(value, indent=1, default=list) + "\n"


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON at once."""
    write_text(path, json_text(value))


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as CSV; the columns are all the rows' keys in the order of their first use."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as CSV at once, as `csv_text` gives them."""
    write_text(path, csv_text(rows))


def read_csv(path: Path) -> list[dict[str, str]]:
    """Read the rows of a CSV file as text by column; one that is missing raises `InputError`."""
    try:
        return list(csv.DictReader(io.StringIO(_content(path).decode(), newline="")))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{path}: not readable as CSV: {str(error)[:200]}") from None


def read_parquet(path: Path) -> dict[str, list[Any]]:
    """Return the columns of a Parquet file as lists; `InputError` where it is missing or damaged."""
    from pyarrow import ArrowException, parquet

    try:
        columns: dict[str, list[Any]] = parquet.read_table(path).to_pydict()
        return columns
    except (OSError, ArrowException) as error:
        raise InputError(f"{path}: not readable as Parquet: {str(error)[:200]}") from None


def table_groups(path: Path) -> list[int]:
    """Return how many rows each group of a Parquet or Arrow file has; `InputError` where it is damaged."""
    from pyarrow import ArrowException, parquet

    try:
        if path.suffix.lower() == ".arrow":
            return [batch.num_rows for batch in _arrow_batches(path)]
        about = parquet.ParquetFile(path).metadata
        return [about.row_group(number).num_rows for number in range(about.num_row_groups)]
    except (OSError, ArrowException) as error:
        raise _unreadable_table(path, error) from None


def read_group(path: Path, number: int) -> Any:
    """Return a group of rows of a Parquet or Arrow file as a table of pyarrow; `InputError` where it is damaged."""
    from pyarrow import ArrowException, parquet

    try:
        if path.suffix.lower() == ".arrow":
            return _arrow_batches(path)[number]
        return parquet.ParquetFile(path).read_row_group(number).combine_chunks()
    except (OSError, ArrowException) as error:
        raise _unreadable_table(path, error) from None


def _arrow_batches(path: Path) -> list[Any]:
    """Return the batches of an Arrow file, a stream or not, whose content stays on the disk until it is used."""
    import pyarrow

    try:
        return list(pyarrow.ipc.open_stream(pyarrow.memory_map(str(path))))
    except pyarrow.ArrowInvalid:
        reader = pyarrow.ipc.open_file(pyarrow.memory_map(str(path)))
        return [reader.get_batch(number) for number in range(reader.num_record_batches)]


def _unreadable_table(path: Path, error: Exception) -> InputError:
    kind = "Arrow" if path.suffix.lower() == ".arrow" else "Parquet"
    return InputError(f"{path}: not readable as {kind}: {' '.join(str(error).split())[:200]}")


def write_parquet(path: Path, columns: Mapping[str, Any]) -> None:
    """Write columns of equal length as a Parquet table at once."""
    import pyarrow
    from pyarrow import parquet

    content = io.BytesIO()
    parquet.write_table(pyarrow.table(dict(columns)), content)
    write_bytes(path, content.getvalue())


def read_json(path: Path, *keys: str) -> Any:
    """Read a JSON file; one that is missing, broken or, where `keys` are given, without them raises `InputError`."""
    try:
        value = json.loads(_content(path).decode())
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not readable as JSON: {str(error)[:200]}") from None
    for key in keys:
        if not isinstance(value, dict) or key not in value:
            raise InputError(f"{path}: damaged, it has no {key}")
    return value


def _content(path: Path) -> bytes:
    with path.open("rb") as file:
        content = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise ValueError(f"more than {LARGEST} bytes")
    return content


def sha256(parts: Iterable[bytes]) -> str:
    """Return the hexadecimal sha256 of the parts, put end to end."""
    total = hashlib.sha256()
    for part in parts:
        total.update(part)
    return total.hexdigest()


@contextmanager
def file_lock(path: Path, patience: float = math.inf) -> Iterator[None]:
    """Hold the lock file `path`; `BlockingIOError` where another process holds it for more than `patience` seconds.

    The kernel drops the lock when its holder dies, so a killed process leaves none behind.
    """
    import fcntl

    limit = time.monotonic() + patience
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("a")
        except FileNotFoundError:  # who held it has removed its folder just now
            continue
        except OSError as error:
            raise InputError.of_disk(error, path) from None
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if patience == math.inf else fcntl.LOCK_NB))
            except BlockingIOError:
                if time.monotonic() >= limit:
                    raise
                time.sleep(POLL)
                continue
            if not _is(path, file.fileno()):
                continue
            try:
                yield
            finally:
                fcntl.flock(file, fcntl.LOCK_UN)
            return


def _is(path: Path, handle: int) -> bool:
    """Return whether an open file is still the one at `path`: a former holder of the lock may have removed it."""
    try:
        return os.path.samestat(path.stat(), os.fstat(handle))
    except FileNotFoundError:
        return False


@contextmanager
def exclusive(path: Path, what: str, *, wait: bool = True) -> Iterator[None]:
    """Hold the lock file `path`; where another process holds it, say which, and wait for its end.

    With `wait=False` that is an `InputError` instead.
    """
    with ExitStack() as held:
        try:
            held.enter_context(file_lock(path, 0.0))
        except BlockingIOError:
            holder = "another process"
            with suppress(OSError):  # who held it may have removed the file
                holder = path.read_text(encoding="utf-8") or holder
            if not wait:
                raise InputError(f"{what}: {holder} is at work in this folder") from None
            print(f"{what}: {holder} is at work in this folder; waits for its end", flush=True)
            held.enter_context(file_lock(path))
        path.write_text(f"process {os.getpid()} on {os.uname().nodename}", encoding="utf-8")
        yield
