"""The written comparison as a text for a terminal. It is read from `table.csv` and `table.md`, so no library is loaded.

A column is a variant, a row a number; above stands how it was measured, below what may be said.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

from pipeline.files import read_csv
from pipeline.report.inputs import needed, reading
from pipeline.report.intervals import Interval
from pipeline.report.tables import short_measure, verdict
from pipeline.study import Study

__all__ = ["table_text"]

# Of table.csv; what is named without a level is shown with all of its levels.
SHOWN = ("elbo", "reconstruction", "kl", "rate", "kl_up", "nll", "gap", "bpd", "bdmc/width", "active", "seconds")
WIDTH = 118


def table_text(study: Study) -> str:
    """Return the written table for a terminal: protocol, numbers, verdict."""
    with reading(study, study.report / "table.csv", "report") as path:
        return _text(study, read_csv(path))


def _text(study: Study, rows: list[dict[str, str]]) -> str:
    notes = needed(study, study.report / "table.md", "report").read_text(encoding="utf-8")
    table = [["", *(row["variant"] for row in rows)]]
    table += [[key, *(row[key] for row in rows)] for key in ("depth", "widths", "likelihood")]
    table += [["measure", *(short_measure(row["measure"]) for row in rows)]]
    table += [[key, *(row[key] for row in rows)] for key in ("parameters", "seeds")]
    for column in rows[0]:
        name, bracket, unit = column.partition(" [")
        if bracket and {name, name.split("/")[0]} & set(SHOWN) and not name.endswith(" half"):
            cells = [_cell(row[column], row.get(f"{name} half [{unit}", "")) for row in rows]
            table.append([f"{name} ({unit[:-1]})", *cells])
    widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
    pad = [str.ljust, *[str.rjust] * len(rows)]
    text = ["  ".join(put(cell, w) for put, cell, w in zip(pad, line, widths, strict=True)) for line in table]
    text.insert(1, "-" * len(text[0]))
    spread = f"mean ± {float(rows[0]['confidence']):.0%} interval over seeds (Student t)"
    about = [*_about(study.name, rows), spread]
    return "\n".join([*about, "", *text, "", *textwrap.wrap(verdict(notes), WIDTH)])


def _about(study: str, rows: list[dict[str, str]]) -> list[str]:
    """Say what was measured and how; where that differs between variants, for each of them."""
    protocols: dict[str, list[str]] = {}
    for row in rows:
        protocols.setdefault(_protocol(row), []).append(row["variant"])
    return [
        line
        for text, variants in protocols.items()
        for line in textwrap.wrap(
            f"study {study}{'' if len(protocols) == 1 else ', ' + ' and '.join(variants)}: {text}", WIDTH
        )
    ]


def _protocol(row: Mapping[str, str]) -> str:
    protocol = {key.removeprefix("protocol/"): value for key, value in row.items() if key.startswith("protocol/")}
    return (
        "{data} (digest {digest:.8}), protocol {protocol}, binarization {binarization};"
        " {images} test images, {draws} draws each"
    ).format_map(protocol)


def _cell(mean: str, half: str) -> str:
    return str(Interval(float(mean), float(half) if half else None)) if mean else ""
