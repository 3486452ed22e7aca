"""Pictures of a model while it is trained, by epoch: MLflow shows them with a slider."""

from __future__ import annotations

import torch

from pipeline.data import DATASETS, Splits
from pipeline.data.images import to_unit_interval
from pipeline.models import HierarchicalVAE
from pipeline.models.mosaics import mosaics
from pipeline.tracking import Run
from pipeline.tracking.media import IMAGES, step_image

__all__ = ["is_shown", "log_pictures"]

SHOWN = 8  # validation images that are reconstructed


def is_shown(epoch: int, epochs: int) -> bool:
    """Return whether the pictures of an epoch are logged: of none, of the powers of two and of the last.

    >>> [epoch for epoch in range(101) if is_shown(epoch, 100)]
    [0, 1, 2, 4, 8, 16, 32, 64, 100]
    """
    return epoch & (epoch - 1) == 0 or epoch == epochs


def log_pictures(run: Run, model: HierarchicalVAE, splits: Splits, epoch: int, time: int) -> None:
    """Log samples, reconstructions of validation images, and what each level decides, with the epoch as their step.

    The model has the weights of that epoch, not their moving average; `time` is that of the epoch, in milliseconds.
    """
    device = next(model.parameters()).device
    valid = to_unit_interval(torch.as_tensor(splits.valid[:SHOWN], device=device), splits.scale)
    ink = DATASETS[splits.name].dark_on_light
    files: dict[str, bytes] = {}
    for name, picture in mosaics(model, valid, splits.shape).items():
        shown = (1 - picture if ink else picture).numpy()
        files |= step_image(f"pictures/{name}", epoch, time, shown)
    run.log_result(IMAGES, "True", {}, {}, files)
