"""Bounds of log p(x) by other means than the model's own posterior, in nats per example."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from pipeline.figures.style import GREY, Drawing, blank, colour, hover, label_of, legend, listing, plain

__all__ = ["sandwich"]

Means = Mapping[str, Mapping[str, tuple[float, float]]]  # variant: metric: mean and its standard error
BELOW = {"ais/elbo": ("o", "ELBO"), "ais/iwae": ("s", "L of k draws"), "ais": ("^", "annealing (AIS)")}


def sandwich(results: Means, error: str) -> Drawing:
    """Show log p(x) of the first test images from below, and of images of the model from both sides.

    `results` holds `ais/elbo`, `ais/iwae`, `ais`, and `bdmc/lower`, `bdmc/upper`, `bdmc/width`.
    """
    caption = (
        "Above: three lower bounds of log p(x), all on the same test images; the tightest lies furthest to the right."
        " Annealed importance sampling (AIS) moves away from the trained posterior, or starts at the prior: where it"
        " agrees with $L_k$, both are likely close to log p(x). Below: on images drawn from the model itself annealing"
        " bounds log p(x) from below"
        " (0 on the axis) and from above (the bar's end); where the bar is short, AIS is exact to within it. Whiskers:"
        f" one {error}."
    )
    height = 2 * (0.5 * len(results) + 0.8) + 0.3
    figure = blank(height, "How far the bounds are from log p(x): annealing as a check", caption)
    images_panel, model_panel = figure.subplots(2, 1)
    positions = np.arange(len(results))[::-1]
    for position, (variant, row) in zip(positions, results.items(), strict=True):
        tone = colour(variant, results)
        for step, (name, (marker, _)) in enumerate(BELOW.items()):
            if name in row:
                at = position + 0.22 * (1 - step)
                dot = images_panel.errorbar(
                    row[name][0], at, xerr=row[name][1], fmt=marker, ms=7, color=tone, mec="white", capsize=3
                )
                hover(dot.lines[0], f"{variant}: {name} {row[name][0]:.3f} ± {row[name][1]:.3f} nats")
        if "bdmc/lower" in row:
            _between(model_panel, position, row, tone)
        for axes, name in ((images_panel, "ais"), (model_panel, "bdmc/lower")):
            if name not in row:
                axes.text(0.02, position, "not measured", color=GREY, fontsize=9, va="center", style="italic",
                          transform=axes.get_yaxis_transform())  # fmt: skip
    for axes in (images_panel, model_panel):
        axes.set_yticks(positions, [label_of(name) for name in results], fontsize=10)
        axes.set_ylim(-0.5, len(results) - 0.5)
    plain(images_panel, "test images: lower bounds", "bound on log p(x) (nats per example)")
    plain(model_panel, "images drawn from the model: both sides", "nats above the lower bound")
    model_panel.axvline(0, color=GREY, lw=0.8)
    images_panel.xaxis.set_major_locator(MaxNLocator(5))
    model_panel.xaxis.set_major_locator(MaxNLocator(5))
    handles = [Line2D([], [], ls="", marker=marker, color=GREY, ms=7, label=name) for marker, name in BELOW.values()]
    legend(figure, handles)
    names = (*BELOW, "bdmc/width")
    rows = {variant: {name: f"{row[name][0]:.3f}" for name in names if name in row} for variant, row in results.items()}
    figure.alt = f"Bounds on log p(x), and the distance of the lower from the upper one, in nats. {listing(rows)}"
    return figure


def _between(axes: Any, position: float, row: Mapping[str, tuple[float, float]], tone: str) -> None:
    """Show the width as a bar that starts at the lower bound, and write above it which bounds these are."""
    width, error = row["bdmc/width"]
    axes.barh(position - 0.14, width, height=0.3, color=tone, alpha=0.8)
    axes.errorbar(width, position - 0.14, xerr=error, color="black", lw=1, capsize=3)
    text = f"{row['bdmc/lower'][0]:.3f} to {row['bdmc/upper'][0]:.3f}: width {width:.3f} ± {error:.3f}"
    axes.text(0.02, position + 0.08, text, va="bottom", fontsize=8.5, transform=axes.get_yaxis_transform())
