"""The other side of `peers`: a program that measures what it is asked for, line by line."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

__all__ = ["answer"]


def answer(measure: Callable[..., float], versions: dict[str, str]) -> None:
    """Say which versions are measured, then answer every request, a line of JSON, with a number."""
    words = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer

    def say(word: Any) -> None:
        words.write(json.dumps(word) + "\n")
        words.flush()

    say(versions)
    for line in sys.stdin:
        say(measure(**json.loads(line)))
