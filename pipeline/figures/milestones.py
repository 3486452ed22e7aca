"""How the test bound falls with training, beside published numbers."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter, NullLocator

from pipeline.figures.style import GREY, Drawing, blank, colour, hover, indexed, legend, line, listing, plain

__all__ = ["milestones"]

STYLES = ("-", "--", ":")
MARKERS = ("D", "s", "^", "v")


def milestones(
    nll: Mapping[str, Mapping[int, tuple[float, float | None]]], published: Mapping[str, Mapping[str, float]], k: int
) -> Drawing:
    """Show minus the test bound L_k by epoch, in nats; `nll` holds by variant and epoch its mean and half interval.

    Published numbers, by variant and source, stand on the right, in the colour of their variant.
    """
    sources = list(dict.fromkeys(source for variant in nll for source in published.get(variant, {})))
    caption = f"Minus the bound $L_{{{k}}}$ of the test set (lower is better) at the weights of some epochs of one"
    caption += " training, means over seeds with their intervals."
    if sources:
        caption += " On the right: published numbers of the same model and objective, after their whole schedule and by"
        caption += f" as many draws as their names say: more draws than {k} give a lower number for the same model."
    figure = blank(4.0, "How far training has come", caption)
    axes = figure.subplots()
    epochs = sorted({epoch for variant in nll.values() for epoch in variant})
    styles = {variant: STYLES[index // 7 % len(STYLES)] for index, variant in enumerate(nll)}
    for variant, at in nll.items():
        means, halves = [value for value, _ in at.values()], [half or 0.0 for _, half in at.values()]
        tone = colour(variant, nll)
        drawn = axes.errorbar(
            list(at), means, yerr=halves, color=tone, ls=styles[variant], marker="o", ms=4, capsize=2, lw=1.4
        )
        hover(drawn.lines[0], f"{variant}: {means[-1]:.2f} nats at epoch {epochs[-1]}")
        for index, source in enumerate(sources):
            if source in published.get(variant, {}):
                x = epochs[-1] * 1.5 * 1.25**index
                axes.plot(x, published[variant][source], MARKERS[index % len(MARKERS)], color=tone, mfc="white", ms=7)
    plain(axes, "", "epochs (log scale)", f"-{indexed('L', k)} (nats per example)")
    axes.set_xscale("log")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xticks(epochs, [str(epoch) for epoch in epochs])
    handles = [line(variant, colour(variant, nll), ls=styles[variant]) for variant in nll]
    handles += [
        Line2D(
            [],
            [],
            ls="",
            marker=MARKERS[index % len(MARKERS)],
            color=GREY,
            mfc="white",
            ms=7,
            label=f"published: {source}",
        )
        for index, source in enumerate(sources)
    ]
    legend(figure, handles)
    rows = {variant: {f"epoch {n}": f"{value:.2f}" for n, (value, _) in at.items()} for variant, at in nll.items()}
    figure.alt = f"Minus the test bound by epoch, in nats. {listing(rows)}"
    return figure
