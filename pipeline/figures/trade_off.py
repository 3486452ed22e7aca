"""What variants that differ in `train.beta` alone show: the curve of rate and distortion, and which level pays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.ticker import NullLocator

from pipeline.colours import NAMED, OTHERS
from pipeline.figures.style import GREY, Drawing, blank, hover, indexed, level_colours, line, listing, plain

__all__ = ["TradeOff", "trade_off"]


@dataclass(frozen=True)
class TradeOff:
    """A trained variant: its beta, rate and distortion, and the nats of each level from z_1 up, means over seeds."""

    beta: float
    rate: float
    distortion: float
    levels: tuple[float, ...]


def trade_off(families: Mapping[str, Sequence[TradeOff]], terms: str) -> Drawing:
    """Draw the curves of all families side by side, and below it each family's nats by level; `terms` names these."""
    caption = (
        "Each dot is a model trained with another beta, the number beside it: a large one makes nats in the latents"
        " expensive. Rate + distortion = -ELBO: along a dotted line the ELBO is equal, towards the bottom left higher."
        f" Below: which level spends the nats ({terms}). All on the test set, means over seeds."
    )
    down = -(-len(families) // 2)
    figure = blank(4.0 + 2.4 * down, "Rate and distortion by beta, and which level spends the nats", caption)
    parts: Any = figure.subfigures(2, 1, height_ratios=(4.0, 2.4 * down))
    above, below = parts
    axes = above.subplots()
    tones = {name: NAMED.get(name, OTHERS[index % len(OTHERS)]) for index, name in enumerate(families)}
    for name, models in families.items():
        points = sorted((model.rate, model.distortion, model.beta) for model in models)
        rate, distortion, _ = zip(*points, strict=True)
        axes.plot(rate, distortion, "o-", ms=5, color=tones[name], label=name)
        for x, y, beta in points:
            axes.annotate(f"{beta:g}", (x, y), xytext=(4, 4), textcoords="offset points", fontsize=8, color=tones[name])
            (dot,) = axes.plot(x, y, "o", ms=6, color=tones[name])
            hover(dot, f"{name}, beta {beta:g}: rate {x:.2f}, distortion {y:.2f}")
    _equal_bounds(axes)
    plain(axes, "", "rate: KL (nats per example)", "distortion: -log p(x | z)\n(nats per example)")
    axes.legend(fontsize=9, frameon=False)
    panels = below.subplots(down, min(2, len(families)), sharey=True, squeeze=False)
    for panel in panels.flat[len(families) :]:
        panel.set_visible(False)
    for panel, (name, models) in zip(panels.flat, families.items(), strict=False):
        ordered = sorted(models, key=lambda model: model.beta)
        depth = max(len(model.levels) for model in ordered)
        for level, tone in enumerate(level_colours(depth)):
            deep = [model for model in ordered if len(model.levels) > level]
            panel.plot([m.beta for m in deep], [m.levels[level] for m in deep], "o-", ms=4, color=tone)
        plain(panel, name, "beta", "nats per example" if panel in panels[:, 0] else "")
        panel.set_xscale("log")
        panel.xaxis.set_minor_locator(NullLocator())
        ticks = [model.beta for model in ordered]
        panel.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        panel.axhline(0, color=GREY, lw=0.8)
        handles = [line(indexed("z", level), tone) for level, tone in enumerate(level_colours(depth), start=1)]
        panel.legend(handles=handles, fontsize=8, frameon=False)
    rows = {
        name: {f"beta {m.beta:g}": f"rate {m.rate:.2f} and distortion {m.distortion:.2f}" for m in models}
        for name, models in families.items()
    }
    figure.alt = f"Rate and distortion in nats per example, by beta. {listing(rows)}"
    return figure


def _equal_bounds(axes: Any) -> None:
    """Add dotted lines along which rate + distortion is equal."""
    (least, most), (low, high) = axes.get_xlim(), axes.get_ylim()
    rate, distortion = np.meshgrid(np.linspace(least, most, 50), np.linspace(low, high, 50))
    style = {"colors": GREY, "linewidths": 0.8, "linestyles": ":", "zorder": 1}
    lines = axes.contour(rate, distortion, -rate - distortion, 7, **style)
    axes.clabel(lines, fontsize=8, fmt=lambda bound: f"ELBO {bound:g}")
