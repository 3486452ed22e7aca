"""What lies inside a model: the nats of single units, and a map of the top level."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.ticker import MaxNLocator

from pipeline.colours import NAMED, OTHERS
from pipeline.figures.style import (
    GREY,
    Drawing,
    facets,
    hover,
    indexed,
    label_of,
    legend,
    level_colours,
    line,
    listing,
    plain,
)

__all__ = ["top_map", "unit_nats"]

SHOWN = 40  # units of a level
POINTS = 400  # images of a map
CLASSES = (*OTHERS, *NAMED.values())


def unit_nats(models: Mapping[str, Sequence[np.ndarray]]) -> Drawing:
    """Show the nats of each unit in falling order; `models` holds by variant an array a level, z_1 first."""
    caption = (
        "A dot is a unit, by level in falling order: its rate, the nats that it adds to the KL. Units near 0 carry"
        " nothing of the image. First seed, on the first test images. A prior of the top level that is no product over"
        " units has no rates of single units: these are then the nats of the share of variance that images explain."
    )
    if any(len(nats) > SHOWN for levels in models.values() for nats in levels):
        caption += f" The first {SHOWN} units of each level are shown."
    figure, panels = facets(len(models), "Nats of each unit", caption)
    palette = level_colours(max(len(levels) for levels in models.values()))
    rows: dict[str, dict[str, str]] = {}
    for axes, (variant, levels) in zip(panels.flat, models.items(), strict=False):
        for level, (nats, tone) in enumerate(zip(levels, palette, strict=False), start=1):
            shown = nats[:SHOWN]
            (drawn,) = axes.plot(range(1, len(shown) + 1), shown, "o-", ms=4, lw=1, color=tone)
            hover(drawn, f"{variant}, z{level}: {len(nats)} units, {nats.sum():.2f} nats, the largest {nats[0]:.2f}")
            parts = {f"z{level}": f"{nats.sum():.2f} in {len(nats)} units, of them {(nats > 0.1).sum()} above 0.1"}
            rows[variant] = rows.get(variant, {}) | parts
        axes.axhline(0, color=GREY, lw=0.8)
        plain(axes, label_of(variant, 28), "unit, in falling order", "nats" if axes in panels[:, 0] else "")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    legend(figure, [line(indexed("z", level), tone, marker="o") for level, tone in enumerate(palette, start=1)])
    figure.alt = f"Nats of single units. {listing(rows)}"
    return figure


def top_map(maps: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray | None]]) -> Drawing:
    """Show test images as points of the top level; `maps` holds by variant points, shares of variance and labels."""
    labelled = [labels for _, _, labels in maps.values() if labels is not None]
    classes = sorted({int(label) for labels in labelled for label in labels})
    coloured = 1 < len(classes) <= len(CLASSES)
    caption = (
        "A point is a test image: the mean of the top level, along the two directions in which these means vary most."
        + (" Colours are the classes of the data set, which no model has seen." if coloured else "")
        + " Where a class lies apart, the top level knows it. First seed."
    )
    figure, panels = facets(len(maps), "Where images lie in the top level", caption)
    rows = {}
    for axes, (variant, (points, share, labels)) in zip(panels.flat, maps.items(), strict=False):
        points = points[:POINTS]
        groups = [(None, GREY)] if labels is None or not coloured else list(zip(classes, CLASSES, strict=False))
        for label, tone in groups:
            own = points if labels is None or label is None else points[labels[: len(points)] == label]
            (drawn,) = axes.plot(*own.T, "o", ms=3, color=tone, alpha=0.75)
            hover(drawn, f"{variant}: class {label}" if label is not None else variant)
        plain(axes, label_of(variant, 28), f"first axis ({share[0]:.0%})", f"second axis ({share[1]:.0%})")
        rows[variant] = {"share of variance on the two axes": f"{share.sum():.0%}"}
    if coloured:
        legend(figure, [line(str(n), tone, ls="", marker="o") for n, tone in zip(classes, CLASSES, strict=False)])
    figure.alt = f"Posterior means of the top level in two dimensions. {listing(rows)}"
    return figure
