"""How many rows, draws times images, a pass through a model may have, so that its memory is bounded."""

from __future__ import annotations

from jaxtyping import Shaped
from torch import Tensor

from pipeline.distributions import FULL, Conditional
from pipeline.models.hierarchy import HierarchicalVAE

__all__ = ["rows_within"]

NUMBERS = 2**24  # that the last network of a pass may put out: 64 MB in single precision


def rows_within(model: HierarchicalVAE, x: Shaped[Tensor, "*batch units"], most: int) -> int:
    """Return `most`, or fewer rows where an image takes so many raw numbers that these would be too large."""
    units, likelihood = x.shape[-1], model.generative[0]
    numbers = likelihood.family.raw_numbers(units) if isinstance(likelihood, Conditional) else units
    for rung in model.inference:
        if isinstance(rung, Conditional) and rung.family is FULL:  # a level's factor of the covariance is a square
            numbers = max(numbers, 2 * len(rung.network[-1].bias))  # type: ignore[index]
    if model.diffusion is not None and (values := model.diffusion.decoder.values) is not None:
        numbers = units * len(values)
    return max(1, min(most, NUMBERS // numbers))
