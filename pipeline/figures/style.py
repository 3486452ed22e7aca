"""What all figures share: colours, an empty figure with its title and caption, plain axes, and the file.

A variant has one colour in all figures, a level another; both scales can be distinguished by colour-blind readers.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from pipeline.colours import variant_colour
from pipeline.files import write_bytes

__all__ = [
    "GREY",
    "PARTS",
    "blank",
    "colour",
    "coloured",
    "facets",
    "level_colours",
    "line",
    "plain",
    "png",
    "save",
]

GREY = "#555555"
# of the KL's terms, apart from the colours of variants and levels
PARTS = {
    "mutual_information": "#4A4A4A",
    "marginal_kl": "#BDBDBD",
    "total_correlation": "#A6611A",
    "dimension_kl": "#DFC27D",
    "whole": "#9A9A9A",
}
DPI = 150
_all_variants: ContextVar[tuple[str, ...]] = ContextVar("all_variants", default=())


def save(figure: Figure, path: Path) -> None:
    """Write any figure as PNG at once."""
    write_bytes(path, png(figure))


def png(figure: Figure) -> bytes:
    """Return any figure as PNG; equal figures give equal bytes (no date, no version in the file)."""
    content = io.BytesIO()
    style: dict[str, Any] = {"dpi": DPI, "facecolor": "white", "bbox_inches": "tight", "pad_inches": 0.12}
    figure.savefig(content, format="png", metadata={"Software": None}, **style)
    return content.getvalue()


@contextmanager
def coloured(variants: Iterable[str]) -> Iterator[None]:
    """Within this, a variant has the colour that it has among all of these, also where a figure shows some of them."""
    token = _all_variants.set(tuple(variants))
    try:
        yield
    finally:
        _all_variants.reset(token)


def colour(variant: str, variants: Iterable[str]) -> str:
    """Return the colour of `variant` among `variants`, or all of `coloured`: its own, or the next free one in order."""
    return variant_colour(variant, _all_variants.get() or variants)


def level_colours(depth: int) -> list[Any]:
    """Return a colour a level; dark below, light at the top."""
    return [colormaps["viridis"](0.15 + 0.7 * level / max(1, depth - 1)) for level in range(depth)]


def blank(width: float, height: float, title: str, caption: str) -> Figure:
    """Return an empty figure (inches) with a title above and a caption below, wrapped to its width."""
    text = textwrap.fill(caption, int(width * 13.5))
    figure = Figure(figsize=(width, height + 0.17 * text.count("\n")), layout="constrained")
    figure.suptitle(textwrap.fill(title, int(width * 9.5)), fontsize=12.5, fontweight="bold")
    figure.supxlabel(text, fontsize=9, color=GREY)
    return figure


def facets(count: int, title: str, caption: str, *, sharex: bool = False) -> tuple[Figure, Any]:
    """Return a figure with `count` panels [down, across], three in a row at most."""
    across = min(3, count)
    down = -(-count // across)
    figure = blank(max(5.5, 3.1 * across), 3.0 * down + 1.2, title, caption)
    panels = figure.subplots(down, across, sharey=True, squeeze=False, sharex=sharex)
    for axes in panels.flat[count:]:
        axes.set_visible(False)
    return figure, panels


def plain(axes: Any, title: str, x: str, y: str = "") -> None:
    """Give axes their title and labels, a faint grid and no frame; epochs are whole numbers."""
    axes.set_title(title, fontsize=11)
    axes.set_xlabel(x, fontsize=10)
    axes.set_ylabel(y, fontsize=10)
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if x == "epoch":
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))


def line(label: str, tone: Any, **style: Any) -> Line2D:
    """Return a line for a legend."""
    return Line2D([], [], color=tone, label=label, **({"lw": 2} | style))
