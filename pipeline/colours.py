"""The colours of variants, the same in every figure and in MLflow; colour-blind readers can distinguish them.

Okabe and Ito, "Color Universal Design" (2008); the last three of `OTHERS` are of Tol, "Colour Schemes" (2021).
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["NAMED", "OTHERS", "variant_colour"]

NAMED = {"vae": "#0072B2", "hvae": "#E69F00", "mhvae": "#009E73"}
OTHERS = ("#CC79A7", "#D55E00", "#56B4E9", "#000000", "#882255", "#999933", "#332288")


def variant_colour(variant: str, variants: Iterable[str]) -> str:
    """Return the colour of `variant` among `variants`: its own, or the next free one in order."""
    others = [name for name in variants if name not in NAMED]
    return NAMED.get(variant) or OTHERS[others.index(variant) % len(OTHERS)]
