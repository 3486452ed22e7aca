"""How long the command line takes to begin, against an interpreter that does nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from experiments.speed.ratio import Row, alternate, row

__all__ = ["measure"]

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = {
    "cave --help": (["-m", "pipeline", "--help"], 0),
    "a parameter error": (["-m", "pipeline", "check", "--set", "model.depth=0"], 2),
    "cave check": (["-m", "pipeline", "check"], 0),
    "an empty program": (["-c", "pass"], 0),
}


def milliseconds(words: list[str], code: int) -> float:
    """Return how long a command takes that ends with an exit code."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, env=os.environ)
    spent = 1000 * (time.perf_counter() - start)
    if done.returncode != code:
        raise SystemExit(f"start-up: {' '.join(words)} ended with {done.returncode}: {done.stderr.decode()[-200:]}")
    return spent


def measure(repetitions: int) -> Iterator[Row]:
    """Yield the ratio of every command."""
    taken = alternate({name: partial(milliseconds, *command) for name, command in COMMANDS.items()}, repetitions)
    *names, empty = COMMANDS
    for name in names:
        yield row("start-up", f"{name} / {empty}", taken, (name, empty), "ms", "less")
