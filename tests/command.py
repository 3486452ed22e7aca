"""The command line, called in this process."""

from __future__ import annotations

import contextlib
import io
import sys
import warnings
from collections.abc import Callable

import pytest

from pipeline import cli

__all__ = ["LONGEST", "assert_one_line", "call"]

LONGEST = 600  # characters of an error line


def call(*words: str, main: Callable[[], None] = cli.main) -> tuple[int, str, str]:
    """Run the command line with these words; return exit code, stdout and stderr, with warnings in it."""
    out, err = io.StringIO(), io.StringIO()
    before = sys.argv
    sys.argv = ["cave", *words]
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            warnings.simplefilter("default")
            warnings.filterwarnings("ignore", category=DeprecationWarning, module="mlflow")
            warnings.showwarning = lambda *parts, **more: print(warnings.formatwarning(*parts[:4]), file=sys.stderr)
            with pytest.raises(SystemExit) as ended:
                main()
    finally:
        sys.argv = before
    return int(ended.value.code or 0), out.getvalue(), err.getvalue()


def assert_one_line(code: int, out: str, err: str) -> str:
    """Assert that a command has printed one error line, with exit code 2 and nothing else; return the line."""
    assert (code, out) == (2, ""), err
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 1, err
    assert err.endswith("\n")
    assert err.rstrip("\n").isprintable(), err
    assert len(err) < LONGEST, err[:2000]
    assert "Traceback" not in err
    assert len(err.split()) > 3
    return err
