"""Text for people: counts with their nouns, aligned columns, and output that any terminal and any pipe can take."""

from __future__ import annotations

import codecs
import io
import os
import shutil
import signal
import sys
from collections.abc import Sequence

from pipeline import signals

__all__ = ["bias", "columns", "plural", "safe_output", "terminal_width"]

PLAIN = {"±": "+/-", "…": "...", "–": "-", "−": "-", "“": '"', "”": '"', "’": "'", "→": "->", "×": "x"}
HANDLER = "platos-cave"  # the name under which Python knows the error handler
WIDEST = 118  # columns of a text whose reader's width is not known


def plural(count: int, noun: str) -> str:
    """Return a count with its noun.

    >>> plural(1, "run"), plural(2, "epoch"), plural(0, "study"), plural(2, "search")
    ('1 run', '2 epochs', '0 studies', '2 searches')
    """
    if count == 1:
        return f"{count} {noun}"
    if noun.endswith(("s", "x", "ch", "sh")) and noun != "epoch":
        return f"{count} {noun}es"
    if noun.endswith("y") and noun[-2:-1] not in "aeiou":
        return f"{count} {noun[:-1]}ies"
    return f"{count} {noun}s"


def bias(reliable: bool, nats: float | None, rough: bool) -> str:
    """Say by how much a negative log-likelihood exceeds -log p(x), nothing where that is small.

    >>> bias(False, 0.312, False), bias(False, 0.003, True), bias(False, None, False), bias(True, 0.0, False)
    ('by about 0.31 nats', 'by roughly 0.003 nats', 'by an unknown amount', '')
    """
    if reliable:
        return ""
    return "by an unknown amount" if nats is None else f"by {'roughly' if rough else 'about'} {nats:.2g} nats"


def columns(rows: Sequence[Sequence[str]], right: bool = False) -> list[str]:
    """Return one line per row, its cells aligned: to the left, or, but for the first column, to the right.

    >>> columns([["a", "10"], ["long", "2"]], right=True)
    ['a     10', 'long   2']
    """
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    pad = [str.ljust, *[str.rjust if right else str.ljust] * (len(widths) - 1)]
    return ["  ".join(put(cell, w) for put, cell, w in zip(pad, row, widths, strict=True)).rstrip() for row in rows]


def terminal_width() -> int:
    """Return how many columns the reader's terminal has (COLUMNS, if it is set), at most 118; a pipe counts as wide."""
    return max(20, min(WIDEST, shutil.get_terminal_size((WIDEST, 24)).columns))


def safe_output() -> None:
    """Make stdout and stderr of this process take any text, and end the process cleanly where its reader has gone.

    What the encoding cannot show is replaced: `±` by `+/-`, other letters by their escapes. A closed pipe
    (`cave show | head -1`) asks for a clean end as a closed terminal does; what it asks of stderr is ignored.
    """
    codecs.register_error(HANDLER, _replace)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # it was closed before the process began
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper) and stream is getattr(sys, f"__{name}__"):
            kinds = {kind: getattr(stream, kind) for kind in ("encoding", "line_buffering", "write_through")}
            wrapped = _Stream(stream.detach(), errors=HANDLER, **kinds)
            setattr(sys, name, wrapped)
            setattr(sys, f"__{name}__", wrapped)


def _replace(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    bad = error.object[error.start : error.end]
    text = "".join(PLAIN.get(letter) or letter.encode("ascii", "backslashreplace").decode() for letter in bad)
    return text, error.end


class _Stream(io.TextIOWrapper):
    """A text stream on which a reader that has gone is a request to end, and no error of whatever is written."""

    def write(self, text: str, /) -> int:
        try:
            return super().write(text)
        except BrokenPipeError:
            self._closed()
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except BrokenPipeError:
            self._closed()

    def _closed(self) -> None:
        sink = os.open(os.devnull, os.O_WRONLY)
        os.dup2(sink, self.fileno())  # whatever is written from here on, at the end of the process too
        os.close(sink)
        if self.fileno() == 1:
            signals.request_end(signal.SIGPIPE)
