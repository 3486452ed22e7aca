"""The terms of the bound as the metrics of an epoch, and the error where one of them is not finite."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.errors import RunError
from pipeline.metric import Metric
from pipeline.models import HierarchicalVAE
from pipeline.objectives import ELBO

__all__ = ["NonFiniteError", "mean_parts", "named", "require_finite", "terms", "with_sums"]


class NonFiniteError(RunError):
    """A bound that is not finite, with the epoch, the step and the term that broke."""


def terms(bound: ELBO) -> Float[Tensor, " depth_and_three"]:
    """Return the batch's mean elbo, reconstruction, kl and rates, in this order."""
    return with_sums(mean_parts(bound))


def mean_parts(bound: ELBO) -> Float[Tensor, " depth_and_one"]:
    """Return the means over draws and batch of the reconstruction and of each rate."""
    return torch.cat([bound.reconstruction[None], bound.rate]).mean((1, 2))


def with_sums(parts: Float[Tensor, " depth_and_one"]) -> Float[Tensor, " depth_and_three"]:
    """Return elbo, reconstruction, kl and rates from the reconstruction and the rates."""
    reconstruction, rates = parts[0], parts[1:]
    kl = rates.sum()
    return torch.cat([torch.stack([reconstruction - kl, reconstruction, kl]), rates])


def named(prefix: str, values: Tensor, model: HierarchicalVAE) -> dict[str, float]:
    """Return the values of `with_sums` by the names of their metrics, which begin with `prefix`.

    Those of a diffusion have no rates by level, which are many.
    """
    depth = 0 if model.diffusion is not None else model.depth
    names = ["elbo", "reconstruction", "kl", *(str(Metric("rate", t)) for t in range(1, depth + 1))]
    return dict(zip([prefix + name for name in names], values[: depth + 3].tolist(), strict=True))


def require_finite(metrics: dict[str, float], epoch: int, step: int) -> None:
    """Raise `NonFiniteError` for a term that is not finite: of sums, for the part that broke them."""
    for name in sorted(metrics, key=lambda name: name.endswith(("objective", "elbo", "kl"))):
        if not math.isfinite(metrics[name]):
            raise NonFiniteError(
                f"epoch {epoch}, step {step}: {name} is {metrics[name]};"
                " a lower train.learning_rate or train.clip may help"
            )
