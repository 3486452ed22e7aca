"""Figures: the only door to matplotlib.

Each function returns a `matplotlib.figure.Figure` made without pyplot, so that no back end and no global state is
touched; `save` writes it. Images are arrays [.., h, w] in [0, 1]. Bounds and rates are in nats per example. A variant
has one colour in all figures, a level another; both scales can be told apart by colour-blind readers.
"""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullLocator

from pipeline.files import write_bytes

__all__ = [
    "bounds",
    "colour",
    "curves",
    "depth_width_map",
    "levels",
    "png",
    "rates_by_epoch",
    "rates_by_level",
    "reconstructions",
    "samples",
    "save",
]

Array = np.ndarray
Row = Mapping[str, float]
Curves = Mapping[str, Mapping[int, Sequence[Row]]]  # variant: seed: a row an epoch
Interval = tuple[float, float | None]  # mean over seeds and half width; None where there is one seed

# Okabe and Ito, "Color Universal Design" (2008)
NAMED = {"vae": "#0072B2", "hvae": "#E69F00", "mhvae": "#009E73"}
OTHERS = ("#CC79A7", "#D55E00", "#56B4E9", "#000000")
GREY = "#555555"
GAP = (0.85, 0.88, 0.91)  # between images
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DPI = 150


def save(figure: Figure, path: Path) -> None:
    """Write any figure as PNG at once."""
    write_bytes(path, png(figure))


def png(figure: Figure) -> bytes:
    """Return any figure as PNG; equal figures give equal bytes (no date, no version in the file)."""
    content = io.BytesIO()
    style: dict[str, Any] = {"dpi": DPI, "facecolor": "white", "bbox_inches": "tight", "pad_inches": 0.12}
    figure.savefig(content, format="png", metadata={"Software": None}, **style)
    return content.getvalue()


def colour(variant: str, variants: Iterable[str]) -> str:
    """Return the colour of `variant` among `variants`: its own, or the next free one in their order."""
    others = [name for name in variants if name not in NAMED]
    return NAMED.get(variant) or OTHERS[others.index(variant) % len(OTHERS)]


def samples(images: Array, title: str, *, ink: bool = True) -> Figure:
    """Show draws [n, h, w] from the prior on a grid; `ink` shows 1 as black, else 1 is white."""
    side = math.isqrt(max(1, len(images) - 1)) + 1
    columns = min(range(side, 2 * side + 1), key=lambda n: (-len(images) % n, n))
    blank = np.full((-len(images) % columns, *images.shape[1:]), np.nan)
    grid = np.concatenate([images, blank]).reshape(-1, columns, *images.shape[1:])
    caption = "Each image is the mean of p(x | $z_1$), all latent levels drawn from the model's prior: no data goes in."
    figure = _figure(max(5.0, 0.62 * columns), 0.62 * len(grid) + 0.75, title, caption)
    _show(figure.subplots(), _mosaic(grid, _paper(ink)))
    return figure


def reconstructions(x: Array, mean: Array, variant: str, *, ink: bool = True) -> Figure:
    """Show test images x [n, h, w] over the means [n, h, w] of p(x | z_1), z_1 drawn from q(z_1 | x)."""
    caption = "Below each test image: the mean of p(x | $z_1$), with $z_1$ drawn from q($z_1$ | x) for the image above."
    figure = _figure(max(5.0, 0.75 * len(x) + 1), 2.25, f"{variant}: test images and their reconstructions", caption)
    axes = figure.subplots()
    _show(axes, _mosaic(np.stack([x, mean]), _paper(ink)))
    height = x.shape[1] + _gap(x)
    axes.set_yticks([height / 2, height * 1.5], ["test image", "reconstruction"], fontsize=9)
    return figure


