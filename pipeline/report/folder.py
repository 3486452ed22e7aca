"""The report's folder: tables, figures and the page. All are made before the first is written.

DVC plots `curves.csv` and everything in `figures/`, so that folder holds nothing but PNGs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from pipeline.files import write_bytes, write_csv, write_json, write_text
from pipeline.metric import Metric
from pipeline.report import inputs, tables
from pipeline.report.comparison import Comparison, Result, build
from pipeline.report.families import families, level_term
from pipeline.report.milestones import Milestones, milestones, tidy
from pipeline.report.page import page
from pipeline.study import Study

__all__ = ["write"]

DECOMPOSITIONS = {  # figures that are drawn where one of these metrics was measured
    "gaps_by_level": ("chain_kl/z1", "gap/z1"),
    "sandwich": ("ais", "bdmc/width"),
    "inference_gaps": ("approximation_gap", "amortization_gap"),
    "surgery": ("mutual_information", "mutual_information/z1"),
    "factors": ("probe/z1",),
}
BOUNDS = ("sandwich",)  # of these, what shows bounds and not their differences alone
Means = dict[str, dict[str, tuple[float, float]]]  # by variant and metric: a mean and its standard error


def write(study: Study) -> None:
    """Write tables, figures, `summary.json` and the page `report.html` into the report's folder."""
    comparison, bounds_by_epoch = build(study), milestones(study)
    drawings = _draw(study, comparison, bounds_by_epoch)
    html = page(study, comparison, bounds_by_epoch, drawings)
    curves, folder = inputs.mean_curves(study), study.report
    for name, content in drawings.items():
        write_bytes(folder / "figures" / f"{name}.png", content)
    write_csv(folder / "curves.csv", curves)
    write_text(folder / "results.csv", comparison.seeds.to_csv(index=False, lineterminator="\n"))
    write_csv(folder / "table.csv", tables.table_rows(comparison))
    write_csv(folder / "comparisons.csv", tables.comparison_rows(comparison))
    write_csv(folder / "milestones.csv", tidy(bounds_by_epoch))
    write_text(folder / "table.md", tables.markdown(comparison))
    means = {
        r.variant: {
            f"{name}{f' ({value.part})' if value.part else ''}": value.mean for name, value in r.metrics.items()
        }
        for r in comparison.results
    }
    write_json(folder / "summary.json", means)
    write_text(folder / "report.html", html)


def _draw(study: Study, comparison: Comparison, bounds_by_epoch: Milestones) -> dict[str, bytes]:
    """Return by name the PNGs that compare variants.

    What shows bounds is drawn once a measure, where there are several, under names that end in it.
    """
    from pipeline import figures

    with figures.coloured([result.variant for result in comparison.results]):
        drawings: dict[str, Any] = {}
        for measure, group in comparison.groups.items():
            end = f"-{tables.short_measure(measure)}" if len(comparison.groups) > 1 else ""
            drawn = _draw_bounds(study, comparison, group, bounds_by_epoch)
            drawings |= {f"{name}{end}": drawing for name, drawing in drawn.items()}
        curves = {result.variant: inputs.curves(study, result.variant) for result in comparison.results}
        drawings["rates_by_epoch"] = figures.rates_by_epoch(curves, _depths(comparison.results))
        means, error = _means(comparison)
        drawings |= _decompositions(means, error, [name for name in DECOMPOSITIONS if name not in BOUNDS])
        return {name: figures.png(drawing) for name, drawing in drawings.items()}


def _depths(results: Iterable[Result]) -> dict[str, dict[int, int]]:
    return {r.variant: {seed: len(m.widths) for seed, m in zip(r.seeds, r.models, strict=True)} for r in results}


def _draw_bounds(
    study: Study, comparison: Comparison, group: list[Result], bounds_by_epoch: Milestones
) -> dict[str, Any]:
    """Return by name the figures that have bounds, or differences of log p(x | z_1), on an axis."""
    from pipeline import figures

    variants = [result.variant for result in group]
    trials = [trial for variant in variants for trial in inputs.trials(study, variant)]
    points: dict[str, dict[str, list[tuple[float, float]]]] = {variant: {} for variant in variants}
    for trial in trials:
        if trial["point"]:
            points[trial["variant"]].setdefault(trial["state"], []).append(trial["point"])
    tests: dict[str, dict[int, dict[str, float]]] = {variant: {} for variant in variants}
    for (variant, seed), rows in comparison.seeds.groupby(["variant", "seed"], sort=False):
        if variant in tests:
            tests[variant][seed] = dict(zip("test/" + rows["metric"], rows["value"], strict=True))
    bounds = {
        result.variant: {
            name: (value.mean, value.half)
            for name, value in result.metrics.items()
            if Metric.parse(name).family in ("elbo", "iwae")
        }
        for result in group
    }
    drawings = {
        "bounds": figures.bounds(bounds, comparison.confidence),
        "rates_by_level": figures.rates_by_level(tests, _depths(group)),
        "curves": figures.curves({variant: inputs.curves(study, variant) for variant in variants}),
        "depth_width": figures.depth_width_map(trials, study.params.sweep.metric),
        "rate_distortion": figures.rate_distortion(points, {name: inputs.finals(study, name) for name in variants}),
    }
    curves = families(study, group, comparison.summed)
    if curves:
        terms = dict.fromkeys(level_term(result) for result in group)
        drawings["trade_off"] = figures.trade_off(curves, ", ".join(f"{term}/z_t" for term in terms))
    nll = {
        variant: {epoch: (metrics["nll"].mean, metrics["nll"].half) for epoch, metrics in epochs.items()}
        for variant, epochs in bounds_by_epoch.items()
        if variant in variants
    }
    if nll:
        drawings["milestones"] = figures.milestones(
            nll, study.params.report.published, study.params.evaluate.milestone_draws
        )
    means, error = _means(comparison)
    return drawings | _decompositions({variant: means[variant] for variant in variants}, error, BOUNDS)


def _decompositions(means: Means, error: str, names: Iterable[str]) -> dict[str, Any]:
    """Return the figures of these names for which a metric was measured."""
    from pipeline import figures

    measured = {metric for row in means.values() for metric in row}
    return {name: getattr(figures, name)(means, error) for name in names if set(DECOMPOSITIONS[name]) & measured}


def _means(comparison: Comparison) -> tuple[Means, str]:
    """Return by variant and metric the mean over seeds and its standard error, and what that error is in words.

    Over several seeds the error holds both, the trainings' differences and that of the draws; one seed has the latter.
    """
    means: Means = {result.variant: {} for result in comparison.results}
    counts = {result.variant: len(result.seeds) for result in comparison.results}
    partial = False
    for (variant, metric), rows in comparison.summed.groupby(["variant", "metric"], sort=False):
        partial = partial or len(rows) < counts[variant]
        error = rows["value"].sem() if len(rows) > 1 else rows["se"].max()
        means[variant][metric] = (float(rows["value"].mean()), 0.0 if math.isnan(error) else float(error))
    if set(counts.values()) == {1}:
        return means, "Monte Carlo standard error (one seed)"
    alone = ", where there is one seed its Monte Carlo error" if 1 in counts.values() else ""
    alone += ". What only some seeds have is the mean over those (table.csv says of how many)" if partial else ""
    if len(comparison.summed) > len(comparison.seeds):
        alone += ". A level that a seed's model lacks adds 0 to what is summed over levels"
    return means, f"standard error of the mean over seeds{alone}"
