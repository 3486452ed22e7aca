"""The page `report.html`: one file that loads nothing, made from `page.html.j2` beside this module."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.params import digest
from pipeline.report import inputs, settings, tables
from pipeline.report.comparison import Comparison, join
from pipeline.report.milestones import Milestones, table
from pipeline.report.strips import MOST_MODELS, groups
from pipeline.study import Study
from pipeline.text import by_level

if TYPE_CHECKING:
    import numpy as np

    from pipeline.figures import Drawing

__all__ = ["image", "page", "render"]

TOGETHER = 4  # variants whose columns stand in one table: what a sheet of paper holds
LOCAL = "http://127.0.0.1:5000"  # where `cave ui` shows a store that is no server
MATHEMATICS = re.compile(r"\$?\b([A-Za-z])_\{?(\w+)\}?\$?")


def page(
    study: Study,
    comparison: Comparison,
    bounds_by_epoch: Milestones,
    drawings: Mapping[str, Drawing],
    pictures: Mapping[str, Mapping[str, np.ndarray]],
    runs: inputs.Circumstances,
) -> str:
    """Return the page; `drawings` compare variants, by name, `pictures` are what each model has drawn."""
    from pipeline import figures

    params = study.params
    default = params.root == "."
    variants = [result.variant for result in comparison.results]
    charts = _charts(drawings)
    light, dark = figures.palette(chart["svg"] for group in charts.values() for chart in group)
    return render(
        "page.html.j2",
        name=study.name,
        comparison=comparison,
        headline=comparison.headline,
        results=_columns(*tables.short(comparison)),
        notes=tables.notes(comparison),
        pairs=tables.pairs(comparison),
        terms=[
            ([result.variant for result in part], tables.terms(comparison, part))
            for part in _parts(list(comparison.results))
        ],
        milestones=table(study, comparison, bounds_by_epoch) if bounds_by_epoch or params.report.published else None,
        drawings=charts,
        pictures={
            result.variant: groups(result.variant, pictures[result.variant])
            for result in comparison.results[:MOST_MODELS]
        },
        searches=[row for variant in variants for row in _searches(study, variant)],
        head=_head(runs),
        runs=_links(runs),
        differing=_sliced(*settings.differing(study, comparison)),
        costs=settings.costs(study, comparison),
        light=light,
        dark=dark,
        k=params.evaluate.k[-1],
        threshold=params.evaluate.active_threshold,
        sweep_epochs=params.sweep.epochs,
        metric=params.sweep.metric,
        digest=digest(params.model_dump(mode="json", exclude={"root", "out"})),
        command=study.command("report"),
        by_hand=study.is_standalone,
        settings="params.yaml" if default else f"experiments/{study.name}/params.yaml",
    )  # fmt: skip


def render(template: str, **values: Any) -> str:
    """Return a page made from a template beside this module."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= {"mathematics": _mathematics, "by_level": by_level}
    return environment.get_template(template).render(**values)


def _parts(items: list[Any]) -> list[list[Any]]:
    """Return items in parts of nearly equal length, at most `TOGETHER` each.

    >>> _parts([1, 2, 3, 4, 5, 6])
    [[1, 2, 3], [4, 5, 6]]
    """
    count = -(-len(items) // TOGETHER)
    size = -(-len(items) // count)
    return [items[start : start + size] for start in range(0, len(items), size)]


def _columns(header: list[str], cells: list[list[str]]) -> list[list[list[str]]]:
    """Return a table with a row a variant as tables with a column a variant."""
    return [[list(row) for row in zip(header, *part, strict=True)] for part in _parts(cells)]


def _sliced(header: list[str], rows: list[list[str]]) -> list[tuple[list[str], list[list[str]]]]:
    """Return a table with a column a variant, after that of the names, as tables of few variants each."""
    parts = _parts(list(range(1, len(header)))) if rows else []
    return [
        ([header[0], *(header[i] for i in part)], [[row[0], *(row[i] for i in part)] for row in rows]) for part in parts
    ]


def _charts(drawings: Mapping[str, Drawing]) -> dict[str, list[dict[str, Any]]]:
    """Return figures by name, which are drawn once a measure: `bounds-density` is one of `bounds`."""
    from pipeline import figures

    charts: dict[str, list[dict[str, Any]]] = {}
    for name, drawing in drawings.items():
        figure, _, measure = name.partition("-")
        svg = figures.svg(drawing).replace("<svg ", f'<svg role="img" aria-label="{escape(drawing.alt)}" ', 1)
        text = {"title": _mathematics(drawing.title), "caption": _mathematics(drawing.caption), "alt": drawing.alt}
        charts.setdefault(figure, []).append(text | {"name": name, "svg": svg, "measure": measure})
    return charts


def _mathematics(text: str) -> str:
    """Return a caption as HTML, with its indices set low.

    >>> _mathematics("z_1 of $L_{50}$ < x")
    'z<sub>1</sub> of L<sub>50</sub> &lt; x'
    """
    return MATHEMATICS.sub(r"\1<sub>\2</sub>", escape(text))


def _head(runs: inputs.Circumstances) -> list[str]:
    """Return when, where and with which code the models were trained, a line each."""
    about = [run for seeds in runs.values() for run in seeds.values()]
    commits = [f"{a['git_commit'][:12]}{' with changes' if a.get('git_dirty') == 'true' else ''}"
               for a in about if a.get("git_commit", "none") != "none"]  # fmt: skip
    versions = {
        key.removeprefix("version/"): str(value) for a in about for key, value in a.items() if "version/" in key
    }
    lines = {
        "trained": [_span(sorted(a["date"][:16].replace("T", " ") for a in about if "date" in a))],
        "commit": commits,
        "versions": [", ".join(f"{name} {value}" for name, value in versions.items())],
        "machine": [f"{a['cpu']}, {a['device']}" for a in about if "cpu" in a],
    }
    joined = {name: join(list(dict.fromkeys(text for text in texts if text)) or [""]) for name, texts in lines.items()}
    return [f"{name}: {text}" for name, text in joined.items() if text]


def _span(dates: list[str]) -> str:
    ends = list(dict.fromkeys((*dates[:1], *dates[-1:])))
    return f"{' to '.join(ends)} (UTC)" if ends else ""


def _links(runs: inputs.Circumstances) -> dict[str, dict[int, str]]:
    """Return by variant and seed the addresses at which MLflow shows the runs; empty for a run that it lacks."""

    def link(run: Mapping[str, Any]) -> str:
        store = str(run.get("store", ""))
        address = store if re.match(r"https?://", store) else LOCAL
        return f"{address}{run['page']}" if run.get("page") else ""

    return {variant: {seed: link(run) for seed, run in seeds.items()} for variant, seeds in runs.items()}


def _searches(study: Study, variant: str) -> list[dict[str, Any]]:
    """Return what each search of a variant found: its name, the states of its trials and its best trial."""
    best_trials, trials = inputs.best(study, variant), inputs.trials(study, variant)
    return [
        {
            "name": f"{variant} search {number}" if len(best_trials) > 1 else variant,
            "states": [trial["state"] for trial in trials if trial["search"] == number],
            "best": best,
        }
        for number, best in enumerate(best_trials)
    ]


def image(content: bytes) -> dict[str, Any]:
    """Return a PNG as a URI, and the width in CSS pixels at which its letters are as large as in other figures."""
    width = round(int.from_bytes(content[16:20]) * 96 / 150)  # figures have 150 pixels to the inch, CSS 96
    return {"uri": "data:image/png;base64," + base64.b64encode(content).decode(), "width": width}
