"""Charts of bounds and rates, in nats per example: by epoch while training, and on the test set."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from pipeline.figures.style import GREY, blank, colour, facets, level_colours, line, plain
from pipeline.metric import Metric

__all__ = ["bounds", "curves", "rates_by_epoch", "rates_by_level"]

Row = Mapping[str, float]
Curves = Mapping[str, Mapping[int, Sequence[Row]]]  # variant: seed: a row an epoch
Depths = Mapping[str, Mapping[int, int]]  # variant: seed: latent levels
Interval = tuple[float, float | None]  # mean over seeds and half width; None where there is one seed
MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def curves(runs: Curves) -> Figure:
    """Show the bound by epoch, training left and validation right; a line is a seed."""
    caption = "Higher is better; a line is a seed. The first tenth of the epochs may lie below the frame."
    figure = blank(9, 4.2, "Evidence lower bound (ELBO) while training", caption)
    panels = figure.subplots(1, 2, sharey=True)
    low, high = np.inf, -np.inf
    for axes, split, name in zip(panels, ("train", "valid"), ("training images", "validation images"), strict=True):
        for variant, seeds in runs.items():
            for rows in seeds.values():
                bound = [row[f"{split}/elbo"] for row in rows]
                axes.plot(_epochs(rows), bound, color=colour(variant, runs), lw=1.2, alpha=0.8)
                settled = bound[len(bound) // 10 :]
                low, high = min(low, *settled, bound[-1]), max(high, *bound, bound[-1])
        plain(axes, name, "epoch", "ELBO (nats per example)" if split == "train" else "")
    margin = 0.04 * (high - low) or 1.0
    panels[0].set_ylim(low - margin, high + margin)
    handles = [line(variant, colour(variant, runs)) for variant in runs]
    panels[1].legend(handles=handles, fontsize=10, loc="lower right")
    return figure


def rates_by_epoch(runs: Curves, depths: Depths) -> Figure:
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
        for seed, rows in seeds.items():
            depth = depths[variant][seed]
            if depth > 1:
                axes.plot(_epochs(rows), [row["valid/kl"] for row in rows], color="black", lw=1.2, ls="--")
            for level in range(depth):
                rate = [row[str(Metric("valid/rate", level + 1))] for row in rows]
                axes.plot(_epochs(rows), rate, color=palette[level], lw=1.4)
        axes.axhline(0, color=GREY, lw=0.6)
        plain(axes, variant, "epoch", "validation rate (nats per example)" if axes in panels[:, 0] else "")
    handles = [line(f"rate of $z_{{{level}}}$", tone) for level, tone in enumerate(palette, start=1)]
    handles += [line("KL (sum)", "black", ls="--")] if len(palette) > 1 else []
    figure.legend(handles=handles, loc="outside right center", fontsize=9, frameon=False)
    return figure


def rates_by_level(results: Mapping[str, Mapping[int, Row]], depths: Depths) -> Figure:
    """Show the test bound taken apart: rates stacked by level (means over seeds), distortion, and -log p(x).

    `results` holds by variant and seed the values of `test/rate/z1`.., `test/reconstruction` and `test/nll`, `depths`
    the number of latent levels by variant and seed.
    """
    caption = (
        "Bars: means over seeds; dots: seeds. Distortion + KL = -ELBO, which lies above the NLL by the bound's gap."
        " Negative rates are stacked to the left of 0; the diamond marks the sum, the KL."
    )
    title = "Where the nats go: rate by level, distortion, and negative log-likelihood on the test set"
    if any(len(set(depths[variant].values())) > 1 for variant in results):
        caption += " Seeds of a variant differ in depth: a level that one lacks adds 0 to the mean."
    figure = blank(9.6, 0.62 * len(results) + 2.4, title, caption)
    bars, distortion, nll = figure.subplots(1, 3, sharey=True, width_ratios=[2.2, 1, 1])
    palette = level_colours(_deepest(depths, results))
    positions = np.arange(len(results))[::-1]
    for position, (variant, seeds) in zip(positions, results.items(), strict=True):
        ends = {True: 0.0, False: 0.0}
        means = [
            float(np.mean([row.get(str(Metric("test/rate", level)), 0.0) for row in seeds.values()]))
            for level in range(1, max(depths[variant].values()) + 1)
        ]
        for rate, tone in zip(means, palette, strict=False):
            bars.barh(position, rate, left=ends[rate >= 0], height=0.62, color=tone, edgecolor="white", lw=0.8)
            ends[rate >= 0] += rate
        bars.plot(sum(means), position, "D", ms=7, color="white", mec="black", zorder=3)
        for axes, key, sign in ((distortion, "test/reconstruction", -1), (nll, "test/nll", 1)):
            values = [sign * row[key] for row in seeds.values()]
            axes.plot(values, [position] * len(values), "o", ms=5, alpha=0.7, color=colour(variant, results))
            axes.plot(np.mean(values), position, "|", ms=18, mew=2, color="black")
    bars.axvline(0, color=GREY, lw=0.8)
    plain(bars, "rate by level", "nats per example")
    plain(distortion, "distortion", "-log p(x | z$_1$) (nats)")
    plain(nll, "NLL", "-log p(x) (nats)")
    bars.set_yticks(positions, list(results), fontsize=11)
    for axes in (distortion, nll):
        axes.xaxis.set_major_locator(MaxNLocator(4))
    handles = [line(f"$z_{{{level}}}$", tone, lw=7) for level, tone in enumerate(palette, start=1)]
    handles += [
        Line2D([], [], ls="", marker="D", color="white", mec="black", label="KL (sum)"),
        Line2D([], [], ls="", marker="o", color=GREY, label="a seed"),
        Line2D([], [], ls="", marker="|", ms=12, mew=2, color="black", label="mean"),
    ]
    figure.legend(handles=handles, loc="outside right center", fontsize=9, frameon=False)
    return figure


def bounds(results: Mapping[str, Mapping[str, Interval]], confidence: float) -> Figure:
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
    figure = blank(8.5, 0.75 * len(results) + 1.9, "How tight the bound is on the test set", caption)
    axes = figure.subplots()
    positions = np.arange(len(results))[::-1]
    for position, (variant, row) in zip(positions, results.items(), strict=True):
        shown = [name for name in names if name in row]
        means = [row[name][0] for name in shown]
        axes.plot([min(means), max(means)], [position, position], color=colour(variant, results), lw=6, alpha=0.25)
        for name, mean in zip(shown, means, strict=True):
            # An interval as wide as the gap would hide another that shares its line.
            at = position + 0.32 * (names.index(name) / max(1, len(names) - 1) - 0.5)
            tone, marker = colour(variant, results), MARKERS[names.index(name) % len(MARKERS)]
            axes.errorbar(mean, at, xerr=row[name][1], fmt=marker, color=tone, ms=7, capsize=3, lw=1.2, mec="white")
    axes.set_yticks(positions, list(results), fontsize=11)
    axes.set_ylim(-0.5, len(results) - 0.5)
    plain(axes, "", "bound on log p(x) (nats per example); higher is better")
    labels = {name: "ELBO" if name == "elbo" else f"$L_{{{_k(name)}}}$" for name in names}
    handles = [
        Line2D([], [], ls="", marker=MARKERS[i % len(MARKERS)], color=GREY, ms=7, label=labels[name])
        for i, name in enumerate(names)
    ]
    figure.legend(handles=handles, loc="outside right center", fontsize=10, frameon=False)
    return figure


def _deepest(depths: Depths, variants: Iterable[str]) -> int:
    return max(depth for variant in variants for depth in depths[variant].values())


def _epochs(rows: Sequence[Row]) -> list[float]:
    return [row["epoch"] for row in rows]


def _k(name: str) -> int:
    return int(name.rpartition("/")[2]) if "/" in name else 0
