"""What a user can mend: one clear line, exit code 2, never a traceback; and no password in anything that is told."""

from __future__ import annotations

import atexit
import difflib
import errno
import gc
import json
import os
import re
import signal
import sqlite3
import sys
from collections.abc import Callable, Iterable
from urllib.parse import parse_qsl, quote, quote_plus, unquote, unquote_plus

from pipeline import signals
from pipeline.text import safe_output

__all__ = [
    "AGAIN",
    "SECRETS",
    "InputError",
    "LostError",
    "RunError",
    "guarded",
    "nearest",
    "one_line",
    "outside",
    "passwords",
    "redacted",
    "without_password",
]

AGAIN = 75  # exit code of a worker that is to be started again, as one that a signal killed

ADDRESSES = ("MLFLOW_TRACKING_URI", "CAVE_OPTUNA_URL", "CAVE_DATA_MIRROR")  # that may hold a password
SECRETS = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "PGPASSWORD")
SHORTEST = 4  # letters of a password that is looked for outside addresses
LONGEST = 2000  # characters of a line
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)  # what may fail wherever a file is written
IN_QUERY = re.compile(r"pass|pwd|token|secret", re.IGNORECASE)


def passwords() -> list[str]:
    """Return the passwords that the environment holds, in every form that libraries write, the longest first."""
    found = {os.environ.get(name, "") for name in SECRETS}
    for address in (os.environ.get(name, "") for name in ADDRESSES):
        rest = address.partition("://")[2]
        # A password may hold an @ or a ?, and so may what follows it.
        words = [part.rpartition("@")[0].partition(":")[2] for part in (rest, rest.partition("?")[0])]
        words += [value for key, value in parse_qsl(rest.partition("?")[2]) if IN_QUERY.search(key)]
        found |= {form for word in words for form in (word, unquote(word), unquote_plus(word))}
    return sorted((form for form in _forms(found) if len(form) >= SHORTEST), key=len, reverse=True)


def _forms(words: Iterable[str]) -> set[str]:
    """Return words as they are, and as addresses, Python and JSON write them."""
    found = set()
    for word in words:
        codes = {quote(word, safe=""), quote(word), quote(word, safe=" +"), quote_plus(word)}
        lower = {re.sub("%..", lambda match: match[0].lower(), code) for code in codes}
        found |= {word, repr(word)[1:-1], json.dumps(word)[1:-1], json.dumps(word, ensure_ascii=False)[1:-1]}
        found |= codes | lower
    return found


def redacted(text: str) -> str:
    """Return a text without the environment's passwords, and without user and password in any address in it."""
    # Whole addresses first: in them a password may be of any length, and hold what ends an address elsewhere.
    for address in (os.environ.get(name, "") for name in ADDRESSES):
        if "://" in address and (told := without_password(address)) != address:
            text = text.replace(address, told)
    for word in passwords():
        text = text.replace(word, "***")
    return re.sub(r"://[^\s:@/'\"]*:[^\s@/'\"]*@", "://", text)


def without_password(uri: str) -> str:
    """Return an address without the user and the password in it, and without its query, which may hold one too."""
    scheme, sign, rest = uri.partition("://")
    # Whatever stands before the last @ goes: a password may hold any character, a ? among them.
    rest = rest if rest.startswith("/") else rest.rpartition("@")[2]  # a file has no user
    return scheme + sign + rest.partition("?")[0]


def one_line(text: str) -> str:
    """Return a text as one line that can be told: without a password, and without what a terminal would obey."""
    line = redacted(" ".join(text.splitlines()))
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)[:LONGEST]


class _ToldError(Exception):
    """An error whose message is one line, whatever it was made of, and holds no password."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class InputError(_ToldError):
    """A fault outside the program (a parameter, a file, an address), told in one line."""


class RunError(_ToldError):
    """A run that had to stop (a bound that is not finite, too many failed trials), told in one line."""


class LostError(RunError):
    """A database was lost, and with it the right to go on: who meets it stops as if killed, to be started again."""


def nearest(name: str, choices: Iterable[str]) -> str:
    """Say ` (did you mean 'x'?)` for the choice closest to `name`, or nothing where none is close."""
    match = difflib.get_close_matches(name, list(choices), n=1)
    return f" (did you mean '{match[0]}'?)" if match else ""


def outside(error: BaseException | None) -> str:
    """Tell what is wrong with the disk or a database, where an error, or what led to it, comes from there."""
    if error is None:
        return ""
    if isinstance(error, OSError) and error.errno in DISK:
        return f"{error.filename or 'the disk'}: cannot be used: {error.strerror}"
    if isinstance(error, sqlite3.OperationalError) or type(error) is sqlite3.DatabaseError:  # its kinds are ours
        return f"a database cannot be used: {error}"
    return outside(error.__cause__ or (None if error.__suppress_context__ else error.__context__))


def guarded(main: Callable[[], None]) -> None:
    """Run `main`; a fault becomes one line on stderr and exit code 2 (input), 1 (run) or 130 (Ctrl-C; 143, 129, 141).

    What nobody foresaw keeps its traceback, less the passwords in it: a library tells the address it failed at.
    """
    # What was imported stays: to search it for garbage takes imports a quarter of their time, an end half a second.
    gc.freeze()
    gc.enable()
    atexit.register(gc.freeze)
    safe_output()
    with signals.hearing():
        worker = signals.WORKER in os.environ
        if "DVC_STAGE" in os.environ and not worker:  # nobody would take over what a stage without its DVC makes
            signals.follow(os.getppid(), signal.SIGTERM)
        try:
            try:
                main()
            finally:
                sys.stdout.flush()  # here, where a fault of the output is still heard
        except RunError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(1)
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)
        except KeyboardInterrupt:
            if not worker and signals.status() != 128 + signal.SIGPIPE:  # one word for all workers; none for a pipe
                print("stopped; run the same command to go on", file=sys.stderr)
            sys.stdout.flush()
            os._exit(signals.status())
        except Exception as error:
            if told := outside(error):
                print(one_line(f"error: {told}; `cave doctor` says what mends it"), file=sys.stderr)
                sys.exit(2)
            import traceback

            print(redacted(traceback.format_exc()), end="", file=sys.stderr)
            sys.exit(1)
