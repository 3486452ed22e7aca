"""In which settings the variants of a study differ, and what each of them cost."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.report import inputs
from pipeline.report.comparison import Comparison
from pipeline.searches import best_trials, search_index, was_searched
from pipeline.study import Study

__all__ = ["costs", "differing"]

Table = tuple[list[str], list[list[str]]]  # header and cells


def differing(study: Study, comparison: Comparison) -> Table:
    """Return a row for each setting of model and training that is not the same in all variants.

    A value is that of the trained models: where searches chose it and seeds differ, all values.
    """
    columns: dict[str, dict[str, str]] = {}
    for result in comparison.results:
        own = study.params.variant(result.variant)
        best = best_trials(study, result.variant) if was_searched(study, result.variant) else []
        values: dict[str, list[str]] = {}
        for seed in result.seeds:
            params = own.override(best[search_index(study, seed)]["params"], "best.json") if best else own
            trained = params.model_dump(mode="json", include={"model", "train"})
            trained["model"] = inputs.model(study, result.variant, seed)["model"]
            for path, value in _flat(trained):
                values.setdefault(path, []).append(_short(value))
        columns[result.variant] = {path: " or ".join(dict.fromkeys(texts)) for path, texts in values.items()}
    paths = list(dict.fromkeys(path for values in columns.values() for path in values))
    unlike = [path for path in paths if len({values.get(path, "") for values in columns.values()}) > 1]
    rows = [[path, *(values.get(path, "") for values in columns.values())] for path in unlike]
    return ["setting", *columns], rows


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else json.dumps(value).strip('"')


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def costs(study: Study, comparison: Comparison) -> Table:
    """Return what each variant's models cost, means over seeds: weights, epochs, time, memory."""
    header = ["variant", "weights", "weights (MB)", "epochs", "training (s)", "ms per epoch", "peak memory (MiB)"]
    rows = []
    for result in comparison.results:
        models = [inputs.model(study, result.variant, seed) for seed in result.seeds]
        epochs = [len(rows) for rows in inputs.curves(study, result.variant).values()]
        seconds, peaks = (
            sum(float(model["seconds"]) for model in models),
            [model.get("peak_memory") for model in models],
        )
        weights = sum(float(model["parameters"]) for model in models) / len(models)
        rows.append(
            [
                result.variant,
                result.parameters,
                f"{4 * weights / 1e6:.2f}",
                " to ".join(dict.fromkeys(str(end(epochs)) for end in (min, max))),
                f"{seconds / len(models):.3g}",
                f"{1000 * seconds / sum(epochs):.3g}",
                "" if None in peaks else f"{max(map(float, peaks)):.0f}",  # type: ignore[arg-type]
            ]
        )
    return header, rows
