"""The written comparison as a text for a terminal. It is read from `table.csv` and `table.md`, so no library is loaded.

A column is a variant, a row a number; above stands how it was measured, below what may be said.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

from pipeline.evaluations import retrained_line
from pipeline.files import read_csv
from pipeline.metric import Metric
from pipeline.report.inputs import needed, reading
from pipeline.report.intervals import Interval
from pipeline.report.search import search_text
from pipeline.report.tables import short_measure
from pipeline.study import Study
from pipeline.text import align_columns, terminal_width

__all__ = ["overview", "table_text"]

# Of table.csv; what is named without a level is shown with all of its levels.
SHOWN = (
    "elbo",
    "reconstruction",
    "kl",
    "rate",
    "chain_kl",
    "nll",
    "gap",
    "bpd",
    "bdmc/width",
    "informative",
    "information",
    "seconds",
)


def overview(study: Study) -> str:
    """Return what a study has to show: its comparison, or, of a search whose settings were not trained, its trials."""
    trained = any(study.train(variant).exists() for variant in study.params.variants)
    searched = not trained or any((study.sweep(variant) / "best.json").exists() for variant in study.params.variants)
    if study.is_standalone and searched and not (study.report / "table.csv").exists():
        return search_text(study)
    lines = [line for variant in study.params.variants if (line := retrained_line(study, variant))]
    return "\n\n".join([*lines, table_text(study)])


def table_text(study: Study) -> str:
    """Return the written table for a terminal: protocol, numbers, verdict."""
    with reading(study, study.report / "table.csv", "report") as path:
        return _text(study, read_csv(path))


def _text(study: Study, rows: list[dict[str, str]]) -> str:
    needed(study, study.report / "table.md", "report")
    table = [["", *(row["variant"] for row in rows)]]
    table += [[key, *(row[key] for row in rows)] for key in ("depth", "widths", "likelihood")]
    table += [["measure", *(short_measure(row["measure"]) for row in rows)]]
    table += [[key, *(row[key] for row in rows)] for key in ("parameters", "searched", "seeds")]
    if any(row["nll error"] != "reliable" for row in rows):
        table += [["nll error", *(row["nll error"] for row in rows)]]
    for column in rows[0]:
        name, bracket, unit = column.partition(" [")
        metric = Metric.parse(name)
        shown = name in SHOWN or (metric.level is not None and metric.term in SHOWN)
        if bracket and shown and not name.endswith(" half"):
            part = f"{name} seeds"
            cells = [_cell(row[column], row.get(f"{name} half [{unit}", ""), row.get(part, "")) for row in rows]
            table.append([f"{name} ({unit[:-1]})", *cells])
    spread = f"mean ± {float(rows[0]['confidence']):.0%} interval over seeds, and over images for what every image has"
    about = [*_about(study.name, rows), *textwrap.wrap(spread, terminal_width())]
    width = terminal_width()
    return "\n".join([*about, "", *_fitted(table, width), "", *textwrap.wrap(study.verdict, width)])


def _fitted(table: list[list[str]], width: int) -> list[str]:
    """Return the lines of a table; where the variants do not fit side by side, those that do, and the others below."""
    lines, first = list[str](), 1
    while first < len(table[0]):
        last = len(table[0])
        while True:
            part = align_columns([[row[0], *row[first:last]] for row in table], right=True)
            if last == first + 1 or max(map(len, part)) <= width:
                break
            last -= 1
        lines += [*([""] if lines else []), part[0], "-" * max(map(len, part)), *part[1:]]
        first = last
    return lines


def _about(study: str, rows: list[dict[str, str]]) -> list[str]:
    """Say what was measured and how; where that differs between variants, for each of them."""
    protocols: dict[str, list[str]] = {}
    for row in rows:
        protocols.setdefault(_protocol(row), []).append(row["variant"])
    return [
        line
        for text, variants in protocols.items()
        for line in textwrap.wrap(
            f"study {study}{'' if len(protocols) == 1 else ', ' + ' and '.join(variants)}: {text}", terminal_width()
        )
    ]


def _protocol(row: Mapping[str, str]) -> str:
    protocol = {key.removeprefix("protocol/"): value for key, value in row.items() if key.startswith("protocol/")}
    noise = ", dequantization {dequantization}" if protocol.get("dequantization") else ""
    return (
        "{data} (digest {digest:.8}), protocol {protocol}, binarization {binarization}"
        + noise
        + "; {images} test images, {draws} draws each"
    ).format_map(protocol)


def _cell(mean: str, half: str, part: str) -> str:
    return str(Interval(float(mean), float(half) if half else None, part)) if mean else ""
