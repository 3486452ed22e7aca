"""`cave compare`: the settings in which two sides differ, and their numbers with the differences."""

from __future__ import annotations

import json
import math
import statistics
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.cli.sides import Side, find_sides
from pipeline.errors import InputError
from pipeline.metric import Metric
from pipeline.params.text import format_value
from pipeline.report.intervals import fixed, welch
from pipeline.report.paired import differences
from pipeline.text import align_columns, terminal_width

if TYPE_CHECKING:
    import numpy as np

__all__ = ["compare", "comparison_text"]

MAIN = (
    "nll",
    "elbo",
    "reconstruction",
    "kl",
    "rate",
    "gap",
    "bpd",
    "information",
    "objective",
)  # without `--all`, in this order


@dataclass(frozen=True)
class Number:
    """A metric on both sides: means over seeds, their difference, and half the width of its interval."""

    metric: str
    unit: str
    first: float
    second: float
    difference: float  # second - first
    half: float | None  # null where there is neither a second seed nor a Monte Carlo error
    error: str  # what the interval covers: `seeds and images`, `seeds`, `draws` or `nothing`


@dataclass(frozen=True)
class Comparison:
    """Two sides of one variant, or of the only variant that each of them has."""

    first: str
    second: str
    protocols: Mapping[str, tuple[Any, Any]]  # what differs in how they were measured
    settings: Mapping[str, tuple[Any, Any]]  # that differ, by dotted path
    confidence: float  # of the intervals
    numbers: list[Number]
    notes: list[str]  # what has changed since the numbers were measured


def compare(root: Path, first: str, second: str) -> list[Comparison]:
    """Compare the variants that two sides share; where each has a single one, these.

    Raises:
        InputError: a side is not there, or they share no variant.
    """
    left_out: list[str] = []
    left_sides, right_sides = find_sides(root, first, left_out), find_sides(root, second, left_out)
    for line in dict.fromkeys(left_out):
        print(line, file=sys.stderr)
    pairs = [(left_sides[name], right_sides[name]) for name in left_sides if name in right_sides]
    if not pairs and len(left_sides) == len(right_sides) == 1:
        pairs = list(zip(left_sides.values(), right_sides.values(), strict=True))
    if not pairs:
        words = (", ".join(sides) for sides in (left_sides, right_sides))
        raise InputError(
            f"{first} and {second} share no variant: {' against '.join(words)}; name one, as in STUDY:VARIANT"
        )
    return [_compare(*pair) for pair in pairs]


def _compare(a: Side, b: Side) -> Comparison:
    ignored = ("variants", "budget", "sweep.space", "root", "out", "report")
    settings = {path: both for path, both in _differing(a.settings, b.settings).items() if not path.startswith(ignored)}
    protocols = _differing(a.protocol, b.protocol)
    notes = list(dict.fromkeys(side.note for side in (a, b) if side.note))
    return Comparison(a.label, b.label, protocols, settings, a.confidence, list(_numbers(a, b)), notes)


def _differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    a, b = (json.loads(json.dumps(dict(each), default=list)) for each in (a, b))  # a list that was read is one again
    return {key: (a.get(key), b.get(key)) for key in {**a, **b} if a.get(key) != b.get(key)}


def _numbers(a: Side, b: Side) -> Iterator[Number]:
    first_images, second_images = (_images(side) if a.protocol == b.protocol else {} for side in (a, b))
    for name, values in a.numbers.items():
        if not values or not (others := b.numbers.get(name, {})):
            continue
        first, second = (statistics.fmean(value for value, _ in each.values()) for each in (values, others))
        if name in first_images and name in second_images:
            matrices = {"B": second_images[name], "A": first_images[name]}
            half, error = differences(name, matrices, a.confidence)[0].half, "seeds and images"
        else:
            half, error = None, ""
        if half is None:
            half, error = _half(values, others, a.confidence)
        yield Number(name, Metric.parse(name.removeprefix("valid/")).unit, first, second, second - first, half, error)


