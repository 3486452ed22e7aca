"""The trials of a sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullLocator

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
    listing,
    plain,
)

__all__ = ["depth_width_map", "history", "importances", "rate_distortion"]

MOST = 200  # trials of a variant that are single objects of a vector figure


def depth_width_map(trials: Sequence[Mapping[str, Any]], metric: str) -> Drawing:
    """Show the trials of a sweep by depth and bottom width, coloured by their metric; a panel is a variant.

    `metric` is the name of that metric. A trial holds `depth`, `z_dim` (units of z_1), `state` (COMPLETE, PRUNED,
    FAIL), `value` (nats; read where the trial is complete) and, where there is more than one, its `variant`.
    """
    variants = list(dict.fromkeys(trial.get("variant", "") for trial in trials)) or [""]
    values = [float(trial["value"]) for trial in trials if trial["state"] == "COMPLETE"]
    depths, widths = ([trial[key] for trial in trials] or [1] for key in ("depth", "z_dim"))
    ticks = sorted({round(width) for width in np.geomspace(min(widths), max(widths), 5)})
    caption = (
        "A disc is a finished trial; of trials at one point the best lies on top. A cross is a trial that was stopped"
        " early or failed. The ring marks each variant's best trial. Colours end at the lower quartile:"
        " worse trials look alike."
    )
    if metric == "valid/objective" and len(variants) > 1:
        caption += " Colours of variants with different objectives cannot be compared."
    figure, panels = facets(len(variants), "The trials of the sweep", caption, sharex=True)
    low, high = (float(np.quantile(values, 0.25)), max(values)) if values else (0.0, 1.0)
    scale = ScalarMappable(Normalize(low if low < high else low - 1, high), "viridis")
    for axes, variant in zip(panels.flat, variants, strict=False):
        rows = [trial for trial in trials if trial.get("variant", "") == variant]
        cut = [trial for trial in rows if trial["state"] != "COMPLETE"]
        axes.plot(
            [t["z_dim"] for t in cut],
            [t["depth"] for t in cut],
            "x",
            ms=5,
            color=GREY,
            zorder=2,
            rasterized=len(cut) > MOST,
        )
        ranked = sorted((t for t in rows if t["state"] == "COMPLETE"), key=lambda trial: float(trial["value"]))
        x, y = [t["z_dim"] for t in ranked], [t["depth"] for t in ranked]
        tones = scale.to_rgba(np.array([t["value"] for t in ranked], dtype=float))
        axes.scatter(x[:-MOST], y[:-MOST], c=tones[:-MOST], s=80, edgecolor="white", zorder=3, rasterized=True)
        for trial, across, up, tone in zip(ranked[-MOST:], x[-MOST:], y[-MOST:], tones[-MOST:], strict=True):
            (dot,) = axes.plot(across, up, "o", ms=9, color=tone, mec="white", zorder=3)
            hover(dot, f"{variant}: {trial['value']:.3f} with {up} levels, {across} units of z1")
        title = label_of(variant, 28)
        if ranked:
            axes.scatter(x[-1], y[-1], s=230, facecolor="none", edgecolor="black", lw=1.6, zorder=4)
            title = f"{variant}: best {ranked[-1]['value']:.2f}".removeprefix(": ")
        plain(axes, title, f"units of {indexed('z', 1)}", "depth (levels)" if axes in panels[:, 0] else "")
        axes.set_xscale("log")
        axes.set_xlim(min(widths) / 1.3, max(widths) * 1.3)
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticks(ticks, [f"{tick}" for tick in ticks])
        axes.yaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.set_ylim(min(depths) - 0.6, max(depths) + 0.6)
    bar = figure.colorbar(scale, ax=list(panels.flat), extend="min")
    bar.set_label(f"{metric} (nats)", fontsize=9)
    best: dict[str, dict[str, str]] = {}
    for variant in variants:
        complete = [t for t in trials if t.get("variant", "") == variant and t["state"] == "COMPLETE"]
        if complete:
            top = max(complete, key=lambda trial: float(trial["value"]))
            where = {"best": f"{top['value']:.2f}", "depth": str(top["depth"]), "units of z1": str(top["z_dim"])}
            best[variant or "all"] = {"trials": str(len(complete)), **where}
    figure.alt = f"Finished trials by depth and units of z1, coloured by {metric}. {listing(best)}"
    return figure


def history(searches: Mapping[str, Sequence[tuple[int, float]]], metric: str, variants: Mapping[str, str]) -> Drawing:
    """Show the finished trials of each search by number, and the best so far as a line.

    `searches` holds by search its trials' numbers and values, `variants` its variant.
    """
    caption = (
        "A dot is a finished trial, the line the best so far. A line that is still rising at the end says that more"
        " trials may find better settings. Values below the lower quartile may lie under the frame."
    )
    figure = blank(3.4, "How the search went", caption)
    axes: Any = figure.subplots()
    names = list(dict.fromkeys(variants.values()))
    rows = {}
    for name, trials in searches.items():
        numbers, values = [number for number, _ in trials], [value for _, value in trials]
        tone, best = colour(variants[name], names), list(np.maximum.accumulate(values)) if values else []
        axes.plot(numbers, values, "o", ms=4, color=tone, alpha=0.5, rasterized=len(values) > MOST)
        (drawn,) = axes.plot(numbers, best, color=tone, lw=1.5, drawstyle="steps-post")
        if values:
            hover(drawn, f"{name}: best {best[-1]:.3f} after {len(values)} finished trials")
            rows[name] = {"best": f"{best[-1]:.2f}", "first": f"{values[0]:.2f}", "finished trials": str(len(values))}
    every = [value for trials in searches.values() for _, value in trials]
    if every:
        low, high = float(np.quantile(every, 0.25)), max(every)
        axes.set_ylim(low - 0.3 * (high - low) - 1e-3, high + 0.1 * (high - low) + 1e-3)
    plain(axes, "", "trial", f"{metric} (nats)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend(figure, [Line2D([], [], color=colour(name, names), lw=2, label=name) for name in names])
    figure.alt = f"{metric} by trial. {listing(rows)}"
    return figure


def importances(searches: Mapping[str, Mapping[str, float]]) -> Drawing:
    """Show how much of the trials' differences each setting explains, by search."""
    caption = (
        "The share of the differences between finished trials that a setting explains (fANOVA; the shares of a search"
        " sum to 1). With few trials a rough guide."
    )
    count = sum(len(shares) for shares in searches.values())
    figure = blank(0.26 * count + 0.3 * len(searches) + 0.6, "Which settings mattered in the search", caption)
    axes: Any = figure.subplots()
    position, ticks = 0.0, []
    for name, shares in searches.items():
        axes.text(0, position, f"\N{NO-BREAK SPACE}{name}", fontsize=9, va="center", fontweight="bold")
        position -= 0.9
        for path, share in sorted(shares.items(), key=lambda item: -item[1]):
            (bar,) = axes.barh(position, share, height=0.7, color=GREY)
            hover(bar, f"{name}: {path} {share:.0%}")
            ticks.append((position, path))
            position -= 1
        position -= 0.2
    axes.set_yticks([at for at, _ in ticks], [label_of(path, 22) for _, path in ticks], fontsize=9)
    axes.set_xlim(0, 1)
    plain(axes, "", "share explained")
    rows = {name: {path: f"{share:.0%}" for path, share in shares.items()} for name, shares in searches.items()}
    figure.alt = f"Share explained by each setting. {listing(rows)}"
    return figure


