"""The loss of a batch as a function of the bound's terms, and its derivatives by them."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.objectives import ELBO, beta_at, training_objective
from pipeline.params import TrainParams

__all__ = ["Loss"]

Derivatives = tuple[Float[Tensor, "#draws #batch"], Float[Tensor, "depth #draws #batch"]]


class Loss:
    """Minus the training objective, its mean or sum over the batch."""

    def __init__(self, params: TrainParams) -> None:
        self.params = params
        weighed = params.free_bits or params.warmup_stagger
        self.has_closed_form = params.objective in ("elbo", "beta", "iwae") and not weighed

    def __call__(self, bound: ELBO, at: float) -> Float[Tensor, ""]:
        """Return the loss at epoch `at`."""
        objective = training_objective(bound, self.params, at)
        return -(objective.sum() if self.params.reduction == "sum" else objective.mean())

    def gradients(self, bound: ELBO, at: float) -> tuple[Float[Tensor, ""], Derivatives]:
        """Return the loss and its derivatives by the reconstruction and by the rates, in shapes that broadcast."""
        return (
            self.closed_form_gradients(bound, beta_at(self.params, at))
            if self.has_closed_form
            else self._autograd_gradients(bound, at)
        )

    def closed_form_gradients(
        self, bound: ELBO, beta: float | Float[Tensor, ""]
    ) -> tuple[Float[Tensor, ""], Derivatives]:
        """Return the same for the objectives whose derivatives have a closed form, `beta` being the weight of the rate.

        By the log-weights of `iwae` they are the draws' shares of the sum; those of `elbo` and `beta` are numbers.
        """
        depth, draws, batch = bound.rate.shape
        scale = 1 / (1 if self.params.reduction == "sum" else batch)
        if self.params.objective == "iwae":
            share = torch.softmax(bound.log_weight, 0) * scale
            return -scale * bound.iwae.sum(), (-share, share.expand(depth, -1, -1))
        scale /= draws
        loss = (beta * bound.rate.sum() - bound.reconstruction.sum()) * scale
        return loss, (loss.new_full((1, 1), -scale), loss.new_full((depth, 1, 1), scale) * beta)

    def _autograd_gradients(self, bound: ELBO, at: float) -> tuple[Float[Tensor, ""], Derivatives]:
        with torch.enable_grad():
            leaves = bound.reconstruction.detach().requires_grad_(), bound.rate.detach().requires_grad_()
            loss = self(ELBO(*leaves), at)
            by_reconstruction, by_rate = torch.autograd.grad(loss, leaves)
        return loss.detach(), (by_reconstruction, by_rate)
