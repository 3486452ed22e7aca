"""The gradient as torch derives it from the bound: the readable form, and the one for every model and objective."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.models import HierarchicalVAE
from pipeline.models.precision import products
from pipeline.objectives import ELBO, STOPPED, climbed, elbo, stopped, weight
from pipeline.params import TrainParams

__all__ = ["Loss", "Plain"]

Slopes = tuple[Float[Tensor, "#draws #batch"], Float[Tensor, "depth #draws #batch"]]


class Loss:
    """Minus what training climbs, its mean or sum over the batch, as a function of the terms."""

    def __init__(self, params: TrainParams) -> None:
        self.params = params
        weighed = params.free_bits or params.stagger
        self.is_known = params.objective in ("elbo", "beta", "iwae") and not weighed

    def __call__(self, bound: ELBO, at: float) -> Float[Tensor, ""]:
        """Return the loss at epoch `at`."""
        objective = climbed(bound, self.params, at)
        return -(objective.sum() if self.params.gradient == "sum" else objective.mean())

    def slopes(self, bound: ELBO, at: float) -> tuple[Float[Tensor, ""], Slopes]:
        """Return the loss and its derivatives by the reconstruction and by the rates, in shapes that broadcast."""
        return self.known(bound, weight(self.params, at)) if self.is_known else self._derived(bound, at)

    def known(self, bound: ELBO, beta: float | Float[Tensor, ""]) -> tuple[Float[Tensor, ""], Slopes]:
        """Return the same where the derivatives are known, at this weight of the rate.

        By the log-weights of `iwae` they are the draws' shares of the sum; those of `elbo` and `beta` are numbers.
        """
        depth, draws, batch = bound.rate.shape
        scale = 1 / (1 if self.params.gradient == "sum" else batch)
        if self.params.objective == "iwae":
            share = torch.softmax(bound.log_weight, 0) * scale
            return -scale * bound.iwae.sum(), (-share, share.expand(depth, -1, -1))
        scale /= draws
        loss = (beta * bound.rate.sum() - bound.reconstruction.sum()) * scale
        return loss, (loss.new_full((1, 1), -scale), loss.new_full((depth, 1, 1), scale) * beta)

    def _derived(self, bound: ELBO, at: float) -> tuple[Float[Tensor, ""], Slopes]:
        with torch.enable_grad():
            leaves = bound.reconstruction.detach().requires_grad_(), bound.rate.detach().requires_grad_()
            loss = self(ELBO(*leaves), at)
            by_reconstruction, by_rate = torch.autograd.grad(loss, leaves)
        return loss.detach(), (by_reconstruction, by_rate)


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