Point = tuple[float, float]  # rate, distortion


def rate_distortion(
    trials: Mapping[str, Mapping[str, Sequence[Point]]], finals: Mapping[str, Sequence[Point]]
) -> Drawing:
    """Show trials and final models in the plane of rate and distortion on the validation set, with lines of equal ELBO.

    `trials` holds by variant and state (COMPLETE, PRUNED) a point a trial, `finals` by variant a point a seed; each at
    its best epoch.
    """
    complete = [point for states in trials.values() for point in states.get("COMPLETE", ())]
    pruned = [point for states in trials.values() for point in states.get("PRUNED", ())]
    framed = np.array([*complete, *(point for seeds in finals.values() for point in seeds)] or pruned or [(1.0, 1.0)])
    low, high = framed.min(0), framed.max(0)
    margin = 0.07 * (high - low) + 1e-3 * (1 + np.abs(high))
    low, high = low - margin, high + margin
    hidden = int(sum(np.any((point < low) | (point > high)) for point in np.array(pruned).reshape(-1, 2)))
    caption = (
        "Rate: nats that the latents spend on an image (KL). Distortion: nats by which the image is still unknown once"
        " they are known. ELBO = -(rate + distortion): along a dotted line it is equal, further down and left it is"
        " higher. Everything is measured on the validation set, at the epoch whose weights count."
        f"{f' Trials stopped early that lie outside the frame: {hidden}.' if hidden else ''}"
    )
    figure = blank(4.6, "Rate and distortion of all trials and of the final models", caption)
    axes = figure.subplots()
    rate, distortion = np.meshgrid(np.linspace(low[0], high[0], 50), np.linspace(low[1], high[1], 50))
    lines = axes.contour(rate, distortion, -rate - distortion, 9, colors=GREY, linewidths=0.8, linestyles=":", zorder=1)
    positions = [(min(high[0], -bound - low[1]) - 0.09 * (high[0] - low[0]), bound) for bound in lines.levels]
    shown = [
        (x, -bound - x) for x, bound in positions if low[0] + 0.12 * (high[0] - low[0]) < x and -bound - x < high[1]
    ]
    axes.clabel(lines, fontsize=8, fmt=lambda bound: f"ELBO {bound:g}", manual=shown)
    for variant in dict.fromkeys([*trials, *finals]):
        tone = colour(variant, dict.fromkeys([*trials, *finals]))
        states = trials.get(variant, {})
        for state, style in (("PRUNED", {"marker": "x"}), ("COMPLETE", {"marker": "o", "alpha": 0.6})):
            x, y = np.array(states.get(state, ())).reshape(-1, 2).T
            axes.plot(x, y, ls="", ms=6, color=tone, mew=1.2, zorder=2, rasterized=len(x) > MOST, **style)
        x, y = np.array(finals.get(variant, ())).reshape(-1, 2).T
        for across, up in zip(x, y, strict=True):
            (star,) = axes.plot(across, up, "*", ms=15, color=tone, mec="black", mew=0.9, zorder=3)
            hover(star, f"{variant}, a final model: rate {across:.2f}, distortion {up:.2f}")
    axes.set_xlim(low[0], high[0])
    axes.set_ylim(low[1], high[1])
    plain(axes, "", "rate: KL (nats per example)", "distortion: -log p(x | z) (nats per example)")
    axes.grid(visible=False)
    names = dict.fromkeys([*trials, *finals])
    handles = [Line2D([], [], ls="", marker="s", ms=8, color=colour(name, names), label=name) for name in names]
    handles += [
        Line2D([], [], ls="", marker=marker, color=GREY, mec=edge, ms=size, label=label)
        for marker, edge, size, label in (
            ("o", GREY, 6, "a trial"),
            ("x", GREY, 6, "stopped early"),
            ("*", "black", 13, "a final model"),
        )
    ]
    legend(figure, handles)
    rows = {
        name: {"rate": f"{np.mean([x for x, _ in seeds]):.2f}", "distortion": f"{np.mean([y for _, y in seeds]):.2f}"}
        for name, seeds in finals.items()
        if len(seeds)
    }
    figure.alt = f"Rate and distortion in nats per example; means of the final models: {listing(rows)}"
    return figure
