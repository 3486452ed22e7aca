"""The test bounds at milestones of the training, and published numbers beside the study's own.

A published number is a negative log-likelihood in nats that `report.published` gives by variant and source. It is shown
with the difference `own - published`, below 0 where the study's is lower. Whether the two can be compared is for the
reader to see: the protocol stands beside the study's. At milestones nll is minus L_k at k = `evaluate.milestone_draws`.
"""

from __future__ import annotations

from typing import Any

from pipeline.files import read_csv
from pipeline.report.comparison import Comparison
from pipeline.report.inputs import reading
from pipeline.report.intervals import Interval, interval
from pipeline.study import Study

__all__ = ["Milestones", "milestones", "table", "tidy"]

Milestones = dict[str, dict[int, dict[str, Interval]]]
"""By variant, epoch and metric: the mean over seeds, and its interval."""


def milestones(study: Study) -> Milestones:
    """Read the bounds that were measured at milestones; a variant that has none is left out."""
    by_variant: Milestones = {}
    confidence, count = study.params.report.confidence, len(study.params.train.seeds)
    for variant in study.params.variants:
        values: dict[int, dict[str, list[float]]] = {}
        with reading(study, study.evaluate(variant) / "milestones.csv", f"evaluate@{variant}") as path:
            for row in read_csv(path):
                values.setdefault(int(row["epoch"]), {}).setdefault(row["metric"], []).append(float(row["value"]))
        if values:
            by_variant[variant] = {
                epoch: {name: interval(some, confidence, count) for name, some in metrics.items()}
                for epoch, metrics in sorted(values.items())
            }
    return by_variant


def tidy(by_variant: Milestones) -> list[dict[str, Any]]:
    """Return the rows of `milestones.csv`: a number each."""
    return [
        {
            "variant": variant,
            "epoch": epoch,
            "metric": name,
            "mean": value.mean,
            "half": value.half,
            "part": value.part,
        }
        for variant, epochs in by_variant.items()
        for epoch, metrics in epochs.items()
        for name, value in metrics.items()
    ]


def table(study: Study, comparison: Comparison, by_variant: Milestones) -> tuple[list[str], list[list[str]]]:
    """Return header and cells: each variant's nll at its milestones, at the end, published, and the differences."""
    published = study.params.report.published
    epochs = sorted({epoch for variant in by_variant.values() for epoch in variant})
    sources = list(dict.fromkeys(source for numbers in published.values() for source in numbers))
    draws, k = study.params.evaluate.milestone_draws, study.params.evaluate.k[-1]
    header = ["variant", *(f"epoch {epoch}, k = {draws}" for epoch in epochs), f"tested weights, k = {k}"]
    header += [text for source in sources for text in (source, f"own - {source}")]
    cells = []
    for result in comparison.results:
        own = result.metrics["nll"]
        at = by_variant.get(result.variant, {})
        row = [result.variant, *(str(at[epoch]["nll"]) if epoch in at else "" for epoch in epochs), str(own)]
        for source in sources:
            number = published.get(result.variant, {}).get(source)
            row += ["", ""] if number is None else [f"{number:.2f}", f"{own.mean - number:+.2f}"]
        cells.append(row)
    return header, cells
