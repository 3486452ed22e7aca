"""A search whose settings were not trained yet: its best trials as a table, and the command that trains the best.

This is what a study of `cave sweep` has to show. Its page takes the place of the comparison's, until there is one.
"""

from __future__ import annotations

import ast
import shutil
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import InputError
from pipeline.files import read_csv, write_text
from pipeline.report.inputs import reading
from pipeline.searches import entries
from pipeline.study import Study
from pipeline.text import align_columns, by_level, plural, terminal_width

__all__ = ["search", "search_text", "write_search"]

SHOWN = 5  # trials
SEARCHED = ("model.", "train.")  # what the paths in a search space begin with
FIGURES = ("history", "depth_width", "importances", "parallel_coordinate", "slice")


@dataclass(frozen=True)
class Search:
    """What a search found for one variant."""

    variant: str
    about: str  # what was searched, in a sentence
    header: list[str]
    cells: list[list[str]]  # a row a trial, the best first
    best: list[str]  # the best settings, a line a search
    command: str  # which trains them


def search(study: Study, variant: str) -> Search:
    """Read what the search of a variant found; a file that is missing raises `InputError` with what makes it."""
    with reading(study, study.sweep(variant) / "trials.csv", f"sweep@{variant}") as path:
        rows = read_csv(path)
        best = entries(study.sweep(variant) / "best.json", "trial", "params", "metric")
        several = len(best) > 1
        paths = [column for column in (rows[0] if rows else ()) if column.startswith(SEARCHED)]
        trained = [row for row in rows if row["state"] == "COMPLETE" and not row.get("repeats")]
        complete = sorted(trained, key=lambda row: float(row["value"]), reverse=True)
        cells = [
            [
                *([row["search"]] if several else []),
                row["number"],
                f"{float(row['value']):.3f}",
                _widths(study, variant, row, paths),
            ]
            + [_short(row[path]) for path in paths]
            + [row["epochs"]]
            for row in complete[:SHOWN]
        ]
        states = [row["state"] for row in rows]
    ended = {"COMPLETE": "completed", "PRUNED": "stopped early", "FAIL": "failed"}
    counts = ", ".join(f"{states.count(state)} {word}" for state, word in ended.items() if state in states)
    settings = [
        f"{f'search {number}: ' if several else ''}{_settings(trial['params'])}" for number, trial in enumerate(best)
    ]
    return Search(
        variant=variant,
        about=(
            f"study {study.name}: search of {variant} on {study.params.data.name}: {plural(len(rows), 'trial')}"
            f"{f' in {len(best)} searches' if several else ''} ({counts or 'its space is empty'})"
        ),
        header=[
            *(["search"] if several else []),
            "trial",
            f"{best[0]['metric']} (nats)",
            "units by level",
            *paths,
            "epochs",
        ],
        cells=cells,
        best=settings,
        command=study.command(f"train@{variant}"),
    )


def search_text(study: Study) -> str:
    """Return the searches of a study for a terminal."""
    return "\n\n".join(_text(search(study, variant)) for variant in _variants(study))


def write_search(study: Study) -> None:
    """Write the page of the searches; a report of models that were trained before the search went on is removed."""
    from pipeline.report.page import image, render

    searches = [search(study, variant) for variant in _variants(study)]
    pictures = {
        variant: {path.stem: image(path.read_bytes()) for path in _figures(study, variant)}
        for variant in _variants(study)
    }
    html = render("search.html.j2", name=study.name, searches=searches, pictures=pictures, light="", dark="")
    write_text(study.report / "report.html", html)
    for path in study.report.iterdir():  # of the report that it replaces
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name != "report.html":
            path.unlink()


def _text(result: Search) -> str:
    width = terminal_width()
    table = align_columns([result.header, *result.cells], right=True)
    if result.cells and max(map(len, table)) > width:  # a block a trial
        table = [
            line for row in result.cells for line in [*align_columns(list(zip(result.header, row, strict=True))), ""]
        ][:-1]
    elif result.cells:
        table.insert(1, "-" * max(map(len, table)))
    what = "the best trials, by their metric on the validation set (higher is better):"
    lines = [*textwrap.wrap(result.about, width), *(textwrap.wrap(what, width) if result.cells else []), "", *table, ""]
    for best in result.best:
        lines += textwrap.wrap(f"best settings: {best}", width, break_long_words=False)
    lines += textwrap.wrap(
        "Their final models are not trained yet. This trains them and measures the test bounds:", width
    )
    return "\n".join([*lines, f"  {result.command}"])


def _variants(study: Study) -> list[str]:
    """Return the variants that were searched; `InputError` where there is none."""
    variants = [variant for variant in study.params.variants if (study.sweep(variant) / "best.json").exists()]
    if not variants:
        variant = next(iter(study.params.variants))
        raise InputError(f"study {study.name} has no results yet; run `{study.command(f'sweep@{variant}')}`")
    return variants


def _figures(study: Study, variant: str) -> list[Path]:
    folder = study.sweep(variant) / "figures"
    return [path for name in FIGURES for path in sorted(folder.glob(f"*{name}.png"))]  # of several searches prefixed


def _widths(study: Study, variant: str, row: Mapping[str, str], paths: list[str]) -> str:
    """Return the units of every level of a trial, from z_1 up."""
    settings = {path: value_of(row[path]) for path in paths if row[path]}
    model = study.params.variant(variant).override(settings, "trials.csv").model
    return "those of the data" if model.inference == "diffusion" else by_level(model.level_widths)


def value_of(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _settings(params: Mapping[str, Any]) -> str:
    words = ", ".join(f"{path}={_short(value)}" for path, value in params.items())
    return words or "the variant's own, as nothing was searched"


def _short(value: Any) -> str:
    value = value_of(value) if isinstance(value, str) else value
    return f"{value:.3g}" if isinstance(value, float) else str(value)
