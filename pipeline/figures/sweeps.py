"""What a sweep has found, trial by trial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from pipeline.figures.style import GREY, facets, plain

__all__ = ["depth_width_map"]


def depth_width_map(trials: Sequence[Mapping[str, Any]]) -> Figure:
    """Show the trials of a sweep by depth and bottom width, coloured by validation bound; a panel is a variant.

    A trial holds `depth`, `z_dim` (units of z_1), `state` (COMPLETE, PRUNED, FAIL), `value` (nats; read where the
    trial is complete) and, where there is more than one, its `variant`.
    """
    variants = list(dict.fromkeys(trial.get("variant", "") for trial in trials)) or [""]
    values = [float(trial["value"]) for trial in trials if trial["state"] == "COMPLETE"]
    depths, widths = ([trial[key] for trial in trials] or [1] for key in ("depth", "z_dim"))
    ticks = sorted({round(width) for width in np.geomspace(min(widths), max(widths), 5)})
    caption = (
        "A disc is a finished trial; of trials at one place the best lies on top. A cross is a trial that was stopped"
        " early or failed. The ring marks each variant's best trial. Colours end at the lower quartile:"
        " worse trials look alike."
    )
    figure, panels = facets(len(variants), "What the sweep found", caption, sharex=True)
    low, high = (float(np.quantile(values, 0.25)), max(values)) if values else (0.0, 1.0)
    scale = ScalarMappable(Normalize(low if low < high else low - 1, high), "viridis")
    for axes, variant in zip(panels.flat, variants, strict=False):
        rows = [trial for trial in trials if trial.get("variant", "") == variant]
        cut = [trial for trial in rows if trial["state"] != "COMPLETE"]
        axes.plot([t["z_dim"] for t in cut], [t["depth"] for t in cut], "x", ms=5, color=GREY, zorder=2)
        ranked = sorted((t for t in rows if t["state"] == "COMPLETE"), key=lambda trial: float(trial["value"]))
        x, y = [t["z_dim"] for t in ranked], [t["depth"] for t in ranked]
        tones = scale.to_rgba(np.array([t["value"] for t in ranked], dtype=float))
        axes.scatter(x, y, c=tones, s=90, edgecolor="white", zorder=3)
        title = variant
        if ranked:
            axes.scatter(x[-1], y[-1], s=230, facecolor="none", edgecolor="black", lw=1.6, zorder=4)
            title = f"{variant}: best {ranked[-1]['value']:.2f}".removeprefix(": ")
        plain(axes, title, "units of $z_1$", "depth (levels)" if axes in panels[:, 0] else "")
        axes.set_xscale("log")
        axes.set_xlim(min(widths) / 1.3, max(widths) * 1.3)
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticks(ticks, [f"{tick}" for tick in ticks])
        axes.yaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.set_ylim(min(depths) - 0.6, max(depths) + 0.6)
    bar = figure.colorbar(scale, ax=list(panels.flat), extend="min")
    bar.set_label("validation ELBO\n(nats per example)", fontsize=9)
    return figure
