"""How well the factors that made the images can be read from each level: scores from about 0 (nothing) to 1 (all)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from pipeline.figures.style import blank
from pipeline.metric import Metric

__all__ = ["factors"]

Means = Mapping[str, Mapping[str, tuple[float, float]]]  # variant: metric: mean and its standard error
SCORES = {
    "mig": "MIG",
    "dci_disentanglement": "disentanglement",
    "dci_completeness": "completeness",
    "dci_informativeness": "informativeness",
}


def factors(results: Means, error: str) -> Figure:
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
        "Left of the gap: how well a linear map reads a factor behind the test images from a level's latents (1:"
        " exactly, 0: not better than without looking). The bottom row reads it from the raw pixels. Right of it: how"
        " separately the units hold the factors, and how well a forest reads them (informativeness). Means over seeds;"
        f" the largest {error} of a cell is {largest:.2g}."
    )
    columns = [*names, "mean", None, *SCORES]
    heights = [len(_levels(row)) for row in results.values()]
    title = "How well the factors behind the images can be read from each level"
    size = (max(7.5, 0.5 * len(columns) + 1.8), 0.3 * sum(heights) + 0.35 * len(results) + 1.9)
    figure = blank(*size, title, caption)
    panels = figure.subplots(len(results), 1, squeeze=False, sharex=True, height_ratios=heights)[:, 0]
    scale = ScalarMappable(Normalize(0, 1), "viridis")
    for axes, (variant, row) in zip(panels, results.items(), strict=True):
        _heat(axes, row, columns, scale)
        axes.set_title(variant, fontsize=11, loc="left")
    bar = figure.colorbar(scale, ax=list(panels), fraction=0.03, aspect=25)
    bar.set_label("score", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    return figure


def _scores(row: Iterable[str]) -> list[Metric]:
    """Return the scores among the metrics of a variant."""
    return [metric for metric in map(Metric.parse, row) if metric.family in ("probe", *SCORES)]


def _levels(row: Iterable[str]) -> list[int]:
    return sorted({metric.level for metric in _scores(row) if metric.level is not None})


def _heat(axes: Any, row: Mapping[str, tuple[float, float]], columns: list[Any], scale: ScalarMappable) -> None:
    """Show a row a level, the top level above and the image itself below, each cell with its number."""
    levels = _levels(row)[::-1]
    keys = [_key(column) for column in columns]
    cells = np.array([[row.get(str(Metric(key, level)), (np.nan, 0))[0] for key in keys] for level in levels])
    axes.imshow(np.where(np.isnan(cells)[..., None], 1.0, scale.to_rgba(np.nan_to_num(cells))[..., :3]), aspect="auto")
    for (i, j), value in np.ndenumerate(cells):
        if not np.isnan(value):
            text = f"{value:.2f}".replace("-0.00", "0.00")
            axes.text(j, i, text, ha="center", va="center", fontsize=8, color="white" if value < 0.6 else "black")
    axes.set_yticks(range(len(levels)), [f"$z_{{{level}}}$" if level else "pixels" for level in levels], fontsize=10)
    shown = [(position, SCORES.get(name, name)) for position, name in enumerate(columns) if name]
    axes.set_xticks(
        [position for position, _ in shown], [name for _, name in shown], rotation=40, ha="right", fontsize=8.5
    )
    axes.set_xticks(np.arange(-0.5, len(columns)), minor=True)
    axes.set_yticks(np.arange(-0.5, len(levels)), minor=True)
    axes.grid(which="minor", color="white", lw=1.5)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)


def _key(column: str | None) -> str:
    if column is None or column in SCORES:
        return column or "nothing"
    return "probe" if column == "mean" else f"probe/{column}"
