"""The bytes behind an address, web or local: in pieces, no more than allowed, or the reason why not."""

from __future__ import annotations

import re
import sys
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["Pieces", "RefusedError", "is_web", "progress", "public", "stream", "unpack"]

Pieces = Generator[bytes, None, None]

CONNECT, READ = 10.0, 60.0  # seconds to wait for a connection, and for the next bytes
PIECE = 2**18  # bytes


class RefusedError(Exception):
    """An address does not give the file; `again` tells whether it may do so later."""

    def __init__(self, reason: str, again: bool = False) -> None:
        super().__init__(reason)
        self.again = again


def is_web(address: str) -> bool:
    """Is this an address, and not the path of a local file?"""
    return address.lower().startswith(("http://", "https://"))


def public(address: str) -> str:
    """Return an address without user, password, query and fragment, which may be secret."""
    if not is_web(address):
        return address
    # Whatever stands before the last @ goes: a password may hold any character, / and ? among them.
    scheme, _, rest = address.partition("://")
    return f"{scheme}://{re.split('[?#]', rest.rpartition('@')[2])[0]}"


def stream(address: str, most: int) -> Pieces:
    """Yield a file's bytes as published; raise `RefusedError` on any fault and on more than `most` of them."""
    total = 0
    for piece in _web(address) if is_web(address) else _local(Path(address)):
        if total == 0 and piece[:64].lstrip().lower().startswith((b"<!doctype html", b"<html")):
            raise RefusedError("an HTML page instead of the file")
        total += len(piece)
        if total > most:
            raise RefusedError(f"more than {most} bytes")
        yield piece


def unpack(pieces: Pieces, most: int) -> Pieces:
    """Yield the content of a gzip stream; raise `RefusedError` where it is none, is cut short or exceeds `most`."""
    inflate = zlib.decompressobj(wbits=31)
    total = 0
    try:
        for piece in pieces:
            rest = piece
            while rest:
                content = inflate.decompress(rest, PIECE)
                rest = inflate.unconsumed_tail
                total += len(content)
                if total > most:
                    raise RefusedError(f"unpacks to more than {most} bytes")
                yield content
    except zlib.error:
        raise RefusedError("not a gzip file") from None
    if not inflate.eof:
        raise RefusedError("a gzip file cut short", again=True)


def _local(path: Path) -> Pieces:
    try:
        with path.open("rb") as file:
            while piece := file.read(PIECE):
                yield piece
    except OSError as error:
        raise RefusedError((error.strerror or "not readable").lower()) from None


def _web(address: str) -> Pieces:
    import requests
    from urllib3.exceptions import HTTPError, ReadTimeoutError

    # Without "identity" some servers unpack a .gz file on the way, or pack another.
    headers = {"Accept-Encoding": "identity", "User-Agent": "platos-cave"}
    try:
        with (
            requests.Session() as session,
            session.get(address, headers=headers, stream=True, timeout=(CONNECT, READ)) as response,
        ):
            code = response.status_code
            if code != 200:
                raise RefusedError(f"HTTP {code}", again=code in (408, 425, 429) or code >= 500)
            if "html" in response.headers.get("Content-Type", "").lower():
                raise RefusedError("an HTML page instead of the file")
            yield from response.raw.stream(PIECE, decode_content=False)
    # The libraries' own messages repeat the address with all that is secret in it, and fill several lines.
    except (requests.Timeout, ReadTimeoutError):
        raise RefusedError("timed out", again=True) from None
    except requests.exceptions.SSLError:
        raise RefusedError("its certificate is not accepted") from None
    except requests.ConnectionError:
        raise RefusedError("no connection", again=True) from None
    except HTTPError:
        raise RefusedError("broke off", again=True) from None
    except (requests.RequestException, ValueError) as error:
        raise RefusedError(f"not usable ({type(error).__name__})") from None


@contextmanager
def progress(title: str, address: str, size: int | None) -> Iterator[Callable[[int], None]]:
    """Show a bar on a terminal, else print one line; yield what takes the number of bytes that came."""
    if not sys.stderr.isatty():
        print(f"fetching {title} from {public(address)}", file=sys.stderr, flush=True)
        yield lambda count: None
        return
    from rich import progress as rich
    from rich.console import Console

    columns = (rich.TextColumn("{task.description}", markup=False), rich.BarColumn(), rich.DownloadColumn())
    with rich.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=size)
        yield lambda count: bar.advance(task, count)