def _images(side: Side) -> Mapping[str, np.ndarray]:
    """Return the values [seeds, images] that every test image has; nothing where the tables are not all there."""
    from pipeline.report.inputs import values_of

    if not side.tables or not all(table.is_file() for table in side.tables):
        return {}
    try:
        return values_of(side.tables)
    except (KeyError, ValueError, OSError):
        raise InputError(f"{side.label}: a table of its test images is damaged; evaluate again") from None


Values = Mapping[int, tuple[float, float | None]]


def _half(a: Values, b: Values, confidence: float) -> tuple[float | None, str]:
    """Return half the width of the interval of a difference of means, and what that covers.

    Trainings are independent, so that it is Welch's interval; where one side has a single seed, that of the draws.
    """
    if min(len(a), len(b)) > 1:
        first, second = ([value for value, _ in each.values()] for each in (a, b))
        return welch(first, second, confidence), "seeds"
    errors = [se for each in (a, b) for _, se in each.values()]
    if any(se is None for se in errors):
        return None, "nothing"
    from scipy.special import ndtri

    of_means = [sum((se or 0) ** 2 for _, se in each.values()) / len(each) ** 2 for each in (a, b)]
    return float(ndtri((1 + confidence) / 2)) * math.sqrt(sum(of_means)), "draws"


def comparison_text(comparison: Comparison, every: bool) -> str:
    """Return a comparison for a terminal: settings that differ, then numbers; `every` shows all of them."""
    lines = [f"A  {comparison.first}", f"B  {comparison.second}", ""]
    if comparison.settings:
        rows = [[path, *(_short(value) for value in values)] for path, values in comparison.settings.items()]
        table = align_columns([["settings that differ", "A", "B"], *rows])
        if max(map(len, table)) > terminal_width():
            words = [f"{path}: A {first}, B {second}" for path, first, second in rows]
            table = ["settings that differ", *(line for text in words for line in _wrapped(text))]
        lines += [*table, ""]
    else:
        lines += ["all settings are equal", ""]
    chosen = comparison.numbers if every else sorted(filter(_position, comparison.numbers), key=_position)
    rows = [["number", "A", "B", "B - A"]]
    for number in chosen:
        change = fixed(number.difference, 3)
        half = "" if number.half is None else f" ± {fixed(number.half, 3)}"
        name = f"{number.metric} ({number.unit})"
        rows.append([name, fixed(number.first, 3), fixed(number.second, 3), change + half])
    table = align_columns(rows, right=True)
    if max(map(len, table)) > terminal_width():  # the change alone
        table = align_columns([[row[0].partition(" (")[0], row[3]] for row in rows], right=True)
    foot = [
        *_covered(chosen, comparison.confidence),
        *_warnings(comparison),
        *comparison.notes,
    ]
    return "\n".join([*lines, *table, "", *(line for text in foot for line in _wrapped(text))])


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, terminal_width(), subsequent_indent="  ")


def _position(number: Number) -> int:
    """Return the place of a number among the main ones, from 1; 0 for others."""
    metric = Metric.parse(number.metric.removeprefix("valid/"))
    whole = metric.level is None or metric.term in ("rate", "information")
    return 1 + MAIN.index(metric.term) if metric.term in MAIN and whole and not metric.side else 0


def _covered(numbers: Sequence[Number], confidence: float) -> Iterator[str]:
    """Say what the intervals cover: those of most numbers, and then of which ones another thing."""
    texts = {
        "seeds and images": "over seeds and test images, as in the report",
        "seeds": "over seeds",
        "draws": "of the Monte Carlo draws alone; with one seed, nothing is known of other trainings",
    }
    kinds = [error for error in texts if any(number.error == error for number in numbers)]
    for error in kinds:
        names = ", ".join(number.metric for number in numbers if number.error == error)
        yield f"±{'' if error == kinds[0] else f' of {names}'}: {confidence:.0%} interval {texts[error]}"


def _warnings(comparison: Comparison) -> Iterator[str]:
    """Say why the numbers cannot be compared, if they cannot."""
    for key, (first, second) in comparison.protocols.items():
        yield f"the numbers were measured differently and cannot be compared: {key} is {first} in A and {second} in B"


def _short(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else format_value(value)
    return text if len(text) <= 40 else text[:37] + "..."
