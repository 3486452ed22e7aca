"""Passes over many draws in bounded memory: a pass has as many rows, draws times images, as are given here."""

from __future__ import annotations

__all__ = ["DECODED_ROWS", "LATENT_ROWS", "passes"]

DECODED_ROWS = 2000  # of a pass that decodes images: its logits stay in the cache
LATENT_ROWS = 8192  # of other passes


def passes(draws: int, images: int, rows: int) -> list[int]:
    """Return how many draws of each of `images` images every pass takes: `draws` together, at most `rows` rows each.

    >>> passes(10, 30, 100), passes(2, 5000, 2000)
    ([3, 3, 3, 1], [1, 1])
    """
    size = max(1, rows // images)
    return [min(size, draws - done) for done in range(0, draws, size)]
