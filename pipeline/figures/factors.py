"""How well the factors that made the images can be read from each level: scores from about 0 (nothing) to 1 (all)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize

from pipeline.figures.style import FIXED, Drawing, blank, indexed, listing
from pipeline.metric import Metric

__all__ = ["factors"]

Means = Mapping[str, Mapping[str, tuple[float, float]]]  # variant: metric: mean and its standard error
SCORES = {
    "mig": "MIG",
    "dci_disentanglement": "disentanglement",
    "dci_completeness": "completeness",
    "dci_informativeness": "informativeness",
}


def factors(results: Means, error: str) -> Drawing:
    """Show how well each factor is read from each level, and how separately the units hold them; a panel a variant.

    `results` holds `probe/<factor>/z1`.., level `x` being the image itself, their means `probe/z1`.., and by level the
    `SCORES`.
    """
    results = {
        variant: row for variant, row in results.items() if any(metric.family == "probe" for metric in _scores(row))
    }
    terms = dict.fromkeys(metric.term for row in results.values() for metric in _scores(row))
    names = [term.removeprefix("probe/") for term in terms if term.startswith("probe/")]
    largest = max(row[str(metric)][1] for row in results.values() for metric in _scores(row))
    caption = (
        "Above: how well a linear map reads a factor behind the test images from a level's latents (1:"
        " exactly, 0: not better than without looking). The bottom row reads it from the raw pixels. Below: how"
        " separately the units hold the factors, and how well a forest reads them (informativeness). Means over seeds;"
        f" the largest {error} of a cell is {largest:.2g}."
    )
    heights = [len(_levels(row)) + 0.8 for row in results.values()]
    title = "How well the factors behind the images can be read from each level"
    figure = blank(2 * (0.3 * sum(heights) + 1.1), title, caption)
    scale = ScalarMappable(Normalize(0, 1), "viridis")
    parts: Any = figure.subfigures(2, 1)
    for part, columns in zip(parts, ([*names, "mean"], list(SCORES)), strict=True):
        panels = part.subplots(len(results), 1, squeeze=False, sharex=True, height_ratios=heights)[:, 0]
        for axes, (variant, row) in zip(panels, results.items(), strict=True):
            _heat(axes, row, columns, scale)
            axes.set_title(variant, fontsize=10, loc="left")
    rows = {
        variant: {
            str(metric).replace("probe/", "").replace("probe", "mean"): f"{row[str(metric)][0]:.2f}"
            for metric in _scores(row)
            if metric.family == "probe"
        }
        for variant, row in results.items()
    }
    figure.alt = f"How well a linear map reads each factor from each level, 1 being exactly. {listing(rows)}"
    return figure


def _scores(row: Iterable[str]) -> list[Metric]:
    """Return the scores among the metrics of a variant."""
    return [metric for metric in map(Metric.parse, row) if metric.family in ("probe", *SCORES)]


def _levels(row: Iterable[str]) -> list[int]:
    return sorted({metric.level for metric in _scores(row) if metric.level is not None})


def _heat(axes: Any, row: Mapping[str, tuple[float, float]], columns: list[str], scale: ScalarMappable) -> None:
    """Show a row a level, the top level above and the image itself below, each cell with its number."""
    levels = _levels(row)[::-1]
    keys = [_key(column) for column in columns]
    cells = np.array([[row.get(str(Metric(key, level)), (np.nan, 0))[0] for key in keys] for level in levels])
    axes.imshow(np.where(np.isnan(cells)[..., None], 1.0, scale.to_rgba(np.nan_to_num(cells))[..., :3]), aspect="auto")
    for (i, j), value in np.ndenumerate(cells):
        if not np.isnan(value):
            text = f"{value:.2f}".replace("-0.00", "0.00")
            axes.text(
                j, i, text, ha="center", va="center", fontsize=8, color=FIXED["white" if value < 0.6 else "black"]
            )
    axes.set_yticks(range(len(levels)), [indexed("z", level) if level else "pixels" for level in levels], fontsize=10)
    axes.set_xticks(
        range(len(columns)), [SCORES.get(name, name) for name in columns], rotation=30, ha="right", fontsize=8.5
    )
    axes.set_xticks(np.arange(-0.5, len(columns)), minor=True)
    axes.set_yticks(np.arange(-0.5, len(levels)), minor=True)
    axes.grid(which="minor", color="white", lw=1.5)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)


def _key(column: str) -> str:
    if column in SCORES:
        return column
    return "probe" if column == "mean" else f"probe/{column}"
