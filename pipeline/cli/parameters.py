"""`cave params`: a table of the parameters, and the texts that are made from their descriptions."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.cli.refresh import save_uncommitted
from pipeline.errors import InputError
from pipeline.files import write_text
from pipeline.params import Params
from pipeline.params.explain import RENAMED
from pipeline.params.reference import entries, reference_page
from pipeline.params.text import format_value
from pipeline.params.writing import dump_yaml
from pipeline.text import NARROW, did_you_mean, terminal_width

__all__ = ["parameter_rows", "parameter_table", "reference_texts", "write_reference"]

HEADER = """The one place where settings have their default values. A dotted path (model.depth) is the only name of a
parameter: here, on the command line (--set model.depth=3), in study.yaml of a study, in the search space and in MLflow.
`cave check` says what is wrong with this file, in one line. The comments are those of docs/parameters.md;
`cave params --write` writes both."""
PAGE = Path("docs") / "parameters.md"


@dataclass(frozen=True)
class ParameterRow:
    """A parameter, or a section, which has no values."""

    path: str
    value: Any
    default: Any  # of the root's params.yaml
    allowed: str
    meaning: str


def parameter_rows(params: Params, defaults: Params, path: str | None = None) -> list[ParameterRow]:
    """Return the parameters at and below a dotted path, or all, with their values."""
    chosen = [entry for entry in entries(Params) if path is None or f"{entry.path}.".startswith(f"{path}.")]
    if path in RENAMED:
        raise InputError(f"{path}: renamed to {RENAMED[path]}")
    if not chosen:
        raise InputError(
            f"{path}: no such parameter{did_you_mean(str(path), [entry.path for entry in entries(Params)])}"
        )
    values, usual = params.model_dump(), defaults.model_dump()
    return [
        ParameterRow(
            path=entry.path,
            value=_at(values, entry.path) if entry.allowed else None,
            default=_at(usual, entry.path) if entry.allowed else None,
            allowed=entry.allowed,
            meaning=entry.meaning,
        )
        for entry in chosen
    ]


def _at(values: Any, path: str) -> Any:
    for key in path.split("."):
        values = values.get(key) if isinstance(values, dict) else None
    return values


def parameter_table(rows: Sequence[ParameterRow]) -> str:
    """Return the parameters as a table, with a column of defaults where a value is another one."""
    from rich.console import Console
    from rich.table import Table

    if terminal_width() < NARROW:
        return "\n\n".join(_block(row) for row in rows)
    differs = any(row.value != row.default for row in rows)
    header = ("parameter", "value", *(["default"] if differs else []), "allowed", "meaning")
    table = Table(*header, box=None, header_style="", pad_edge=False)
    for row in rows:
        cells = [format_value(value) if row.allowed else "" for value in (row.value, row.default)[: 1 + differs]]
        table.add_row(row.path, *cells, row.allowed, row.meaning)
    console = Console(width=terminal_width(), color_system=None)
    with console.capture() as text:
        console.print(table, markup=False, highlight=False)
    return "\n".join(line.rstrip() for line in text.get().splitlines())


def _block(row: ParameterRow) -> str:
    """Return a parameter as some lines, for a terminal that is too narrow for columns."""
    value = f" = {format_value(row.value)}" if row.allowed else ""
    default = f"default {format_value(row.default)}" if row.value != row.default else ""
    below = [line for text in (default, row.allowed, row.meaning) for line in textwrap.wrap(text, terminal_width() - 2)]
    return "\n".join([f"{row.path}{value}", *(f"  {line}" for line in below)])


def reference_texts(root: Path) -> dict[Path, str]:
    """Return the text of each file that is made from the descriptions: params.yaml, with its values, and the page."""
    params = Params.read_values(root / "params.yaml")
    return {root / "params.yaml": dump_yaml(params, HEADER, comments=True), root / PAGE: reference_page(Params)}


def write_reference(root: Path) -> list[str]:
    """Write the files that are made from the parameters' descriptions; return a line for each that has changed."""
    lines = []
    for path, text in reference_texts(root).items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            saved = save_uncommitted(root, path)
            write_text(path, text)
            lines.append(f"{path.relative_to(root)} is written anew{saved}")
    return lines
