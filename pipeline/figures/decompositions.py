"""Stacked charts of what the bound is made of, in nats per example: a row is a variant, a part a level or a term.

All take the results of a variant by metric, the mean over seeds and its standard error, and `error`, which says what
that standard error is. Where nothing was measured the row says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from matplotlib.lines import Line2D

from pipeline.figures.style import (
    GREY,
    PARTS,
    Drawing,
    blank,
    hover,
    indexed,
    label_of,
    legend,
    level_colours,
    line,
    listing,
    plain,
)
from pipeline.metric import Metric, levels_of

__all__ = ["gaps_by_level", "inference_gaps", "surgery"]

Means = Mapping[str, Mapping[str, tuple[float, float]]]  # variant: metric: mean and its standard error
Part = tuple[str, float, float, Any]  # name, mean, standard error, colour
THICK = 0.6  # of a bar, in rows


def gaps_by_level(results: Means, error: str) -> Drawing:
    """Show what each level adds to the divergence from the model's own marginals, and what it loses of log p(x).

    `results` holds `chain_kl/z1`.. and `gap/z1`..
    """
    caption = (
        "On the first test images. Above: every part is a true divergence, their sum (diamond) the KL. Below: the parts"
        " sum to log p(x) - ELBO; in a Markov chain those of $z_2$ and above are the same as above. Small"
        f" negative parts are Monte Carlo error or the bias of an inner bound. Whiskers: one {error}."
    )
    title = "What each level costs: divergence from the model's own marginals, and loss of log p(x)"
    figure, panels, positions = _rows(results, title, caption)
    palette = level_colours(max(1, *(_highest(row, key) for row in results.values() for key in ("chain_kl", "gap"))))
    for axes, key, name in zip(panels, ("chain_kl", "gap"), ("divergence by level", "gap by level"), strict=True):
        for position, row in zip(positions, results.values(), strict=True):
            parts = _by_level(row, key, palette)
            _stack(axes, position, parts)
            if len(parts) > 1:
                _sum(axes, position, sum(mean for _, mean, *_ in parts))
        _finish(axes, name)
    _legend(figure, palette, "sum" if len(palette) > 1 else "")
    figure.alt = _alt("Nats per example by level.", results, ("chain_kl", "gap"))
    return figure


def inference_gaps(results: Means, error: str) -> Drawing:
    """Show what the family of posteriors loses of log p(x), and what one network for all images loses beyond it.

    `results` holds `approximation_gap` and `amortization_gap`, and with `/z1`.. their parts by level.
    """
    caption = (
        "On the first test images. Above: what the best posterior of the same family, found for each image by itself,"
        " still loses of log p(x). Below: what is lost beyond that because one network serves all images. Both together"
        f" are log p(x) - ELBO. Grey: not split by level. Whiskers: one {error}."
    )
    title = "What inference loses: to the family of posteriors, and to one network for all images"
    figure, panels, positions = _rows(results, title, caption, sharex=True)
    keys = ("approximation_gap", "amortization_gap")
    depth = max(_highest(row, key) for row in results.values() for key in keys)
    palette = level_colours(max(1, depth))
    for axes, key, name in zip(panels, keys, ("approximation gap", "amortization gap"), strict=True):
        for position, row in zip(positions, results.values(), strict=True):
            parts = _by_level(row, key, palette)
            _stack(axes, position, parts or ([(name, *row[key], PARTS["whole"])] if key in row else []))
            if len(parts) > 1 and key in row:
                _sum(axes, position, *row[key])
        _finish(axes, name)
    _legend(figure, palette if depth else [], "sum" if depth > 1 else "")
    figure.alt = _alt("Nats per example.", results, keys)
    return figure


def surgery(results: Means, error: str) -> Drawing:
    """Show the mean KL split over the data set, and how much each level knows of which image it came from.

    `results` holds `mutual_information`, `marginal_kl`, `total_correlation`, `dimension_kl`, `mutual_information/z1`,
    and `/lower` and `/upper` of that of the levels above.
    """
    caption = (
        "Above: KL = how much the latents reveal of which test image they belong to (mutual information) + how far"
        " those of all test images together are from the prior (marginal KL). The thin bar, at one level: marginal KL ="
        " dependence between units (total correlation) + each unit by itself. Below: the information in each level:"
        f" exact for the level drawn first, else between two estimates. Whiskers: one {error}."
    )
    title = "The mean KL over the data set: information about the image, and mismatch with the prior"
    figure, (kl_panel, level_panel), positions = _rows(results, title, caption, height=0.85)
    information = "mutual_information"
    depth = max(1, *(_highest(row, information) for row in results.values()))
    palette = level_colours(depth)
    shown: dict[str, str] = {}
    for position, row in zip(positions, results.values(), strict=True):
        terms = [name for name in (information, "marginal_kl") if name in row]
        split = [name for name in ("total_correlation", "dimension_kl") if len(terms) == 2 and name in row]
        _stack(kl_panel, position, [(_words(name), *row[name], PARTS[name]) for name in terms])
        if len(split) == 2:
            _stack(
                kl_panel,
                position - 0.41,
                [(_words(name), *row[name], PARTS[name]) for name in split],
                0.18,
                start=row[information][0],
            )
        shown |= {name: PARTS[name] for name in (*terms, *(split if len(split) == 2 else []))}
        levels = _highest(row, information)
        for level, tone in enumerate(palette[:levels], start=1):
            _span(
                level_panel,
                position + THICK * ((levels - level + 0.5) / levels - 0.5),
                row,
                Metric(information, level),
                tone,
            )
    _finish(kl_panel, "the KL split over the data set")
    _finish(level_panel, "mutual information by level")
    kl_panel.set_ylim(-0.6, len(results) - 0.5)
    for border in positions[:-1] - 0.56:
        level_panel.axhline(border, color=GREY, lw=0.5, alpha=0.5)
    handles = [line(_words(name), tone, lw=7) for name, tone in shown.items()]
    handles += [line(indexed("z", level), tone, lw=3, marker="o") for level, tone in enumerate(palette, start=1)]
    legend(figure, handles)
    figure.alt = _alt("Nats per example.", results, (information, "marginal_kl"))
    return figure


def _alt(first: str, results: Means, terms: Sequence[str]) -> str:
    """Return the alternative text of a figure: all numbers of some terms."""
    rows = {
        variant: {
            name.replace("_", " "): f"{mean:.2f}" for name, (mean, _) in row.items() if Metric.parse(name).term in terms
        }
        for variant, row in results.items()
    }
    return f"{first} {listing(rows)}"


def _rows(
    results: Means, title: str, caption: str, *, height: float = 0.62, sharex: bool = False
) -> tuple[Drawing, Any, Any]:
    """Return a figure with two panels that have a row for each variant, and where the rows lie."""
    figure = blank(2 * (0.75 * height * len(results) + 0.75) + 0.3, title, caption)
    panels = figure.subplots(2, 1, sharex=sharex)
    positions = np.arange(len(results))[::-1]
    for axes in panels:
        axes.set_yticks(positions, [label_of(name) for name in results], fontsize=10)
        axes.set_ylim(-0.5, len(results) - 0.5)
    return figure, panels, positions


def _highest(row: Mapping[str, Any], term: str) -> int:
    """Return the highest level that a term was measured at, or 0."""
    return max(levels_of(row, term), default=0)


def _by_level(row: Mapping[str, tuple[float, float]], key: str, palette: Sequence[Any]) -> list[Part]:
    names = [(str(Metric(key, level)), tone) for level, tone in enumerate(palette, start=1)]
    return [(name, *row[name], tone) for name, tone in names if name in row]


def _stack(axes: Any, position: float, parts: Sequence[Part], thick: float = THICK, start: float = 0.0) -> None:
    """Put parts end to end from `start`, negative ones to the left, a whisker of one standard error at each end."""
    ends = {True: start, False: start}
    for step, (name, mean, error, tone) in enumerate(parts):
        base = ends[mean >= 0]
        (bar,) = axes.barh(position, mean, left=base, height=thick, color=tone, edgecolor="white", lw=0.8, zorder=2)
        hover(bar, f"{name} {mean:.3f} ± {error:.3f} nats")
        ends[mean >= 0] = end = base + mean
        # One below the other, so that none hides the next.
        at = position + (thick * (0.38 - 0.55 * step / len(parts)) if len(parts) > 1 else 0)
        axes.errorbar(end, at, xerr=error, color="black", lw=1, capsize=8 * thick / (1 + len(parts)), zorder=3)
    if not parts:
        axes.text(0, position, "\N{NO-BREAK SPACE}not measured", color=GREY, fontsize=9, va="center", style="italic")


def _sum(axes: Any, position: float, mean: float, error: float | None = None) -> None:
    axes.errorbar(
        mean, position - 0.2, xerr=error, fmt="D", ms=6, color="black", mfc="white", lw=1, capsize=3, zorder=4
    )


def _span(axes: Any, position: float, row: Mapping[str, tuple[float, float]], metric: Metric, tone: Any) -> None:
    """Show an exact value as a dot with its standard error, or two estimates as the span between them."""
    lower, upper = (str(replace(metric, side=side)) for side in ("lower", "upper"))
    if str(metric) in row:
        mean, se = row[str(metric)]
        axes.errorbar(mean, position, xerr=se, fmt="o", ms=6, color=tone, capsize=3, zorder=3)
    elif lower in row:
        (low, low_error), (high, high_error) = row[lower], row[upper]
        axes.plot([low, high], [position, position], "-", color=tone, lw=5, alpha=0.45, solid_capstyle="butt", zorder=2)
        for value, error, marker in ((low, low_error, 5), (high, high_error, 4)):  # carets that point inwards
            axes.errorbar(value, position, xerr=error, fmt="", marker=marker, ms=6, color=tone, lw=1, zorder=3)
    else:
        axes.text(0, position, "\N{NO-BREAK SPACE}not measurable", color=GREY, fontsize=8, va="center", style="italic")


def _finish(axes: Any, name: str) -> None:
    axes.axvline(0, color=GREY, lw=0.8)
    plain(axes, name, "nats per example")


def _legend(figure: Drawing, palette: Sequence[Any], total: str) -> None:
    handles = [line(indexed("z", level), tone, lw=7) for level, tone in enumerate(palette, start=1)]
    handles += [Line2D([], [], ls="", marker="D", color="white", mec="black", label=total)] if total else []
    legend(figure, handles)


def _words(name: str) -> str:
    return {"dimension_kl": "KL unit by unit", "marginal_kl": "marginal KL"}.get(name, name.replace("_", " "))
