"""Errors that are reported in one line, without a traceback and without passwords."""

from __future__ import annotations

import errno
import sqlite3

from pipeline.redaction import one_line

__all__ = ["DisconnectedError", "InputError", "RunError", "external_fault"]

DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)  # what may fail wherever a file is written


class _OneLineError(Exception):
    """An error whose message is one line, whatever it was made of, and holds no password."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class InputError(_OneLineError):
    """An error in the program's input (a parameter, a file, an address), reported in one line; exit code 2."""

    @classmethod
    def of_disk(cls, error: OSError, path: object, verb: str = "written") -> InputError:
        """Return the error of a file or folder that cannot be read, written or removed (`verb`), with the reason."""
        return cls(f"{path}: cannot be {verb}: {error.strerror or error}")


class RunError(_OneLineError):
    """A run that had to stop (a bound is not finite, too many trials failed), reported in one line; exit code 1."""


class DisconnectedError(RunError):
    """The connection to a database was lost: the process stops as if killed, and is started again."""


def external_fault(error: BaseException | None) -> str:
    """Return what is wrong with the disk or a database if an error, or its cause, comes from there; else nothing."""
    if error is None:
        return ""
    if isinstance(error, OSError) and error.errno in DISK:
        return f"{error.filename or 'the disk'}: cannot be used: {error.strerror}"
    if isinstance(error, sqlite3.OperationalError) or type(error) is sqlite3.DatabaseError:  # its kinds are ours
        return f"a database cannot be used: {error}"
    return external_fault(error.__cause__ or (None if error.__suppress_context__ else error.__context__))
