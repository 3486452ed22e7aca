"""The pictures of the tour that show what was learned: what levels know, what they decide, what is reconstructed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from pipeline.models import HierarchicalVAE
from pipeline.randomness import seeded

__all__ = ["draw_decisions", "draw_knowledge", "draw_reconstructions"]

INK = "#222222"


def picture(axes: Any, image: torch.Tensor) -> None:
    """Show an image as black ink on white, without axes."""
    axes.imshow(1 - image.cpu().numpy().clip(0, 1), cmap="gray", vmin=0, vmax=1)
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_color("#cccccc")


def draw_knowledge(path: Path, known: Mapping[str, Sequence[float]], names: Sequence[str]) -> None:
    """Draw the score of each factor (columns) at each level (rows), 1 being all and 0 nothing."""
    rows = [*list(known)[1:], *list(known)[:1]]
    cells = np.array([known[row] for row in rows])
    figure = Figure(figsize=(9, 0.46 * len(rows) + 0.95), facecolor="white")
    axes = figure.add_axes((0.13, 0.02, 0.86, 0.76))
    axes.imshow(cells.clip(0, 1), cmap="cividis", vmin=0, vmax=1, aspect="auto")
    for (i, j), value in np.ndenumerate(cells):
        text = f"{value:.2f}".replace("-0.00", "0.00")
        axes.text(j, i, text, ha="center", va="center", fontsize=11, color="white" if value < 0.5 else "black")
    labels = [row.replace("z_1", "$z_1$").replace("z_2", "$z_2$") for row in rows]
    axes.set_yticks(range(len(rows)), labels, fontsize=11, color=INK)
    axes.set_xticks(range(len(names)), names, fontsize=11, color=INK)
    axes.tick_params(length=0, labeltop=True, labelbottom=False)
    axes.set_xticks(np.arange(0.5, len(names) - 1), minor=True)
    axes.set_yticks(np.arange(0.5, len(rows) - 1), minor=True)
    axes.grid(which="minor", color="white", lw=2)
    axes.tick_params(which="minor", length=0)
    axes.spines[:].set_visible(False)
    title = "What a linear map reads of each factor from each level: 1 all of it, 0 nothing"
    figure.text(0.13, 0.92, title, fontsize=12, weight="bold", color=INK)
    figure.savefig(path, dpi=110)


@torch.no_grad()
def draw_reconstructions(
    path: Path, models: Mapping[str, HierarchicalVAE], x: torch.Tensor, shape: tuple[int, int]
) -> None:
    """Draw test images above, and below each the mean of p(x | z) at a draw from each model's posterior."""
    rows = {"test image": x}
    for name, model in models.items():
        with seeded(0, "reconstructions"):
            rows[name] = model.joint(model.posterior(x)[0])[0].mean[0]
    figure = Figure(figsize=(9, 0.84 * len(rows)), facecolor="white")
    grid = figure.subplots(len(rows), len(x), gridspec_kw={"left": 0.11, "right": 0.995, "top": 0.99, "bottom": 0.01})
    for line, (name, images) in zip(grid, rows.items(), strict=True):
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=11, color=INK)
        for axes, image in zip(line, images.unflatten(-1, shape), strict=True):
            picture(axes, image)
    figure.savefig(path, dpi=100)


@torch.no_grad()
def draw_decisions(path: Path, model: HierarchicalVAE, shape: tuple[int, int], columns: int = 10) -> None:
    """Draw a sample, and what becomes of it when the noise of one level alone is drawn again."""
    widths = [z.shape[-1] for z in model.sample(1)[1:]]
    with seeded(3, "decisions"):
        fixed = [torch.randn(2, width) for width in widths]
        rows = []
        for start in range(2):
            base = [noise[start : start + 1].repeat(columns, 1) for noise in fixed]
            for level, width in reversed(list(enumerate(widths))):
                noise = list(base)
                noise[level] = torch.cat([base[level][:1], torch.randn(columns - 1, width)])
                rows.append((f"$z_{{{level + 1}}}$ again", model.decode_noise(noise)))
    figure = Figure(figsize=(9, 0.84 * len(rows)), facecolor="white")
    grid = figure.subplots(len(rows), columns, gridspec_kw={"left": 0.11, "right": 0.995, "top": 0.99, "bottom": 0.01})
    for line, (name, images) in zip(grid, rows, strict=True):
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=11, color=INK)
        for axes, image in zip(line, images.unflatten(-1, shape), strict=True):
            picture(axes, image)
    figure.savefig(path, dpi=100)