def levels(base: Array, redrawn: Array, variant: str, *, ink: bool = True) -> Figure:
    """Show what each level decides: its noise alone is drawn again, that of every other level is held.

    Args:
        base: [rows, h, w], means of p(x | z_1) of some draws from the prior.
        redrawn: [T, rows, columns, h, w]; at [t - 1, i, j] the j-th image after the noise of z_t in draw i is replaced.
        variant: whose images these are.
        ink: show 1 as black.
    """
    depth, rows, columns, _, width = redrawn.shape
    caption = (
        "From the top level down to $z_1$, each $z_t$ is a mean plus a standard deviation (sd) times noise. Along a row"
        " only the noise of the named level is drawn again: levels above keep their values, levels below their noise."
        " Where images hardly change, the level decides little."
    )
    size = (0.62 * (columns + 2) + 2.8, depth * (0.62 * rows + 0.3) + 0.9)
    figure = _figure(*size, f"{variant}: what each level decides", caption)
    deviation = redrawn.std(axis=2)  # [T, rows, h, w]
    spread = ScalarMappable(Normalize(0, max(float(deviation.max()), 1e-6)), "magma")
    all_axes = figure.subplots(depth, 1, squeeze=False)[:, 0]
    for level, axes in enumerate(all_axes, start=1):
        parts = [
            _mosaic(base[:, None], _paper(ink)),
            _mosaic(redrawn[level - 1], _paper(ink)),
            _mosaic(deviation[level - 1][:, None], spread.to_rgba),
        ]
        space = np.ones((len(parts[0]), max(2, width // 3), 3))
        _show(axes, np.concatenate([parts[0], space, parts[1], space, parts[2]], axis=1))
        ends = np.cumsum([part.shape[1] for part in parts]) + space.shape[1] * np.arange(3)
        names = [
            "a draw",
            f"only the noise of $z_{{{level}}}$ drawn again",
            f"sd, mean {deviation[level - 1].mean():.3f}",
        ]
        for end, part, name in zip(ends, parts, names, strict=True):
            axes.text(end - part.shape[1] / 2, -1 - 0.03 * len(part), name, ha="center", va="bottom", fontsize=9)
        where = {1: "next to x", depth: "top"}.get(level, "") if depth > 1 else "the only level"
        axes.set_ylabel(f"$z_{{{level}}}$\n{where}", fontsize=11, rotation=0, ha="right", va="center")
    bar = figure.colorbar(spread, ax=list(all_axes), fraction=0.03)
    bar.set_label("sd of a pixel over the redraws", fontsize=8)
    bar.ax.tick_params(labelsize=8)
    return figure


def curves(runs: Curves) -> Figure:
    """Show the bound by epoch, training left and validation right; a line is a seed."""
    caption = "Higher is better; a line is a seed. The first tenth of the epochs may lie below the frame."
    figure = _figure(9, 4.2, "Evidence lower bound (ELBO) while training", caption)
    panels = figure.subplots(1, 2, sharey=True)
    low, high = np.inf, -np.inf
    for axes, split, name in zip(panels, ("train", "valid"), ("training images", "validation images"), strict=True):
        for variant, seeds in runs.items():
            for rows in seeds.values():
                bound = [row[f"{split}/elbo"] for row in rows]
                axes.plot(_epochs(rows), bound, color=colour(variant, runs), lw=1.2, alpha=0.8)
                settled = bound[len(bound) // 10 :]
                low, high = min(low, *settled, bound[-1]), max(high, *bound, bound[-1])
        _plain(axes, name, "epoch", "ELBO (nats per example)" if split == "train" else "")
    margin = 0.04 * (high - low) or 1.0
    panels[0].set_ylim(low - margin, high + margin)
    handles = [_line(variant, colour(variant, runs)) for variant in runs]
    panels[1].legend(handles=handles, fontsize=10, loc="lower right")
    return figure


def rates_by_epoch(runs: Curves) -> Figure:
    """Show the validation rate of each level, and their sum, by epoch; a panel is a variant, a line a seed."""
    caption = (
        "The rates of all levels sum to the KL of posterior to prior. Only that sum is a divergence: a rate below the"
        " top level may be negative. A top rate near 0 means that the level is not used. A line is a seed."
    )
    figure, panels = _panels(len(runs), "What each level costs while training", caption)
    palette = _level_colours(max(_depth(rows[0]) for seeds in runs.values() for rows in seeds.values()))
    for axes, (variant, seeds) in zip(panels.flat, runs.items(), strict=False):
        for rows in seeds.values():
            depth = _depth(rows[0])
            if depth > 1:
                axes.plot(_epochs(rows), [row["valid/kl"] for row in rows], color="black", lw=1.2, ls="--")
            for level in range(depth):
                rate = [row[f"valid/rate/z{level + 1}"] for row in rows]
                axes.plot(_epochs(rows), rate, color=palette[level], lw=1.4)
        axes.axhline(0, color=GREY, lw=0.6)
        _plain(axes, variant, "epoch", "validation rate (nats per example)" if axes in panels[:, 0] else "")
    handles = [_line(f"rate of $z_{{{level}}}$", tone) for level, tone in enumerate(palette, start=1)]
    handles += [_line("KL (sum)", "black", ls="--")] if len(palette) > 1 else []
    figure.legend(handles=handles, loc="outside right center", fontsize=9, frameon=False)
    return figure


def rates_by_level(results: Mapping[str, Mapping[int, Row]]) -> Figure:
    """Show the test bound taken apart: rates stacked by level (means over seeds), distortion, and -log p(x).

    `results` holds by variant and seed the values of `test/rate/z1`.., `test/reconstruction` and `test/nll`.
    """
    caption = (
        "Bars: means over seeds; dots: seeds. Distortion + KL = -ELBO, which lies above the NLL by the bound's gap."
        " Negative rates are stacked to the left of 0; the diamond marks the sum, the KL."
    )
    title = "Where the nats go: rate by level, distortion, and negative log-likelihood on the test set"
    figure = _figure(9.6, 0.62 * len(results) + 2.4, title, caption)
    bars, distortion, nll = figure.subplots(1, 3, sharey=True, width_ratios=[2.2, 1, 1])
    palette = _level_colours(max(_depth(row, "test") for seeds in results.values() for row in seeds.values()))
    places = np.arange(len(results))[::-1]
    for place, (variant, seeds) in zip(places, results.items(), strict=True):
        ends = {True: 0.0, False: 0.0}
        means = [
            float(np.mean([row[f"test/rate/z{level}"] for row in seeds.values()]))
            for level in range(1, _depth(next(iter(seeds.values())), "test") + 1)
        ]
        for rate, tone in zip(means, palette, strict=False):
            bars.barh(place, rate, left=ends[rate >= 0], height=0.62, color=tone, edgecolor="white", lw=0.8)
            ends[rate >= 0] += rate
        bars.plot(sum(means), place, "D", ms=7, color="white", mec="black", zorder=3)
        for axes, key, sign in ((distortion, "test/reconstruction", -1), (nll, "test/nll", 1)):
            values = [sign * row[key] for row in seeds.values()]
            axes.plot(values, [place] * len(values), "o", ms=5, alpha=0.7, color=colour(variant, results))
            axes.plot(np.mean(values), place, "|", ms=18, mew=2, color="black")
    bars.axvline(0, color=GREY, lw=0.8)
    _plain(bars, "rate by level", "nats per example")
    _plain(distortion, "distortion", "-log p(x | z$_1$) (nats)")
    _plain(nll, "NLL", "-log p(x) (nats)")
    bars.set_yticks(places, list(results), fontsize=11)
    for axes in (distortion, nll):
        axes.xaxis.set_major_locator(MaxNLocator(4))
    handles = [_line(f"$z_{{{level}}}$", tone, lw=7) for level, tone in enumerate(palette, start=1)]
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
    names = ["elbo", *sorted({key for row in results.values() for key in row if key.startswith("iwae/")}, key=_k)]
    names = [name for name in names if name != "iwae/1"]  # the same quantity as elbo
    single = all(half is None for row in results.values() for _, half in row.values())
    bars = "One seed: no interval." if single else f"Bars: {confidence:.0%} intervals over seeds (Student t)."
    caption = (
        f"{bars} $L_k$ averages k draws inside the logarithm: it rises with k towards log\N{NO-BREAK SPACE}p(x)."
        " From the ELBO to the largest k is the gap, what the approximate posterior loses."
    )
    figure = _figure(8.5, 0.75 * len(results) + 1.9, "How tight the bound is on the test set", caption)
    axes = figure.subplots()
    places = np.arange(len(results))[::-1]
    for place, (variant, row) in zip(places, results.items(), strict=True):
        shown = [name for name in names if name in row]
        means = [row[name][0] for name in shown]
        axes.plot([min(means), max(means)], [place, place], color=colour(variant, results), lw=6, alpha=0.25)
        for name, mean in zip(shown, means, strict=True):
            # An interval as wide as the gap would hide another that shares its line.
            at = place + 0.32 * (names.index(name) / max(1, len(names) - 1) - 0.5)
            tone, marker = colour(variant, results), MARKERS[names.index(name) % len(MARKERS)]
            axes.errorbar(mean, at, xerr=row[name][1], fmt=marker, color=tone, ms=7, capsize=3, lw=1.2, mec="white")
    axes.set_yticks(places, list(results), fontsize=11)
    axes.set_ylim(-0.5, len(results) - 0.5)
    _plain(axes, "", "bound on log p(x) (nats per example); higher is better")
    labels = {name: "ELBO" if name == "elbo" else f"$L_{{{_k(name)}}}$" for name in names}
    handles = [
        Line2D([], [], ls="", marker=MARKERS[i % len(MARKERS)], color=GREY, ms=7, label=labels[name])
        for i, name in enumerate(names)
    ]
    figure.legend(handles=handles, loc="outside right center", fontsize=10, frameon=False)
    return figure


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
    figure, panels = _panels(len(variants), "What the sweep found", caption, sharex=True)
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
        _plain(axes, title, "units of $z_1$", "depth (levels)" if axes in panels[:, 0] else "")
        axes.set_xscale("log")
        axes.set_xlim(min(widths) / 1.3, max(widths) * 1.3)
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticks(ticks, [f"{tick}" for tick in ticks])
        axes.yaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.set_ylim(min(depths) - 0.6, max(depths) + 0.6)
    bar = figure.colorbar(scale, ax=list(panels.flat), extend="min")
    bar.set_label("validation ELBO\n(nats per example)", fontsize=9)
    return figure


def _figure(width: float, height: float, title: str, caption: str) -> Figure:
    """Return an empty figure (inches) with a title above and a caption below, wrapped to its width."""
    text = textwrap.fill(caption, int(width * 13.5))
    figure = Figure(figsize=(width, height + 0.17 * text.count("\n")), layout="constrained")
    figure.suptitle(textwrap.fill(title, int(width * 9.5)), fontsize=12.5, fontweight="bold")
    figure.supxlabel(text, fontsize=9, color=GREY)
    return figure


def _panels(count: int, title: str, caption: str, *, sharex: bool = False) -> tuple[Figure, Any]:
    """Return a figure with `count` panels [down, across], three in a row at most."""
    across = min(3, count)
    down = -(-count // across)
    figure = _figure(max(5.5, 3.1 * across), 3.0 * down + 1.2, title, caption)
    panels = figure.subplots(down, across, sharey=True, squeeze=False, sharex=sharex)
    for axes in panels.flat[count:]:
        axes.set_visible(False)
    return figure, panels


def _plain(axes: Any, title: str, x: str, y: str = "") -> None:
    axes.set_title(title, fontsize=11)
    axes.set_xlabel(x, fontsize=10)
    axes.set_ylabel(y, fontsize=10)
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if x == "epoch":
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))


def _line(label: str, tone: Any, **style: Any) -> Line2D:
    return Line2D([], [], color=tone, label=label, **({"lw": 2} | style))


def _gap(images: Array) -> int:
    """Return the pixels between two images."""
    return max(1, int(images.shape[-1]) // 12)


def _paper(ink: bool) -> Callable[[Array], Array]:
    return ScalarMappable(Normalize(0, 1), "gray_r" if ink else "gray").to_rgba


def _mosaic(grid: Array, tint: Callable[[Array], Array]) -> Array:
    """Put images [rows, columns, h, w] side by side and return [height, width, rgb]; gaps and NaN are bluish grey."""
    rows, columns, height, width = grid.shape
    gap = _gap(grid)
    canvas = np.full((rows, height + gap, columns, width + gap), np.nan)
    canvas[:, :height, :, :width] = grid.transpose(0, 2, 1, 3)
    canvas = canvas.reshape(rows * (height + gap), columns * (width + gap))[:-gap, :-gap]
    return np.where(np.isnan(canvas)[..., None], GAP, tint(np.nan_to_num(canvas))[..., :3])


def _show(axes: Any, picture: Array) -> None:
    axes.imshow(picture, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)


def _epochs(rows: Sequence[Row]) -> list[float]:
    return [row["epoch"] for row in rows]


def _depth(row: Row, split: str = "valid") -> int:
    return sum(key.startswith(f"{split}/rate/z") for key in row)


def _k(name: str) -> int:
    return int(name.rpartition("/")[2]) if "/" in name else 0


def _level_colours(depth: int) -> list[Any]:
    """Return a colour a level; dark below, light at the top."""
    return [colormaps["viridis"](0.15 + 0.7 * level / max(1, depth - 1)) for level in range(depth)]
