"""The pipe that a worker writes to instead of the terminal: lines, and statuses as lines that begin with a mark.

Nothing here is needed for a result: a status that finds its pipe full is dropped.
"""

from __future__ import annotations

import json
import os
import select
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict

from pipeline import progress
from pipeline.environment import sends_status
from pipeline.progress import Status

__all__ = ["Pipe", "send_statuses"]

MARK = "\x1e"  # begins a status


class Pipe:
    """The pipe that a worker writes to instead of the terminal."""

    def __init__(self) -> None:
        self.source, self.sink = os.pipe()
        os.set_blocking(self.source, False)
        self.rest = b""
        self.status: Status | None = None

    def become_output(self) -> None:
        """In a process that was just forked, write to this pipe instead of stdout and stderr."""
        for file in (1, 2):
            os.dup2(self.sink, file)
        os.close(self.sink)
        os.close(self.source)

    def close_sink(self) -> None:
        """Close this process's copy of the end that the worker writes to."""
        os.close(self.sink)

    def close(self) -> None:
        """Close the end that is read."""
        os.close(self.source)

    def read(self) -> Iterator[Status | str]:
        """Yield the statuses and the lines that were written since the last call."""
        chunks = [self.rest]
        try:
            while chunk := os.read(self.source, 1 << 16):
                chunks.append(chunk)
        except BlockingIOError:
            pass
        *lines, self.rest = b"".join(chunks).split(b"\n")
        for line in lines:
            text, mark, status = line.decode("utf-8", "replace").partition(MARK)
            if text or not mark:
                yield text
            with suppress(ValueError, TypeError):  # a mark in a line of another program is no status
                if mark:
                    yield Status(**json.loads(status))


def send_statuses() -> None:
    """In a worker whose output is read by a picture, send it every status of this process's work."""
    if sends_status():
        progress.connect(_send(sys.stdout.fileno()))


def _send(file: int) -> Callable[[Status], None]:
    def send(status: Status) -> None:
        line = f"{MARK}{json.dumps(asdict(status))}\n".encode()
        if len(line) <= select.PIPE_BUF and select.select([], [file], [], 0)[1]:  # then it is written at once
            with suppress(BrokenPipeError):
                os.write(file, line)

    return send
