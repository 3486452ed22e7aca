"""Standard output that any terminal and any pipe can take."""

from __future__ import annotations

import codecs
import io
import os
import signal
import sys

from pipeline.processes import signals

__all__ = ["safe_output"]

PLAIN = {"±": "+/-", "…": "...", "–": "-", "−": "-", "“": '"', "”": '"', "’": "'", "→": "->", "×": "x"}
HANDLER = "platos-cave"  # the name under which Python knows the error handler


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
