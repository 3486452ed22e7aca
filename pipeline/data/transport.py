"""Reading a file from a URL or a folder, in chunks and up to a limit, with one reason where that fails."""

from __future__ import annotations

import re
import sys
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.progress import counting

__all__ = ["Chunks", "DownloadError", "counted_bytes", "decompress", "is_url", "read_chunks", "without_secrets"]

Chunks = Generator[bytes, None, None]

CONNECT_TIMEOUT, READ_TIMEOUT = 10.0, 60.0  # seconds to wait for a connection, and for the next bytes
CHUNK = 2**18  # bytes
MEGABYTE = 10**6


class DownloadError(Exception):
    """An address does not give the file; where the error is `retryable` it may do so later."""

    def __init__(self, reason: str, retryable: bool = False) -> None:
        super().__init__(reason)
        self.retryable = retryable


def is_url(address: str) -> bool:
    """Return whether this is a URL, and not the path of a file."""
    return address.lower().startswith(("http://", "https://"))


def without_secrets(address: str) -> str:
    """Return an address without user, password, query and fragment, which may be secret."""
    if not is_url(address):
        return address
    # Whatever stands before the last @ goes: a password may hold any character, / and ? among them.
    scheme, _, rest = address.partition("://")
    return f"{scheme}://{re.split('[?#]', rest.rpartition('@')[2])[0]}"


def read_chunks(address: str, limit: int) -> Chunks:
    """Yield a file's bytes as published; raise `DownloadError` on any fault and on more than `limit` of them."""
    total = 0
    for chunk in _read_url(address) if is_url(address) else _read_file(Path(address)):
        if total == 0 and chunk[:64].lstrip().lower().startswith((b"<!doctype html", b"<html")):
            raise DownloadError("an HTML page instead of the file")
        total += len(chunk)
        if total > limit:
            raise DownloadError(f"more than {limit} bytes")
        yield chunk


def decompress(chunks: Chunks, limit: int) -> Chunks:
    """Yield the content of a gzip stream; raise `DownloadError` where it is none, is cut short or exceeds `limit`."""
    inflate = zlib.decompressobj(wbits=31)
    total = 0
    try:
        for chunk in chunks:
            rest = chunk
            while rest:
                content = inflate.decompress(rest, CHUNK)
                rest = inflate.unconsumed_tail
                total += len(content)
                if total > limit:
                    raise DownloadError(f"unpacks to more than {limit} bytes")
                yield content
    except zlib.error:
        raise DownloadError("not a gzip file") from None
    if not inflate.eof:
        raise DownloadError("a gzip file cut short", retryable=True)


def _read_file(path: Path) -> Chunks:
    try:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                yield chunk
    except OSError as error:
        raise DownloadError((error.strerror or "not readable").lower()) from None


def _read_url(address: str) -> Chunks:
    import requests
    from urllib3.exceptions import HTTPError, ReadTimeoutError

    # Without "identity" some servers decompress a .gz file on the way, or pack another.
    headers = {"Accept-Encoding": "identity", "User-Agent": "platos-cave"}
    try:
        with (
            requests.Session() as session,
            session.get(address, headers=headers, stream=True, timeout=(CONNECT_TIMEOUT, READ_TIMEOUT)) as response,
        ):
            code = response.status_code
            if code != 200:
                raise DownloadError(f"HTTP {code}", retryable=code in (408, 425, 429) or code >= 500)
            if "html" in response.headers.get("Content-Type", "").lower():
                raise DownloadError("an HTML page instead of the file")
            yield from response.raw.stream(CHUNK, decode_content=False)
    # The messages of the libraries repeat the address with its secrets, in several lines.
    except (requests.Timeout, ReadTimeoutError):
        raise DownloadError("timed out", retryable=True) from None
    except requests.exceptions.SSLError:
        raise DownloadError("its certificate is not accepted") from None
    except requests.ConnectionError:
        raise DownloadError("no connection", retryable=True) from None
    except HTTPError:
        raise DownloadError("broke off", retryable=True) from None
    except (requests.RequestException, ValueError) as error:
        raise DownloadError(f"not usable ({type(error).__name__})") from None


@contextmanager
def counted_bytes(title: str, address: str, size: int | None) -> Iterator[Callable[[int], None]]:
    """Print what is fetched, and report how much of it is there; yield a function to call with the bytes received."""
    print(f"fetching {title} from {without_secrets(address)}", file=sys.stderr, flush=True)
    received = 0
    with counting(title, "MB", (size or 0) // MEGABYTE) as report:

        def advance(count: int) -> None:
            nonlocal received
            received += count
            report(received // MEGABYTE)

        yield advance
