"""The figures of a report, by name: each is drawn once, and written as PNG, SVG and PDF by others.

What shows bounds is drawn once a measure, where there are several, under names that end in it: `bounds-density`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.metric import Metric
from pipeline.report import inputs, tables
from pipeline.report.comparison import Comparison, Result
from pipeline.report.families import families, level_term
from pipeline.report.milestones import Milestones
from pipeline.report.paired import p_text
from pipeline.study import Study

if TYPE_CHECKING:
    import numpy as np

    from pipeline.figures import Drawing

__all__ = ["draw"]

Pictures = Mapping[str, Mapping[str, "np.ndarray"]]  # by variant, what `inputs.pictures` reads
DECOMPOSITIONS = {  # figures that are drawn where one of these metrics was measured
    "gaps_by_level": ("chain_kl/z1", "gap/z1"),
    "sandwich": ("ais", "bdmc/width"),
    "inference_gaps": ("approximation_gap", "amortization_gap"),
    "surgery": ("mutual_information", "mutual_information/z1"),
    "factors": ("probe/z1",),
}
BOUNDS = ("sandwich",)  # of these, what shows bounds and not their differences alone
Means = dict[str, dict[str, tuple[float, float]]]  # by variant and metric: a mean and its standard error


def draw(study: Study, comparison: Comparison, bounds_by_epoch: Milestones, pictures: Pictures) -> dict[str, Drawing]:
    """Return by name the figures that compare variants."""
    from pipeline import figures

    with figures.coloured([result.variant for result in comparison.results]):
        drawings: dict[str, Any] = {}
        for measure, group in comparison.groups.items():
            end = f"-{tables.short_measure(measure)}" if len(comparison.groups) > 1 else ""
            drawn = _draw_bounds(study, comparison, group, bounds_by_epoch)
            drawings |= {f"{name}{end}": drawing for name, drawing in drawn.items()}
        curves = {result.variant: inputs.curves(study, result.variant) for result in comparison.results}
        rated = {variant: runs for variant, runs in curves.items() if _has_rates(runs)}
        if rated:
            drawings["rates_by_epoch"] = figures.rates_by_epoch(rated, _depths(comparison.results))
        means, error = _means(comparison)
        drawings |= _decompositions(means, error, [name for name in DECOMPOSITIONS if name not in BOUNDS])
        return drawings | _noise_levels(study, comparison.results) | _inside(study, pictures)


def _noise_levels(study: Study, results: Iterable[Result]) -> dict[str, Any]:
    """Return the figures of diffusions, if there are any: their bound by the number of levels, and by log SNR."""
    from pipeline import figures

    drawings: dict[str, Any] = {}
    draw = {"bound_by_levels": figures.bound_by_levels, "by_log_snr": figures.by_log_snr}
    for name, table in (("bound_by_levels", "bound_by_levels"), ("by_log_snr", "rate_by_log_snr")):
        rows = {result.variant: inputs.noise_levels(study, result.variant, table) for result in results}
        if any(rows.values()):
            drawings[name] = draw[name]({variant: table for variant, table in rows.items() if table})
    return drawings


def _inside(study: Study, pictures: Pictures) -> dict[str, Any]:
    """Return the figures of single units, of the top level, and of the searches' settings."""
    from pipeline import figures

    nats = {
        variant: [arrays[key] for key in sorted((k for k in arrays if k.startswith("nats/")), key=_level)]
        for variant, arrays in pictures.items()
    }
    maps = {variant: (a["map"], a["map/share"], a.get("map/labels")) for variant, a in pictures.items()}
    drawings = {"unit_nats": figures.unit_nats(nats), "top_map": figures.top_map(maps)}
    shares: dict[str, Mapping[str, float]] = {}
    for variant in study.params.variants:
        best = inputs.best(study, variant)
        for number, entry in enumerate(best):
            if len(entry.get("importances", {})) > 1:
                shares[f"{variant} search {number}" if len(best) > 1 else variant] = entry["importances"]
    return drawings | ({"importances": figures.importances(shares)} if shares else {})


def _level(key: str) -> int:
    return Metric.parse(key).level or 0


def _has_rates(runs: Mapping[int, Sequence[Mapping[str, float]]]) -> bool:
    """Return whether a variant's trainings logged the rate of every level; those of a diffusion do not."""
    return any("valid/rate/z1" in row for rows in runs.values() for row in rows[-1:])


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
    means, error = _means(comparison)
    own = {variant: means[variant] for variant in variants}
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
        "bound_in_parts": figures.bound_in_parts(own),
        "log_likelihoods": figures.log_likelihoods(
            {variant: -inputs.image_values(study, variant)["nll"].mean(0) for variant in variants}
        ),
        "curves": figures.curves({variant: inputs.curves(study, variant) for variant in variants}),
        "depth_width": figures.depth_width_map(trials, study.params.sweep.metric),
        "rate_distortion": figures.rate_distortion(points, {name: inputs.finals(study, name) for name in variants}),
    }
    if pairs := _pairs(comparison, set(variants)):
        drawings["differences"] = figures.differences(pairs, comparison.confidence)
    finished = {
        f"{variant} search {number}": [
            (trial["number"], trial["value"])
            for trial in trials
            if trial["variant"] == variant and trial["search"] == number and trial["state"] == "COMPLETE"
        ]
        for variant, number in dict.fromkeys((trial["variant"], trial["search"]) for trial in trials)
    }
    if finished:
        searched = {name: name.rpartition(" search ")[0] for name in finished}
        drawings["history"] = figures.history(finished, study.params.sweep.metric, searched)
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
    return drawings | _decompositions(own, error, BOUNDS)


def _pairs(comparison: Comparison, variants: set[str]) -> list[Any]:
    """Return the differences in nll that the page has between these variants."""
    from pipeline import figures

    pairs = []
    for d in comparison.shown:
        if d.metric == "nll" and {d.first, d.second} <= variants:
            sure = "one seed: no evidence" if d.adjusted is None else p_text(d.adjusted)
            decided = ", decided" if d.decided else "" if d.adjusted is None else ", not decided"
            words = f"{d.interval} nats, {sure}{decided}"
            pairs.append(figures.Pair(d.lower, d.higher, abs(d.mean), d.half, d.decided, words))
    return pairs


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
