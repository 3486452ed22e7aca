"""The two figures that a report begins with: of what each variant's bound consists, and how far variants differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.colors import to_rgb
from matplotlib.patches import Patch

from pipeline.figures.style import (
    FIXED,
    GREY,
    PARTS,
    Drawing,
    blank,
    colour,
    hover,
    indexed,
    label_of,
    legend,
    level_colours,
    listing,
    plain,
)
from pipeline.metric import Metric, levels_of

__all__ = ["Pair", "bound_in_parts", "differences"]

Means = Mapping[str, Mapping[str, tuple[float, float]]]  # variant: metric: mean and its standard error
NARROW = 0.085  # of the axis: a part that is narrower has its number under the pointer alone


@dataclass(frozen=True)
class Pair:
    """Two variants, and by how many nats the nll of `lower` is below that of `higher`."""

    lower: str
    higher: str
    mean: float
    half: float | None  # of its interval
    decided: bool
    words: str  # the difference, and how sure it is


def bound_in_parts(results: Means) -> Drawing:
    """Show -ELBO twice for each variant: as distortion and the rates by level, and as nll and gap.

    `results` holds `elbo`, `reconstruction`, `rate/z1`.., `nll` and `gap`. A negative part leads back from where the
    parts before it end; it is hatched.
    """
    caption = (
        "Two bars a variant, on the test images, means over seeds. Above: distortion (what is lost of the image) and"
        " the rates (nats in the latents, by level) add up to -ELBO. Below: nll (the estimate of -log p(x), by which"
        " models are ranked: shorter is better) and the gap (what inference loses) add up to the same."
    )
    signs = {"reconstruction": -1, "rate": 1, "nll": 1, "gap": 1}
    parts_shown = [(Metric.parse(name).term, mean) for row in results.values() for name, (mean, _) in row.items()]
    if any(signs.get(term, 0) * mean < 0 for term, mean in parts_shown):
        caption += " Hatched: a negative part, which leads back to the left."
    figure = blank(0.78 * len(results) + 1.2, "Where the nats of each model go", caption)
    axes: Any = figure.subplots()
    depth = max(1, *(max(levels_of(row, "rate"), default=1) for row in results.values()))
    palette = level_colours(depth)
    rows: dict[str, dict[str, str]] = {}
    longest = max(abs(row["elbo"][0]) for row in results.values()) or 1.0
    for number, (variant, row) in enumerate(results.items()):
        own, total = colour(variant, results), -row["elbo"][0]
        above: list[tuple[str, float, Any]] = [("distortion", -row["reconstruction"][0], PARTS["whole"])]
        above += [(f"rate of z{t}", row[str(Metric("rate", t))][0], palette[t - 1]) for t in levels_of(row, "rate")]
        if not levels_of(row, "rate"):  # of a diffusion
            above.append(("kl of all levels", row["kl"][0], PARTS["marginal_kl"]))
        below = [("nll", row["nll"][0], own), ("gap", row["gap"][0], (*to_rgb(own), 0.35))]
        for at, parts in ((-number + 0.19, above), (-number - 0.19, below)):
            _chain(axes, at, parts, variant, NARROW * longest)
        axes.plot([total, total], [-number - 0.4, -number + 0.4], color="black", lw=1.2, zorder=4)
        axes.annotate(f"-ELBO\n{total:.2f}", (max(total, 0), -number), xytext=(5, 0), textcoords="offset points",
                      fontsize=9, va="center")  # fmt: skip
        rows[variant] = {name: f"{value:.2f}" for name, value, _ in [("-ELBO", total, None), *above, *below]}
    axes.set_yticks([-number for number in range(len(results))], [label_of(name) for name in results], fontsize=10)
    axes.set_ylim(-len(results) + 0.5, 0.5)
    low, high = axes.get_xlim()
    axes.set_xlim(low, high + 0.14 * (high - low))
    axes.axvline(0, color=GREY, lw=0.8)
    plain(axes, "", "nats per example")
    names = [
        ("distortion", PARTS["whole"]),
        *((f"rate of {indexed('z', t)}", tone) for t, tone in enumerate(palette, start=1)),
    ]
    handles = [Patch(color=tone, label=name) for name, tone in names]
    first = colour(next(iter(results)), results)
    handles += [Patch(color=first, label="nll (own colour)"), Patch(color=(*to_rgb(first), 0.35), label="gap")]
    legend(figure, handles)
    figure.alt = f"Stacked bars, nats per example. {listing(rows)}"
    return figure


def _chain(axes: Any, at: float, parts: Sequence[tuple[str, float, Any]], variant: str, narrow: float) -> None:
    """Put parts end to end from 0; each begins where the one before it ends, whatever their signs."""
    end = 0.0
    for name, value, tone in parts:
        style = {"hatch": "////", "fill": False, "edgecolor": tone} if value < 0 else {"color": tone, "ec": "white"}
        bar = axes.barh(at, value, left=end, height=0.32 if value >= 0 else 0.2, lw=0.8, zorder=2, **style)
        hover(bar[0], f"{variant}: {name} {value:.3f} nats")
        if abs(value) >= narrow and value > 0:
            red, green, blue = (1 - a + a * part for part in to_rgb(tone) for a in [tone[3] if len(tone) == 4 else 1])
            ink = "white" if 0.3 * red + 0.59 * green + 0.11 * blue < 0.55 else FIXED["black"]
            axes.text(end + value / 2, at, f"{value:.2f}", ha="center", va="center", fontsize=8.5, color=ink, zorder=5)
        end += value


def differences(pairs: Sequence[Pair], confidence: float) -> Drawing:
    """Show by how much the nll of one variant of each pair is lower than that of the other, with intervals."""
    caption = (
        "A dot is the difference in nll of two variants, paired over the test images; the line is its"
        f" {confidence:.0%} interval. Filled: more than chance, adjusted for the number of pairs. Hollow: not shown,"
        " as where the line crosses 0, or comes so near that among several pairs one may do so by chance."
    )
    figure = blank(0.46 * len(pairs) + 0.75, "How much better, and how sure", caption)
    axes: Any = figure.subplots()
    for number, pair in enumerate(pairs):
        tone = "black" if pair.decided else GREY
        face = tone if pair.decided else "white"
        dot = axes.errorbar(pair.mean, -number, xerr=pair.half, fmt="o", ms=7, color=tone, mfc=face, capsize=4, lw=1.4)
        hover(dot.lines[0], f"{pair.lower} below {pair.higher} by {pair.words}")
        axes.annotate(pair.words, (pair.mean, -number), xytext=(0, 8), textcoords="offset points", fontsize=8.5,
                      ha="center")  # fmt: skip
    labels = [f"{label_of(pair.lower)}\nbelow {label_of(pair.higher)}" for pair in pairs]
    axes.set_yticks([-number for number in range(len(pairs))], labels, fontsize=9)
    axes.set_ylim(-len(pairs) + 0.4, 0.75)
    axes.axvline(0, color=GREY, lw=1)
    axes.margins(x=0.3)
    plain(axes, "", "difference in nll (nats per example); 0: none")
    figure.alt = "Differences in nll. " + listing(
        {f"{pair.lower} below {pair.higher}": {"by": pair.words} for pair in pairs}
    )
    return figure
