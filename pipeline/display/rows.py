"""The rows of the picture: a status each, in columns, as many of them as the terminal has room for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.progress import Status, seconds_text
from pipeline.text import NARROW

__all__ = ["rows"]

LEAST_BAR, LONGEST_BAR = 8, 40  # cells
LEFTWARDS = ("name", "step")  # columns that are aligned to the left
COLUMNS = ("name", "step", "bar", "value", "best", "rate", "left")  # from left to right
NEEDED = ("name", "step", "left", "value", "best", "rate")  # from what is always shown to what is left out first


def _cells(status: Status, prefix: str) -> dict[str, str]:
    counts = f"{status.done} of {status.total}" if status.total else ""
    return {
        "name": status.name.removeprefix(prefix).lstrip(": "),
        "step": counts if status.what == "epoch" else ", ".join(filter(None, (status.what, counts))) or "at work",
        "value": "" if status.value is None else f"{status.value:.3f}",
        "best": "" if status.best is None else f"{status.best:.3f}",
        "rate": status.rate,
        "left": "" if status.seconds_left is None else seconds_text(status.seconds_left),
    }


def rows(statuses: Sequence[Status], prefix: str, metric: str, width: int, letters: tuple[str, str]) -> list[str]:
    """Return a line for each status under a header, with the columns that there is room for.

    Args:
        statuses: of what is at work.
        prefix: what the names begin with, and the rows leave out.
        metric: name of the bound.
        width: cells of a line.
        letters: draw what is done of a bar, and the rest.
    """
    if not statuses:
        return []
    trained = any(status.value is not None for status in statuses)
    bound = metric if width >= NARROW else metric.split("/")[-1]
    header = {"step": "epoch" if trained else "", "value": bound, "best": "best", "rate": "images/s", "left": "left"}
    cells = [_cells(status, prefix) for status in statuses]
    columns = [column for column in NEEDED if any(row[column] for row in cells)]
    wide = {column: max(len(row.get(column, "")) for row in (header, *cells)) for column in columns}
    while len(columns) > 1 and _total(wide, columns) > width:
        columns.pop()
    bar = min(LONGEST_BAR, width - _total(wide, columns) - 2)
    lines = []
    for row, fraction in zip((header, *cells), (None, *(status.fraction for status in statuses)), strict=True):
        words = []
        for column in COLUMNS:
            text = row.get(column, "")
            if column == "bar" and bar >= LEAST_BAR:
                full = 0 if fraction is None else round(bar * fraction)
                words.append(" " * bar if fraction is None else letters[0] * full + letters[1] * (bar - full))
            elif column in columns:
                words.append(text.ljust(wide[column]) if column in LEFTWARDS else text.rjust(wide[column]))
        lines.append("  ".join(words).rstrip()[:width])
    return lines if lines[0] else lines[1:]


def _total(wide: Mapping[str, int], columns: Sequence[str]) -> int:
    return sum(wide[column] for column in columns) + 2 * (len(columns) - 1)
