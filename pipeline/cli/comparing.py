"""`cave compare`: the settings in which two sides differ, and their numbers with the differences."""

from __future__ import annotations

import math
import statistics
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.cli.sides import Side, find_sides
from pipeline.errors import InputError
from pipeline.metric import Metric
from pipeline.params.text import format_value
from pipeline.report.intervals import fixed, interval
from pipeline.text import align_columns, terminal_width

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
    error: str  # what the interval covers: `paired seeds`, `seeds` or `draws`


@dataclass(frozen=True)
class Comparison:
    """Two sides of one variant, or of the only variant that each of them has."""

    first: str
    second: str
    protocols: Mapping[str, tuple[Any, Any]]  # what differs in how they were measured
    settings: Mapping[str, tuple[Any, Any]]  # that differ, by dotted path
    confidence: float  # of the intervals
    numbers: list[Number]


def compare(root: Path, first: str, second: str) -> list[Comparison]:
    """Compare the variants that two sides share; where each has a single one, these.

    Raises:
        InputError: a side is not there, or they share no variant.
    """
    left_sides, right_sides = find_sides(root, first), find_sides(root, second)
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
    return Comparison(a.label, b.label, protocols, settings, a.confidence, list(_numbers(a, b)))


def _differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    return {key: (a.get(key), b.get(key)) for key in {**a, **b} if a.get(key) != b.get(key)}


def _numbers(a: Side, b: Side) -> Iterator[Number]:
    for name, values in a.numbers.items():
        if not values or not (others := b.numbers.get(name, {})):
            continue
        first, second = (statistics.fmean(value for value, _ in each.values()) for each in (values, others))
        half, error = _half(values, others, a.confidence)
        yield Number(name, Metric.parse(name.removeprefix("valid/")).unit, first, second, second - first, half, error)


Values = Mapping[int, tuple[float, float | None]]


def _half(a: Values, b: Values, confidence: float) -> tuple[float | None, str]:
    """Return half the width of the interval of a difference of means, and what that covers.

    Student's interval of the differences of equal seeds, Welch's where the seeds differ, and that of the draws where
    one side has a single seed.
    """
    from scipy.special import ndtri, stdtrit

    shared = sorted(a.keys() & b.keys())
    if len(shared) > 1 and len(shared) == len(a) == len(b):
        return interval([b[seed][0] - a[seed][0] for seed in shared], confidence).half, "paired seeds"
    if min(len(a), len(b)) > 1:
        parts = [(statistics.variance(value for value, _ in each.values()) / len(each), len(each)) for each in (a, b)]
        total = sum(part for part, _ in parts)
        freedom = total**2 / sum(part**2 / (count - 1) for part, count in parts) if total else math.inf
        return float(stdtrit(freedom, (1 + confidence) / 2)) * math.sqrt(total) if total else 0.0, "seeds"
    errors = [se for each in (a, b) for _, se in each.values()]
    if any(se is None for se in errors):
        return None, "nothing"
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
    foot = [*_covered({number.error for number in chosen}, comparison.confidence), *_warnings(comparison)]
    return "\n".join([*lines, *table, "", *(line for text in foot for line in _wrapped(text))])


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, terminal_width(), subsequent_indent="  ")


def _position(number: Number) -> int:
    """Return the place of a number among the main ones, from 1; 0 for others."""
    metric = Metric.parse(number.metric.removeprefix("valid/"))
    whole = metric.level is None or metric.term in ("rate", "information")
    return 1 + MAIN.index(metric.term) if metric.term in MAIN and whole and not metric.side else 0


def _covered(errors: set[str], confidence: float) -> Iterator[str]:
    """Say what the intervals cover."""
    texts = {
        "paired seeds": "over seeds, of the differences of equal seeds",
        "seeds": "over seeds, which differ on the two sides",
        "draws": "of the Monte Carlo draws alone; with one seed, nothing is known of other trainings",
    }
    yield from (f"±: {confidence:.0%} interval {text}" for error, text in texts.items() if error in errors)


def _warnings(comparison: Comparison) -> Iterator[str]:
    """Say why the numbers cannot be compared, if they cannot."""
    for key, (first, second) in comparison.protocols.items():
        yield f"the numbers were measured differently and cannot be compared: {key} is {first} in A and {second} in B"


def _short(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else format_value(value)
    return text if len(text) <= 40 else text[:37] + "..."
