"""Adam on all weights of a model as one tensor.

    m <- beta1 m + (1 - beta1) g,   v <- beta2 v + (1 - beta2) g^2
    w <- w - rate * (m / (1 - beta1^n)) / (sqrt(v / (1 - beta2^n)) + eps)

The model's parameters become views of `weights` and their gradients views of `gradient`, so that a step, a norm and an
average are each one pass over memory. Kingma, Ba, "Adam" (2015), https://arxiv.org/abs/1412.6980
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim.adam import adam

from pipeline.params import TrainParams

__all__ = ["Adam"]


class Adam:
    """The weights, their gradient, and the moments of the steps so far."""

    def __init__(self, model: nn.Module, params: TrainParams) -> None:
        self.params, self.parts = params, list(model.parameters())
        self.weights = torch.cat([part.detach().flatten() for part in self.parts])
        self.gradient = torch.zeros_like(self.weights)
        for part, weights, gradient in zip(
            self.parts, self.views(self.weights), self.views(self.gradient), strict=True
        ):
            part.data, part.grad = weights, gradient
        self.moments = {
            "mean": torch.zeros_like(self.weights),
            "square": torch.full_like(self.weights, params.adam_second_moment),
            "steps": torch.zeros((), device=self.weights.device),
        }
        self.excess: Tensor | None = None

    def views(self, flat: Float[Tensor, " weights"]) -> list[Tensor]:
        """Return the parts of a tensor like `weights`, in the shapes of the model's parameters."""
        parts = flat.split([part.numel() for part in self.parts])
        return [view.view_as(part) for view, part in zip(parts, self.parts, strict=True)]

    @torch.no_grad()
    def clip(self, limit: float) -> None:
        """Have the next step scale the gradient down to the norm `limit`, if it is larger, in the step's own pass."""
        excess = torch.dot(self.gradient, self.gradient).sqrt_().div_(limit)
        self.excess = excess.float() if excess.item() > 1 else None

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Move the weights against their gradient."""
        mean, square, steps = self.moments.values()
        adam(
            [self.weights],
            [self.gradient],
            [mean],
            [square],
            [],
            [steps],
            fused=True,
            amsgrad=False,
            beta1=self.params.adam_beta1,
            beta2=self.params.adam_beta2,
            lr=rate,
            weight_decay=0.0,
            eps=self.params.adam_eps,
            maximize=False,
            grad_scale=self.excess,
        )
        self.excess = None

    def load(self, moments: dict[str, Tensor]) -> None:
        """Take up moments that were kept."""
        for name, kept in self.moments.items():
            kept.copy_(moments[name])
