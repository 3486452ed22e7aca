"""Figures as vectors: SVG for a page, in the colours of the reader's scheme, and PDF for a paper.

In the SVG every colour is a variable of the page, `--c-0072b2`, so that one drawing serves a light and a dark page:
`palette` writes the values of both. On a dark page, greys change places (black with white) and other colours get
lighter until they stand out from it. Letters stay letters. What `style.hover` has labelled has a `<title>`.
"""

from __future__ import annotations

import colorsys
import io
import re
from collections.abc import Iterable

import matplotlib as mpl
from matplotlib.figure import Figure

from pipeline.figures.style import FIXED, HOVER, freeze

__all__ = ["palette", "pdf", "svg"]

PAPER, INK = "#14181c", "#e4e8ec"  # of a dark page
CONTRAST = 4.0  # the least, of a line or a bar with a dark page
COLOUR = re.compile(r"(fill|stroke|stop-color): ?#([0-9a-f]{6})")
VARIABLE = re.compile(r"--c-([0-9a-f]{6})")


def svg(figure: Figure) -> str:
    """Return a figure as an `<svg>` element for a page that has the variables of `palette`."""
    freeze(figure)
    content = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "cave"}):
        figure.savefig(
            content,
            format="svg",
            transparent=True,
            metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
        )
    text = content.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(f'id="{HOVER}([^"]*)">', lambda match: f">\x00{match[1]}\x00", text)
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', text))
    text = re.sub(r' id="([^"]*)"', lambda match: match[0] if match[1] in used else "", text)
    text = re.sub("\x00([^\x00]*)\x00", r"<title>\1</title>", text)
    text = COLOUR.sub(
        lambda match: match[0] if f"#{match[2]}" in FIXED.values() else f"{match[1]}: var(--c-{match[2]})", text
    )
    text = re.sub(r"'DejaVu Sans'[^;\"]*", "inherit", text)
    return _shortened(text)


def _shortened(text: str) -> str:
    """Return an SVG without what it need not say."""
    text = re.sub(r"<[^>]+>", lambda tag: re.sub(r"(\d+\.\d{2})\d+", r"\1", tag[0]), text)  # not of letters
    text = re.sub(r' xmlns:xlink="[^"]*"| xmlns="[^"]*"| version="1.1"', "", text).replace("xlink:href", "href")
    text = re.sub(r"<defs>\s*</defs>", "", text)
    return re.sub(r"\s*\n\s*", " ", text).strip()


def pdf(figure: Figure) -> bytes:
    """Return a figure as PDF, with letters that can be selected; equal figures give equal bytes (no date)."""
    freeze(figure)
    content = io.BytesIO()
    with mpl.rc_context({"pdf.fonttype": 42}):
        nameless = dict.fromkeys(("CreationDate", "Creator", "Producer"))
        figure.savefig(content, format="pdf", metadata=nameless)
    return content.getvalue()


def palette(drawings: Iterable[str]) -> tuple[str, str]:
    """Return the declarations of all colours in some SVGs, for a light and for a dark page."""
    names = sorted({name for drawing in drawings for name in VARIABLE.findall(drawing)})
    light = "; ".join(f"--c-{name}: #{name}" for name in names)
    return light, "; ".join(f"--c-{name}: {_dark(name)}" for name in names)


def _dark(name: str) -> str:
    """Return the colour that takes a colour's place on a dark page."""
    red, green, blue = (int(name[start : start + 2], 16) / 255 for start in (0, 2, 4))
    hue, light, saturation = colorsys.rgb_to_hls(red, green, blue)
    if max(red, green, blue) - min(red, green, blue) < 0.06:  # a grey: black is ink and white is paper
        ink, paper = ([int(end[start : start + 2], 16) for start in (1, 3, 5)] for end in (INK, PAPER))
        return _hexadecimal([(a + (b - a) * light) / 255 for a, b in zip(ink, paper, strict=True)])
    while (_luminance(colorsys.hls_to_rgb(hue, light, saturation)) + 0.05) / (0.0091 + 0.05) < CONTRAST:
        light += 0.02
    return _hexadecimal(colorsys.hls_to_rgb(hue, light, saturation))


def _luminance(colour: Iterable[float]) -> float:
    """Return the relative luminance of WCAG 2, https://www.w3.org/TR/WCAG21/#dfn-relative-luminance."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _hexadecimal(colour: Iterable[float]) -> str:
    return "#" + "".join(f"{round(255 * part):02x}" for part in colour)
