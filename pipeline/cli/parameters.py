"""`cave params`: a table of the parameters, and the texts that are made from their descriptions."""

from __future__ import annotations

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
from pipeline.text import did_you_mean, terminal_width

__all__ = ["parameter_table", "reference_texts", "write_reference"]

HEADER = """The one place where settings have their default values. A dotted path (model.depth) is the only name of a
parameter: here, on the command line (--set model.depth=3), in study.yaml of a study, in the search space and in MLflow.
`cave check` says what is wrong with this file, in one line. The comments are those of docs/parameters.md;
`cave params --write` writes both."""
PAGE = Path("docs") / "parameters.md"


def parameter_table(params: Params, path: str | None = None) -> str:
    """Return a table of the parameters at and below a dotted path, or of all, with their values."""
    from rich.console import Console
    from rich.table import Table

    chosen = [entry for entry in entries(Params) if path is None or f"{entry.path}.".startswith(f"{path}.")]
    if path in RENAMED:
        raise InputError(f"{path}: renamed to {RENAMED[path]}")
    if not chosen:
        raise InputError(
            f"{path}: no such parameter{did_you_mean(str(path), [entry.path for entry in entries(Params)])}"
        )
    values = params.model_dump()
    table = Table("parameter", "value", "allowed", "meaning", box=None, header_style="", pad_edge=False)
    for entry in chosen:
        at: Any = values
        for key in entry.path.split("."):
            at = at.get(key) if isinstance(at, dict) else None
        table.add_row(entry.path, format_value(at) if entry.allowed else "", entry.allowed, entry.meaning)
    console = Console(width=terminal_width(), color_system=None)
    with console.capture() as text:
        console.print(table, markup=False, highlight=False)
    return "\n".join(line.rstrip() for line in text.get().splitlines())


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
