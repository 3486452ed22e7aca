"""The page `report.html`: one file that loads nothing, made from `page.html.j2` beside this module."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.params import digest
from pipeline.report import inputs, tables
from pipeline.report.comparison import Comparison
from pipeline.report.milestones import Milestones, table
from pipeline.study import Study

__all__ = ["image", "page"]


def page(study: Study, comparison: Comparison, bounds_by_epoch: Milestones, drawings: Mapping[str, bytes]) -> str:
    """Return the page; `drawings` are the PNGs that compare variants, by name."""
    from jinja2 import Environment, StrictUndefined

    params = study.params
    default = params.root == "."
    variants = [result.variant for result in comparison.results]
    header, cells = tables.short(comparison)
    template = Path(__file__).with_name("page.html.j2").read_text(encoding="utf-8")
    return Environment(autoescape=True, undefined=StrictUndefined).from_string(template).render(
        name=study.name,
        comparison=comparison,
        header=header,
        cells=cells,
        notes=tables.notes(comparison),
        pairs=tables.pairs(comparison),
        terms=tables.terms(comparison),
        milestones=table(study, comparison, bounds_by_epoch) if bounds_by_epoch or params.report.published else None,
        drawings=_grouped(drawings),
        pictures={variant: _images(inputs.pictures(study, variant)) for variant in variants},
        searches=[row for variant in variants for row in _searches(study, variant)],
        k=params.evaluate.k[-1],
        threshold=params.evaluate.active_threshold,
        sweep_epochs=params.sweep.epochs,
        metric=params.sweep.metric,
        digest=digest(params.model_dump(mode="json", exclude={"root", "out"})),
        command=study.command("report"),
        by_hand=study.is_standalone,
        settings="params.yaml" if default else f"experiments/{study.name}/params.yaml",
    )  # fmt: skip


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


def _grouped(drawings: Mapping[str, bytes]) -> dict[str, list[dict[str, Any]]]:
    """Return images by the name of their figure, which is drawn once a measure: `bounds-density` is one of `bounds`."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for name, content in drawings.items():
        figure, _, measure = name.partition("-")
        groups.setdefault(figure, []).append(image(content) | {"measure": measure})
    return groups


def _images(pictures: Mapping[str, bytes]) -> dict[str, dict[str, Any]]:
    return {name: image(content) for name, content in pictures.items()}


def image(content: bytes) -> dict[str, Any]:
    """Return a PNG as a URI, and the width in CSS pixels at which its letters are as large as in other figures."""
    width = round(int.from_bytes(content[16:20]) * 96 / 150)  # figures have 150 pixels to the inch, CSS 96
    return {"uri": "data:image/png;base64," + base64.b64encode(content).decode(), "width": width}
