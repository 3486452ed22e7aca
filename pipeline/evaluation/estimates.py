"""Values per image, and their mean over images as an `Estimate`.

A value comes with the variance of its own Monte Carlo error, or with None. The standard error of the mean over
images is sqrt(sum of variances) / n, the images held fixed; for None it is the deviation over images / sqrt(n),
which also holds the images' own differences and is therefore at least the Monte Carlo error.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.evaluation.bounds import Estimate, Measured

__all__ = ["PerImage", "mean_over_images", "of_batches", "of_draws"]

PerImage = dict[str, tuple[Tensor, Tensor | None]]


def of_batches(parts: Sequence[PerImage]) -> Measured:
    """Return the values of all batches of images, one after another, and their means."""
    return Measured(
        mean_over_images(parts), {name: torch.cat([part[name][0] for part in parts]).cpu() for name in parts[0]}
    )


def of_draws(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean over draws [draws, batch] of each image and the variance of its error; two draws or more."""
    return values.mean(0), values.var(0) / len(values)


def mean_over_images(parts: Sequence[PerImage]) -> dict[str, Estimate]:
    """Return the mean of each value over the images of all parts."""
    results = {}
    for name in parts[0]:
        values = torch.cat([part[name][0] for part in parts]).double()
        variances = [variance for part in parts if (variance := part[name][1]) is not None]
        if variances:
            se = torch.cat(variances).double().sum().sqrt().item() / len(values)
        else:
            se = values.std().item() / math.sqrt(len(values)) if len(values) > 1 else math.nan
        results[name] = Estimate(values.mean().item(), se)
    return results
