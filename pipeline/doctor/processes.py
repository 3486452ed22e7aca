"""Processes of this machine, as psutil (which DVC installs) lists them: what they run, where, and on which files.

Those of other users hide their folders and files from all but root.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

__all__ = ["command", "holders", "working"]

STARTED = ("python", "git")  # what `cave reproduce` starts
LONGEST = 80  # letters of a command


def command(pid: int) -> str | None:
    """Return the command of a living process, or nothing where there is none of that number."""
    try:
        return " ".join(psutil.Process(pid).cmdline()).strip()[:LONGEST]
    except psutil.AccessDenied:
        return "a command of another user, which may be dvc"
    except (psutil.Error, ValueError, OverflowError):
        return None


def holders(path: Path) -> dict[int, str]:
    """Return by their ids the commands of other processes that are seen to have a file open."""
    commands = {}
    for process in _others():
        try:
            if any(file.path == str(path.resolve()) for file in process.open_files()):
                commands[process.pid] = command(process.pid) or ""
        except psutil.Error:
            continue
    return commands


def working(folder: Path) -> bool | None:
    """Does a process work in a folder? None where one that may be `cave reproduce`'s hides its folder."""
    hidden = False
    for process in _others():
        with suppress(psutil.Error):  # it has ended
            try:
                if Path(process.cwd()).is_relative_to(folder.resolve()):
                    return True
            except psutil.AccessDenied:
                hidden |= process.name().lower().startswith(STARTED)
    return None if hidden else False


def _others() -> Iterator[psutil.Process]:
    return (process for process in psutil.process_iter() if process.pid != os.getpid())
