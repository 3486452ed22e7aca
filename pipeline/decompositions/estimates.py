"""Values per image, and their mean over images as an `Estimate`.

A value comes with the variance of its own Monte Carlo error, or with None. The standard error of the mean over
images is sqrt(sum of variances) / n, the images held fixed; for None it is the deviation over images / sqrt(n),
which also holds the images' own differences and is therefore at least the Monte Carlo error.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pipeline.evaluation import Estimate

__all__ = ["Measured", "PerImage", "mean_over_images", "of_draws"]

PerImage = dict[str, tuple[Tensor, Tensor | None]]


@dataclass(frozen=True)
class Measured:
    """Estimates by key, and by key the values of single images, [n], of those that are means over images.

    The images of a key are the first n of the test set, n depending on the key.
    """

    estimates: dict[str, Estimate]
    images: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of_batches(cls, parts: Sequence[PerImage]) -> Measured:
        """Return the values of all batches of images, one after another, and their means."""
        return cls(
            mean_over_images(parts), {name: torch.cat([part[name][0] for part in parts]).cpu() for name in parts[0]}
        )

    def __or__(self, other: Measured) -> Measured:
        """Return what both have; a key of both is that of `other`."""
        return Measured(self.estimates | other.estimates, self.images | other.images)


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
