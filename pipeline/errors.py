"""Errors that are reported in one line, without a traceback and without passwords."""

from __future__ import annotations

import errno
import sqlite3

from pipeline.redaction import one_line

__all__ = ["DisconnectedError", "InputError", "RunError", "external_fault"]

DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)  # what may fail wherever a file is written


class _ToldError(Exception):
    """An error whose message is one line, whatever it was made of, and holds no password."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class InputError(_ToldError):
    """A fault outside the program (a parameter, a file, an address), told in one line."""


class RunError(_ToldError):
    """A run that had to stop (a bound that is not finite, too many failed trials), told in one line."""


class DisconnectedError(RunError):
    """A database was lost, and with it the right to go on: who meets it stops as if killed, to be started again."""


def external_fault(error: BaseException | None) -> str:
    """Tell what is wrong with the disk or a database, where an error, or what led to it, comes from there."""
    if error is None:
        return ""
    if isinstance(error, OSError) and error.errno in DISK:
        return f"{error.filename or 'the disk'}: cannot be used: {error.strerror}"
    if isinstance(error, sqlite3.OperationalError) or type(error) is sqlite3.DatabaseError:  # its kinds are ours
        return f"a database cannot be used: {error}"
    return external_fault(error.__cause__ or (None if error.__suppress_context__ else error.__context__))
