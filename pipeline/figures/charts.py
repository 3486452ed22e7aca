"""Charts of bounds and rates, in nats per example: by epoch while training, and on the test set."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.lines import Line2D

from pipeline.figures.style import (
    GREY,
    Drawing,
    blank,
    colour,
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
from pipeline.metric import Metric

__all__ = ["bounds", "curves", "log_likelihoods", "rates_by_epoch"]

Row = Mapping[str, float]
Curves = Mapping[str, Mapping[int, Sequence[Row]]]  # variant: seed: a row an epoch
Depths = Mapping[str, Mapping[int, int]]  # variant: seed: latent levels
Interval = tuple[float, float | None]  # mean over seeds and half width; None where there is one seed
POINTS = 250  # of a line
MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def curves(runs: Curves) -> Drawing:
    """Show the bound by epoch, training left and validation right; a line is a seed."""
    caption = "Higher is better; a line is a seed. The first tenth of the epochs may lie below the frame."
    figure = blank(3.3, "Evidence lower bound (ELBO) while training", caption)
    panels = figure.subplots(1, 2, sharey=True)
    low, high = np.inf, -np.inf
    for axes, split, name in zip(panels, ("train", "valid"), ("training images", "validation images"), strict=True):
        for variant, seeds in runs.items():
            for rows in seeds.values():
                bound = [row[f"{split}/elbo"] for row in rows]
                thinned = _thinned(rows)
                shown = [row[f"{split}/elbo"] for row in thinned]
                (drawn,) = axes.plot(_epochs(thinned), shown, color=colour(variant, runs), lw=1.2, alpha=0.8)
                hover(drawn, f"{variant}, a seed: ELBO {bound[-1]:.2f} at epoch {rows[-1]['epoch']:g}")
                settled = bound[len(bound) // 10 :]
                low, high = min(low, *settled, bound[-1]), max(high, *bound, bound[-1])
        plain(axes, name, "epoch", "ELBO (nats per example)" if split == "train" else "")
    margin = 0.04 * (high - low) or 1.0
    panels[0].set_ylim(low - margin, high + margin)
    legend(figure, [line(variant, colour(variant, runs)) for variant in runs])
    last = {
        variant: {f"{split} images": _range([rows[-1][f"{key}/elbo"] for rows in seeds.values()])}
        for variant, seeds in runs.items()
        for split, key in (("validation", "valid"),)
    }
    figure.alt = f"ELBO by epoch; at the last epoch, by seed, {listing(last)}"
    return figure


def rates_by_epoch(runs: Curves, depths: Depths) -> Drawing:
    """Show the validation rate of each level, and their sum, by epoch; a panel is a variant, a line a seed.

    `depths` holds the number of latent levels by variant and seed.
    """
    caption = (
        "The rates of all levels sum to the KL of posterior to prior. Only that sum is a divergence: a rate below the"
        " top level may be negative. A top rate near 0 means that the level is not used. A line is a seed."
    )
    figure, panels = facets(len(runs), "What each level costs while training", caption)
    palette = level_colours(_deepest(depths, runs))
    for axes, (variant, seeds) in zip(panels.flat, runs.items(), strict=False):
        for seed, every in seeds.items():
            rows, depth = _thinned(every), depths[variant][seed]
            if depth > 1:
                axes.plot(_epochs(rows), [row["valid/kl"] for row in rows], color="black", lw=1.2, ls="--")
            for level in range(depth):
                rate = [row[str(Metric("valid/rate", level + 1))] for row in rows]
                (drawn,) = axes.plot(_epochs(rows), rate, color=palette[level], lw=1.4)
                hover(drawn, f"{variant} seed {seed}: rate of z{level + 1}, {rate[-1]:.2f} nats at the end")
        axes.axhline(0, color=GREY, lw=0.6)
        plain(axes, label_of(variant, 28), "epoch", "validation rate (nats)" if axes in panels[:, 0] else "")
    handles = [line(f"rate of {indexed('z', level)}", tone) for level, tone in enumerate(palette, start=1)]
    handles += [line("KL (sum)", "black", ls="--")] if len(palette) > 1 else []
    legend(figure, handles)
    last = {
        variant: {
            f"z{level}": _range([rows[-1][key] for rows in seeds.values() if key in rows[-1]])
            for level in range(1, max(depths[variant].values()) + 1)
            for key in [str(Metric("valid/rate", level))]
        }
        for variant, seeds in runs.items()
    }
    figure.alt = f"Validation rate of each level by epoch; at the last epoch, in nats, {listing(last)}"
    return figure


def bounds(results: Mapping[str, Mapping[str, Interval]], confidence: float) -> Drawing:
    """Show how tight the bound is: the ELBO and L_k by variant, with intervals over seeds.

    `results` holds by variant the intervals of `elbo` (in nats) and of `iwae/k` for each k that was measured.
    """
    names = [
        "elbo",
        *sorted({key for row in results.values() for key in row if Metric.parse(key).family == "iwae"}, key=_k),
    ]
    names = [name for name in names if name != "iwae/1"]  # the same quantity as elbo
    single = all(half is None for row in results.values() for _, half in row.values())
    bars = "One seed: no interval." if single else f"Bars: {confidence:.0%} intervals over seeds (Student t)."
    caption = (
        f"{bars} $L_k$ averages k draws inside the logarithm: it rises with k towards log\N{NO-BREAK SPACE}p(x)."
        " From the ELBO to the largest k is the gap, what the approximate posterior loses."
    )
    figure = blank(0.6 * len(results) + 1.1, "How tight the bound is on the test set", caption)
    axes = figure.subplots()
    labels = {name: "ELBO" if name == "elbo" else indexed("L", _k(name)) for name in names}
    positions = np.arange(len(results))[::-1]
    for position, (variant, row) in zip(positions, results.items(), strict=True):
        shown = [name for name in names if name in row]
        means = [row[name][0] for name in shown]
        axes.plot([min(means), max(means)], [position, position], color=colour(variant, results), lw=6, alpha=0.25)
        for name, mean in zip(shown, means, strict=True):
            # An interval as wide as the gap would hide another that shares its line.
            at = position + 0.32 * (names.index(name) / max(1, len(names) - 1) - 0.5)
            tone, marker = colour(variant, results), MARKERS[names.index(name) % len(MARKERS)]
            dot = axes.errorbar(
                mean, at, xerr=row[name][1], fmt=marker, color=tone, ms=7, capsize=3, lw=1.2, mec="white"
            )
            hover(dot.lines[0], f"{variant}: {labels[name]} {mean:.3f} nats")
    axes.set_yticks(positions, [label_of(name) for name in results], fontsize=10)
    axes.set_ylim(-0.5, len(results) - 0.5)
    plain(axes, "", "bound on log p(x) (nats per example); higher is better")
    handles = [
        Line2D([], [], ls="", marker=MARKERS[i % len(MARKERS)], color=GREY, ms=7, label=labels[name])
        for i, name in enumerate(names)
    ]
    legend(figure, handles)
    rows = {
        variant: {labels[name]: f"{row[name][0]:.2f}" for name in names if name in row}
        for variant, row in results.items()
    }
    figure.alt = f"Bounds on log p(x), nats per example. {listing(rows)}"
    return figure


def log_likelihoods(values: Mapping[str, np.ndarray]) -> Drawing:
    """Show how the estimates of log p(x) are spread over the test images; `values` holds by variant [images]."""
    caption = (
        "How many test images have an estimate of log p(x) in each interval, means over seeds. The images differ far"
        " more from each other than the models do: this is why differences are paired by image."
    )
    figure = blank(3.0, "log p(x) of the test images", caption)
    axes: Any = figure.subplots()
    every = np.concatenate(list(values.values()))
    edges = np.linspace(every.min(), every.max() + 1e-9, 31)
    rows = {}
    for variant, own in values.items():
        drawn = axes.stairs(np.histogram(own, edges)[0], edges, color=colour(variant, values), lw=1.5)
        low, middle, high = np.quantile(own, (0.05, 0.5, 0.95))
        hover(drawn, f"{variant}: median {middle:.2f}, nine in ten from {low:.2f} to {high:.2f} nats")
        rows[variant] = {"median": f"{middle:.2f}", "5%": f"{low:.2f}", "95%": f"{high:.2f}"}
    plain(axes, "", "log p(x) (nats per example)", "test images")
    legend(figure, [line(variant, colour(variant, values)) for variant in values])
    figure.alt = f"Histogram of log p(x) over test images, in nats. {listing(rows)}"
    return figure


def _deepest(depths: Depths, variants: Iterable[str]) -> int:
    return max(depth for variant in variants for depth in depths[variant].values())


def _epochs(rows: Sequence[Row]) -> list[float]:
    return [row["epoch"] for row in rows]


def _thinned(rows: Sequence[Row]) -> Sequence[Row]:
    """Return at most `POINTS` rows, evenly spaced, and the last: a line of more has no more to show."""
    step = -(-len(rows) // POINTS)
    return [*rows[: len(rows) - 1 : step], rows[-1]] if step > 1 else rows


def _range(values: Sequence[float]) -> str:
    low, high = (f"{end(values):.2f}" for end in (min, max))
    return low if low == high else f"{low} to {high}"


def _k(name: str) -> int:
    return int(name.rpartition("/")[2]) if "/" in name else 0
