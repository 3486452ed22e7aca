"""Text for people: counts with their nouns, aligned columns, and the nearest spelling."""

from __future__ import annotations

import difflib
import shutil
from collections.abc import Iterable, Sequence

__all__ = ["NARROW", "align_columns", "by_level", "describe_bias", "did_you_mean", "plural", "terminal_width"]

WIDEST = 118  # columns of a text whose reader's width is not known
LISTED = 8  # levels of equal units that are listed one by one
NARROW = 60  # columns below which a table leaves out what is not needed


def plural(count: int, noun: str) -> str:
    """Return a count with its noun.

    >>> plural(1, "run"), plural(2, "epoch"), plural(0, "study"), plural(2, "search")
    ('1 run', '2 epochs', '0 studies', '2 searches')
    """
    if count == 1:
        return f"{count} {noun}"
    if noun.endswith(("s", "x", "ch", "sh")) and noun != "epoch":
        return f"{count} {noun}es"
    if noun.endswith("y") and noun[-2:-1] not in "aeiou":
        return f"{count} {noun[:-1]}ies"
    return f"{count} {noun}s"


def describe_bias(reliable: bool, nats: float | None, rough: bool) -> str:
    """Say by how much a negative log-likelihood exceeds -log p(x), nothing where that is small.

    >>> describe_bias(False, 0.312, False), describe_bias(False, 0.003, True)
    ('by about 0.31 nats', 'by roughly 0.003 nats')
    >>> describe_bias(False, None, False), describe_bias(True, 0.0, False)
    ('by an unknown amount', '')
    """
    if reliable:
        return ""
    return "by an unknown amount" if nats is None else f"by {'roughly' if rough else 'about'} {nats:.2g} nats"


def align_columns(rows: Sequence[Sequence[str]], right: bool = False) -> list[str]:
    """Return one line per row, its cells aligned: to the left, or, but for the first column, to the right.

    >>> align_columns([["a", "10"], ["long", "2"]], right=True)
    ['a     10', 'long   2']
    """
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    pad = [str.ljust, *[str.rjust if right else str.ljust] * (len(widths) - 1)]
    return ["  ".join(put(cell, w) for put, cell, w in zip(pad, row, widths, strict=True)).rstrip() for row in rows]


def by_level(units: Sequence[int], separator: str = " + ") -> str:
    """Return the units of all levels, from z_1 up; of many equal ones their number.

    >>> by_level([16, 8]), by_level([64] * 1000)
    ('16 + 8', '1000 x 64')
    """
    if len(units) > LISTED and len(set(units)) == 1:
        return f"{len(units)} x {units[0]}"
    return separator.join(map(str, units))


def terminal_width() -> int:
    """Return how many columns the reader's terminal has (COLUMNS, if it is set), at most 118; a pipe counts as wide."""
    return max(20, min(WIDEST, shutil.get_terminal_size((WIDEST, 24)).columns))


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """Say ` (did you mean 'x'?)` for the choice closest to `name`, or nothing where none is close."""
    match = difflib.get_close_matches(name, list(choices), n=1)
    return f" (did you mean '{match[0]}'?)" if match else ""
