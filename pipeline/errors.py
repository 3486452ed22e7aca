"""What a user can mend: one clear line, exit code 2, never a traceback."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Callable, Iterable

__all__ = ["InputError", "RunError", "guarded", "nearest"]


class _ToldError(Exception):
    """An error whose message is one line, whatever it was made of."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.splitlines()))


class InputError(_ToldError):
    """A fault outside the program (a parameter, a file, an address), told in one line."""


class RunError(_ToldError):
    """A run that had to stop (a bound that is not finite, too many failed trials), told in one line."""


def nearest(name: str, choices: Iterable[str]) -> str:
    """Say ` (did you mean 'x'?)` for the choice closest to `name`, or nothing where none is close."""
    match = difflib.get_close_matches(name, list(choices), n=1)
    return f" (did you mean '{match[0]}'?)" if match else ""


def guarded(main: Callable[[], None]) -> None:
    """Run `main`; a fault becomes one line on stderr and exit code 2 (input), 1 (run) or 130 (Ctrl-C)."""
    try:
        main()
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        if "CAVE_WORKER_OF" not in os.environ:  # one word for all workers
            print("stopped; run the same command to go on", file=sys.stderr)
        sys.stdout.flush()
        os._exit(130)
