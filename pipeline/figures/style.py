"""What all figures share: colours, an empty figure with its words, plain axes, and the file.

A variant has one colour in all figures, a level another; both scales can be distinguished by colour-blind readers.
A figure is as wide as a column of text, so that its letters can be read on a telephone and on paper.
"""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Iterable, Iterator, Mapping
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
    "FIXED",
    "GREY",
    "HOVER",
    "PARTS",
    "Drawing",
    "blank",
    "colour",
    "coloured",
    "facets",
    "freeze",
    "hover",
    "indexed",
    "label_of",
    "legend",
    "level_colours",
    "line",
    "listing",
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
WIDTH = 5.4  # inches
FIXED = {"black": "#000001", "white": "#fffffe"}  # on a dark page too, for letters on what keeps its colour there
HOVER = "hover:"  # the id of an artist that shows a text under the pointer begins with it
LOW = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")
LISTED = 12  # rows that an alternative text names
_all_variants: ContextVar[tuple[str, ...]] = ContextVar("all_variants", default=())


class Drawing(Figure):
    """A figure, and in words what it shows: they stand beside it, where its reader can enlarge and copy them."""

    title: str
    caption: str
    alt: str  # its main numbers in words, for those who cannot see it


def save(figure: Figure, path: Path) -> None:
    """Write any figure as PNG at once."""
    write_bytes(path, png(figure))


def png(figure: Figure) -> bytes:
    """Return any figure as PNG with its title and caption in it; equal figures give equal bytes (no date in the file).

    These files stand alone, in MLflow and `dvc plots`.
    """
    content = io.BytesIO()
    style: dict[str, Any] = {"dpi": DPI, "facecolor": "white", "bbox_inches": "tight", "pad_inches": 0.12}
    with _words(figure):
        figure.savefig(content, format="png", metadata={"Software": None}, **style)
    return content.getvalue()


@contextmanager
def _words(figure: Figure) -> Iterator[None]:
    """Within this, a drawing has its title above it and its caption below it."""
    if not isinstance(figure, Drawing):
        yield
        return
    freeze(figure)
    width, height = figure.get_size_inches()
    title, caption = (textwrap.fill(text, int(width * n)) for text, n in ((figure.title, 9.5), (figure.caption, 13.5)))
    texts = [
        figure.text(0.5, 1 + 0.1 / height, title, ha="center", va="bottom", fontsize=12.5, fontweight="bold"),
        figure.text(0.5, -0.1 / height, caption, ha="center", va="top", fontsize=9, color=GREY),
    ]
    yield
    for text in texts:
        text.remove()


def freeze(figure: Figure) -> None:
    """Lay a figure out once, so that all of its files have one layout."""
    if figure.get_layout_engine() is not None:
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
        for legend in figure.legends:  # else in the figure's box, which grows with the title of a PNG
            legend.set_bbox_to_anchor((0, 0, 1, 1), figure.transFigure)


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


def blank(height: float, title: str, caption: str, width: float = WIDTH) -> Drawing:
    """Return an empty figure (inches) with its title and caption."""
    figure = Drawing(figsize=(width, height), layout="constrained")
    figure.title, figure.caption, figure.alt = title, caption, title
    return figure


def facets(count: int, title: str, caption: str, *, sharex: bool = False) -> tuple[Drawing, Any]:
    """Return a figure with `count` panels [down, across], two in a row at most."""
    across = min(2, count)
    down = -(-count // across)
    figure = blank(2.5 * down + 0.6, title, caption)
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


def legend(figure: Figure, handles: list[Any]) -> None:
    """Put a legend above all panels."""
    if handles:
        longest = max(len(handle.get_label()) for handle in handles)
        columns = max(1, min(len(handles), math.floor(60 / (longest + 5))))
        style: dict[str, Any] = {"fontsize": 9, "frameon": False, "handlelength": 1.4, "columnspacing": 1.4}
        figure.legend(handles=handles, loc="outside upper center", ncols=columns, **style)


def hover(artist: Any, text: str) -> None:
    """Let a part of a figure show a text under the pointer, in the SVG."""
    artist.set_gid(HOVER + text)


def indexed(letter: str, index: int) -> str:
    """Return a letter with its index set low, as letters that any font has.

    >>> indexed("z", 12)
    'z₁₂'
    """
    return letter + str(index).translate(LOW)


def label_of(name: str, width: int = 16) -> str:
    """Return a variant's name on lines that fit beside the axes."""
    return textwrap.fill(name, width, break_long_words=True)


def listing(rows: Mapping[str, Mapping[str, str]]) -> str:
    """Return names and their values as a sentence; of many rows the first.

    >>> listing({"vae": {"nll": "23.1", "gap": "0.3"}, "hvae": {"nll": "22.9"}})
    'vae: nll 23.1, gap 0.3; hvae: nll 22.9.'
    """
    parts = [
        f"{name}: {', '.join(f'{key} {value}' for key, value in row.items())}" for name, row in rows.items() if row
    ]
    more = f"; and {len(parts) - LISTED} more" if len(parts) > LISTED else ""
    return "; ".join(parts[:LISTED]) + f"{more}." if parts else ""
