"""Estimates with their standard errors, and the values per image that they are means of.

A value per image comes with the variance of its own Monte Carlo error, or with None. The standard error of the mean
over images is sqrt(sum of variances) / n, the images held fixed; for None it is the deviation over images / sqrt(n),
which also holds the images' own differences and is therefore at least the Monte Carlo error.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["Estimate", "Measured", "PerImage", "mean_over_images", "of_batches", "of_draws"]

PerImage = dict[str, tuple[Tensor, Tensor | None]]
"""By metric the value of each image, and the variance of its error: [batch] each."""


@dataclass(frozen=True)
class Estimate:
    """A number and its standard error; None where it has none, as of what diagnoses the errors of other numbers."""

    value: float
    se: float | None

    @property
    def error(self) -> float:
        """The standard error of an estimate that has one; `ValueError` without."""
        if self.se is None:
            raise ValueError("this number has no standard error")
        return self.se

    def __sub__(self, other: Estimate) -> Estimate:
        """Return the difference of two independent estimates."""
        return Estimate(self.value - other.value, math.hypot(self.error, other.error))

    @classmethod
    def mean(cls, values: Float[Tensor, " n"], variances: Float[Tensor, " n"] | None = None) -> Estimate:
        """Return the mean of independent values: of fixed images with errors of these variances, or of a sample."""
        if variances is not None:
            return cls(values.mean().item(), variances.sum().sqrt().item() / len(values))
        se = values.std().item() / math.sqrt(len(values)) if len(values) > 1 else math.nan
        return cls(values.mean().item(), se)


@dataclass(frozen=True)
class Measured:
    """Estimates by key, and the values of the images that some of them are means of.

    The images of a key are the first of the test set, as many as its tensor has.
    """

    estimates: dict[str, Estimate]
    images: dict[str, Tensor] = field(default_factory=dict)

    def __or__(self, other: Measured) -> Measured:
        """Return the metrics of both; where both have a metric, that of `other`."""
        return Measured(self.estimates | other.estimates, self.images | other.images)


def of_draws(values: Float[Tensor, "draws batch"]) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
    """Return the mean over draws (two or more) of each image, and the variance of its error."""
    return values.mean(0), values.var(0) / len(values)


def of_batches(parts: Sequence[PerImage]) -> Measured:
    """Return the values of all batches of images, one after another, and their means."""
    return Measured(
        mean_over_images(parts), {name: torch.cat([part[name][0] for part in parts]).cpu() for name in parts[0]}
    )


def mean_over_images(parts: Sequence[PerImage]) -> dict[str, Estimate]:
    """Return the mean of each value over the images of all batches."""
    results = {}
    for name in parts[0]:
        values = torch.cat([part[name][0] for part in parts]).double()
        variances = [variance for part in parts if (variance := part[name][1]) is not None]
        results[name] = Estimate.mean(values, torch.cat(variances).double() if variances else None)
    return results
