"""What a model draws: samples, reconstructions, and what each of its levels decides."""

from __future__ import annotations

from pathlib import Path

import torch

from pipeline.data import DATASETS, Splits
from pipeline.data.images import to_unit_interval
from pipeline.figures.images import levels, reconstructions, samples
from pipeline.figures.style import save
from pipeline.models import HierarchicalVAE
from pipeline.randomness import seeded

__all__ = ["MODEL_IMAGES", "draw_model"]

MODEL_IMAGES = ("samples", "reconstructions", "levels")
ROWS = 4  # of the figure of the levels


@torch.no_grad()
def draw_model(
    folder: Path, model: HierarchicalVAE, splits: Splits, test: torch.Tensor, *, name: str, columns: int, seed: int
) -> list[Path]:
    """Write the three figures of `MODEL_IMAGES` into a folder; return their paths.

    Args:
        folder: to write into.
        model: the model, on the device of the test images.
        splits: the data set.
        test: the stored pixels [images, units] of its test set.
        name: of the model, in the titles.
        columns: images a row.
        seed: of the random numbers.
    """

    def pictures(x: torch.Tensor) -> torch.Tensor:
        grid: torch.Tensor = x.unflatten(-1, splits.shape)
        return grid.clamp(0, 1).cpu()

    with seeded(seed, "figures"):
        x = to_unit_interval(test[:columns], splits.scale)
        z, q = model.posterior(x)
        mean = model.joint(z)[0].mean[0]
        widths = [factor.event_shape[0] for factor in q]

        def noise(count: int) -> list[torch.Tensor]:
            return [torch.randn(count, width, device=test.device) for width in widths]

        prior = model.decode(noise(columns * columns // 2))
        fixed = noise(ROWS)
        base = model.decode(fixed)
        redrawn = []
        for level, width in enumerate(widths):
            repeated = [eps.repeat_interleave(columns, 0) for eps in fixed]
            repeated[level] = torch.randn(ROWS * columns, width, device=test.device)
            redrawn.append(model.decode(repeated).unflatten(0, (ROWS, columns)))
    ink = DATASETS[splits.name].dark_on_light
    drawings = {
        "samples": samples(pictures(prior).numpy(), f"{name}: draws from the prior", ink=ink),
        "reconstructions": reconstructions(pictures(x).numpy(), pictures(mean).numpy(), name, ink=ink),
        "levels": levels(pictures(base).numpy(), pictures(torch.stack(redrawn)).numpy(), name, ink=ink),
    }
    for kind, drawing in drawings.items():
        save(drawing, folder / f"{kind}.png")
    return [folder / f"{kind}.png" for kind in MODEL_IMAGES]
