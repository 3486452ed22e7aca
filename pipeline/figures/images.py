"""Pictures of images: what a model draws, restores, and decides level by level. Arrays are [.., c, h, w] in [0, 1].

Images of one channel are grey; those of three are in colour and shown as they are.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.image import imsave

from pipeline.figures.style import Drawing, blank

__all__ = ["levels", "mosaic", "reconstructions", "samples"]

Array = np.ndarray
GAP = (0.85, 0.88, 0.91)  # between images


def mosaic(grid: Array, *, ink: bool = True) -> bytes:
    """Return images [rows, columns, c, h, w] of bytes side by side as a small PNG; between them one sees through.

    `ink` shows 255 as black. A page enlarges it.
    """
    rows, columns, channels, height, width = grid.shape
    gap = _gap(grid)
    canvas = np.zeros((rows, height + gap, columns, width + gap, 4), dtype=np.uint8)
    canvas[:, :height, :, :width, :3] = (255 - grid if ink and channels == 1 else grid).transpose(0, 3, 1, 4, 2)
    canvas[:, :height, :, :width, 3] = 255
    content = io.BytesIO()
    shown = canvas.reshape(rows * (height + gap), columns * (width + gap), 4)[:-gap, :-gap]
    nameless: dict[str, Any] = {"Software": None}
    imsave(content, shown, format="png", metadata=nameless)
    return content.getvalue()


def samples(images: Array, title: str, *, ink: bool = True) -> Drawing:
    """Show draws [n, c, h, w] from the prior on a grid; `ink` shows 1 as black, else 1 is white."""
    side = math.isqrt(max(1, len(images) - 1)) + 1
    columns = min(range(side, 2 * side + 1), key=lambda n: (-len(images) % n, n))
    filler = np.full((-len(images) % columns, *images.shape[1:]), np.nan)
    grid = np.concatenate([images, filler]).reshape(-1, columns, *images.shape[1:])
    caption = "Each image is the mean of p(x | $z_1$), all latent levels drawn from the model's prior: no data goes in."
    figure = blank(0.62 * len(grid) + 0.1, title, caption, width=max(5.0, 0.62 * columns))
    _show(figure.subplots(), _mosaic(grid, _paper(ink)))
    return figure


def reconstructions(x: Array, mean: Array, variant: str, *, ink: bool = True) -> Drawing:
    """Show test images x [n, c, h, w] over the means of p(x | z_1), of the same shape, z_1 drawn from q(z_1 | x)."""
    caption = "Below each test image: the mean of p(x | $z_1$), with $z_1$ drawn from q($z_1$ | x) for the image above."
    title, width = f"{variant}: test images and their reconstructions", max(5.0, 0.75 * len(x) + 1)
    figure = blank(1.5, title, caption, width=width)
    axes = figure.subplots()
    _show(axes, _mosaic(np.stack([x, mean]), _paper(ink)))
    height = x.shape[-2] + _gap(x)
    axes.set_yticks([height / 2, height * 1.5], ["test image", "reconstruction"], fontsize=9)
    return figure


def levels(base: Array, redrawn: Array, variant: str, *, ink: bool = True) -> Drawing:
    """Show what each level decides: its noise alone is drawn again, that of every other level is held.

    Args:
        base: [rows, c, h, w], means of p(x | z) of some draws from the prior.
        redrawn: [T, rows, columns, c, h, w]; at [t - 1, i, j] the j-th image after z_t's noise in draw i is replaced.
        variant: the name of the model.
        ink: show 1 as black.
    """
    depth, rows, columns, _, _, width = redrawn.shape
    caption = (
        "From the top level down to $z_1$, each $z_t$ is a mean plus a standard deviation (sd) times noise. Along a row"
        " only the noise of the named level is drawn again: levels above keep their values, levels below their noise."
        " Where images hardly change, the level decides little."
    )
    height = depth * (0.62 * rows + 0.3) + 0.2
    figure = blank(height, f"{variant}: what each level decides", caption, width=0.62 * (columns + 2) + 2.8)
    deviation = redrawn.std(axis=2).mean(axis=2, keepdims=True)  # [T, rows, 1, h, w], in the mean of the channels
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


def _gap(images: Array) -> int:
    """Return the pixels between two images."""
    return max(1, int(images.shape[-1]) // 12)


def _paper(ink: bool) -> Callable[[Array], Array]:
    return ScalarMappable(Normalize(0, 1), "gray_r" if ink else "gray").to_rgba


def _mosaic(grid: Array, tint: Callable[[Array], Array]) -> Array:
    """Put images [rows, columns, c, h, w] side by side and return [height, width, rgb]; gaps and NaN are bluish grey.

    `tint` gives the values of a single channel their colours.
    """
    rows, columns, channels, height, width = grid.shape
    gap = _gap(grid)
    canvas = np.full((rows, height + gap, columns, width + gap, channels), np.nan)
    canvas[:, :height, :, :width] = grid.transpose(0, 3, 1, 4, 2)
    canvas = canvas.reshape(rows * (height + gap), columns * (width + gap), channels)[:-gap, :-gap]
    values = np.nan_to_num(canvas)
    return np.where(np.isnan(canvas[..., :1]), GAP, tint(values[..., 0])[..., :3] if channels == 1 else values)


def _show(axes: Any, picture: Array) -> None:
    axes.imshow(picture, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
