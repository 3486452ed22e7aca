"""The gradient as torch derives it from the bound: the readable form, and the one for every model and objective."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.models import HierarchicalVAE
from pipeline.objectives import ELBO, STOPPED, climbed, elbo, stopped, weight
from pipeline.params import TrainParams
from pipeline.precision import products

__all__ = ["Loss", "Plain"]


class Loss:
    """Minus what training climbs, its mean or sum over the batch, as a function of the terms."""

    def __init__(self, params: TrainParams) -> None:
        self.params = params
        self.linear = params.objective in ("elbo", "beta") and not params.free_bits and not params.stagger

    def __call__(self, bound: ELBO, at: float) -> Float[Tensor, ""]:
        """Return the loss at epoch `at`."""
        objective = climbed(bound, self.params, at)
        return -(objective.sum() if self.params.gradient == "sum" else objective.mean())

    def slopes(self, bound: ELBO, at: float) -> tuple[Tensor, Tensor, Tensor]:
        """Return the loss and its derivatives by the reconstruction and by the rates, in their shapes.

        Where the loss is linear in the terms, the derivatives are single numbers, [1, 1] and [depth, 1, 1].
        """
        depth, draws, batch = bound.rate.shape
        if self.linear:
            share = 1 / (draws * (1 if self.params.gradient == "sum" else batch))
            beta = weight(self.params, at) if self.params.objective == "beta" else 1.0
            return (
                self(bound, at),
                bound.rate.new_full((1, 1), -share),
                bound.rate.new_full((depth, 1, 1), beta * share),
            )
        with torch.enable_grad():
            leaves = bound.reconstruction.detach().requires_grad_(), bound.rate.detach().requires_grad_()
            loss = self(ELBO(*leaves), at)
            by_reconstruction, by_rate = torch.autograd.grad(loss, leaves)
        return loss.detach(), by_reconstruction, by_rate


class Plain:
    """Computes the terms of a batch, and leaves the loss's gradient in the weights."""

    def __init__(self, model: HierarchicalVAE, loss: Loss) -> None:
        self.model, self.loss = model, loss
        self.measure = stopped if loss.params.objective in STOPPED else elbo

    def __call__(self, x: Float[Tensor, "batch units"], draws: int, at: float) -> tuple[ELBO, Float[Tensor, ""]]:
        """Return the terms at `draws` draws and the loss at epoch `at`."""
        with products(self.model, self.loss.params.precision):
            bound = self.measure(self.model, x, draws)
        loss = self.loss(bound, at)
        self.model.zero_grad(set_to_none=False)
        loss.backward()
        return bound.detach(), loss.detach()
