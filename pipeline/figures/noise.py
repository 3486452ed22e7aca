"""A diffusion's levels: what each log SNR costs and says, and how the bound falls with the number of levels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.figures.style import Drawing, blank, colour, hover, legend, line, listing, plain
from pipeline.text import plural

__all__ = ["bound_by_levels", "by_log_snr"]

Tables = Mapping[str, Sequence[Mapping[str, Any]]]  # by variant, rows of a table of `pipeline.evaluation.noise_levels`
MARKERS = {"log_linear": "o", "optimal": "D"}
NAMES = {"log_linear": "equal steps of log SNR", "optimal": "the best levels", "continuous": "without end"}


def by_log_snr(curves: Tables) -> Drawing:
    """Show by log SNR the rate, in nats a unit of log SNR, and where it was measured I(n; z), a panel each.

    Rows hold `log_snr`, `rate`, `se`, and perhaps `information`.
    """
    informed = any("information" in row for rows in curves.values() for row in rows)
    caption = (
        "Left: what a step of denoising costs by the log of signal to noise; noise grows to the left. The area under a"
        " curve is the KL of the chain without end, but for its prior term. Bands: one standard error over images."
    )
    if informed:
        caption += (
            " Right: what z says of which test image it is, in nats: no decoder takes part. Where it is flat at the"
            " log of their number, z names its image, and what follows only describes that image in detail."
        )
    figure = blank(3.3, "What a diffusion decides, by log SNR", caption)
    panels = figure.subplots(1, 2 if informed else 1, squeeze=False)[0]
    peaks = {}
    for variant, rows in curves.items():
        at, rate, se = ([float(row[key]) for row in rows] for key in ("log_snr", "rate", "se"))
        tone = colour(variant, curves)
        (drawn,) = panels[0].plot(at, rate, color=tone, lw=1.4)
        panels[0].fill_between(
            at,
            [value - error for value, error in zip(rate, se, strict=True)],
            [value + error for value, error in zip(rate, se, strict=True)],
            color=tone,
            alpha=0.2,
            lw=0,
        )
        highest = max(range(len(rate)), key=rate.__getitem__)
        peaks[variant] = {"most": f"{rate[highest]:.2f} nats a unit at log SNR {at[highest]:.2f}"}
        hover(drawn, f"{variant}: {peaks[variant]['most']}")
        if "information" in rows[0]:
            panels[1].plot(at, [float(row["information"]) for row in rows], color=tone, lw=1.4)
    plain(panels[0], "what it costs", "log SNR", "rate (nats a unit of log SNR)")
    if informed:
        plain(panels[1], "what z says of the image", "log SNR", "I(n; z) (nats)")
    legend(figure, [line(variant, colour(variant, curves)) for variant in curves])
    figure.alt = f"Rate of a diffusion by log SNR; {listing(peaks)}"
    return figure


def bound_by_levels(tables: Tables) -> Drawing:
    """Show minus the bound of a decoder by the number of levels; rows hold `levels`, `grid`, `elbo`, `_se`.

    The bound of the chain without end is a dashed line.
    """
    caption = (
        "One trained decoder, in chains of other numbers of levels: nothing is trained again. Lower is better."
        " Circles: levels at equal steps of log SNR; diamonds: where the bound of so many levels is best on training"
        " images; dashed: the chain without end. Bars: one standard error of the draws."
    )
    figure = blank(3.6, "The bound by the number of levels", caption)
    axes = figure.subplots()
    ends: dict[str, dict[str, str]] = {}
    for variant, rows in tables.items():
        tone = colour(variant, tables)
        for grid, marker in MARKERS.items():
            own = [row for row in rows if row["grid"] == grid]
            if own:
                counts = [int(row["levels"]) for row in own]
                drawn = axes.errorbar(
                    counts,
                    [-float(row["elbo"]) for row in own],
                    yerr=[float(row["elbo_se"]) for row in own],
                    color=tone,
                    marker=marker,
                    ms=4,
                    lw=1.2,
                    ls="-" if grid == "log_linear" else ":",
                )
                hover(drawn.lines[0], f"{variant}, {NAMES[grid]}")
        ends[variant] = {_named(row): f"{-float(row['elbo']):.2f}" for row in (rows[0], rows[-1])}
        for row in rows:
            if row["grid"] == "continuous":
                axes.axhline(-float(row["elbo"]), color=tone, lw=1.2, ls="--")
    axes.set_xscale("log")
    plain(axes, "", "levels (log scale)", "-ELBO (nats per example)")
    legend(figure, [line(variant, colour(variant, tables)) for variant in tables])
    figure.alt = f"-ELBO by the number of levels; {listing(ends)}"
    return figure


def _named(row: Mapping[str, Any]) -> str:
    if row["grid"] == "continuous":
        return NAMES["continuous"]
    return f"{plural(int(row['levels']), 'level')}, {NAMES[row['grid']]}"
