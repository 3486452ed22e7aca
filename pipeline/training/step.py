"""One step of training: the gradient of a batch by autograd or by hand, the limit of its norm, and Adam.

    m <- beta1 m + (1 - beta1) g,   v <- beta2 v + (1 - beta2) g^2
    w <- w - rate * (m / (1 - beta1^n)) / (sqrt(v / (1 - beta2^n)) + eps)

The model's parameters become views of `Adam.weights` and their gradients views of `Adam.gradient`, so that a step, a
norm and an average are each one pass over memory. Kingma, Ba, "Adam" (2015), https://arxiv.org/abs/1412.6980
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim.adam import adam

from pipeline.models import HierarchicalVAE
from pipeline.models.precision import linear_autocast
from pipeline.objectives import ELBO, PATHWISE, elbo, pathwise_terms
from pipeline.params import TrainParams
from pipeline.training.loss import Loss
from pipeline.training.manual import ManualGradient
from pipeline.training.sampled import sampled_elbo

__all__ = ["Adam", "AutogradGradient", "Step", "gradient", "terms_of"]


class Step:
    """A step of one torch operator after another."""

    def __init__(self, model: HierarchicalVAE, adam: Adam, params: TrainParams) -> None:
        self.adam, self.params, self.gradient = adam, params, gradient(model, params)

    @contextmanager
    def epoch(self) -> Iterator[None]:
        """Return the context that an epoch's steps run in."""
        yield

    def __call__(self, x: Float[Tensor, "batch units"], at: float, rate: float) -> tuple[ELBO, Float[Tensor, ""]]:
        """Move the weights at this learning rate; return a batch's terms and loss, at epoch `at`, before that."""
        bound, loss = self.gradient(x, self.params.draws, at)
        if self.params.clip is not None:
            self.adam.clip(self.params.clip)
        self.adam.step(rate)
        return bound, loss


def gradient(model: HierarchicalVAE, params: TrainParams) -> ManualGradient | AutogradGradient:
    """Return the function that computes a batch's terms and loss and leaves the gradient in the weights' `grad`."""
    manual = ManualGradient.supports(model) and params.objective not in PATHWISE
    return (ManualGradient if manual else AutogradGradient)(model, Loss(params))


def terms_of(
    model: HierarchicalVAE, params: TrainParams, training: bool = False
) -> Callable[[HierarchicalVAE, Tensor, int], ELBO]:
    """Return what gives the terms of the bound in training, or in validation: of a diffusion, an estimate of them."""
    if model.diffusion is not None:
        return _whole_chain if params.objective == "iwae" else sampled_elbo
    return pathwise_terms if training and params.objective in PATHWISE else elbo


def _whole_chain(model: HierarchicalVAE, x: Float[Tensor, "batch units"], draws: int) -> ELBO:
    """Return the terms of `elbo` with all rates in one row."""
    bound = elbo(model, x, draws)
    return ELBO(bound.reconstruction, bound.kl[None])


class AutogradGradient:
    """Computes the terms of a batch, and leaves the loss's gradient in the weights."""

    def __init__(self, model: HierarchicalVAE, loss: Loss) -> None:
        self.model, self.loss = model, loss
        self.measure = terms_of(model, loss.params, training=True)
        self.weights = list(model.parameters())

    def __call__(self, x: Float[Tensor, "batch units"], draws: int, at: float) -> tuple[ELBO, Float[Tensor, ""]]:
        """Return the terms at `draws` draws and the loss at epoch `at`."""
        with linear_autocast(self.model, self.loss.params.precision):
            bound = self.measure(self.model, x, draws)
        loss = self.loss(bound, at)
        for weights in self.weights:  # not by the model, of whose rungs a diffusion may have 1,000
            if weights.grad is not None:
                weights.grad.zero_()
        loss.backward()
        return bound.detach(), loss.detach()


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
            "square": torch.full_like(self.weights, params.adam_initial_second_moment),
            "steps": torch.zeros((), device=self.weights.device),
        }
        self.excess: Tensor | None = None
        self.norm: Tensor | None = None  # of the last gradient, before it was clipped, if it was to be

    def views(self, flat: Float[Tensor, " weights"]) -> list[Tensor]:
        """Return the parts of a tensor like `weights`, in the shapes of the model's parameters."""
        parts = flat.split([part.numel() for part in self.parts])
        return [view.view_as(part) for view, part in zip(parts, self.parts, strict=True)]

    @torch.no_grad()
    def clip(self, limit: float) -> None:
        """Have the next step scale the gradient down to the norm `limit`, if it is larger, in the step's own pass."""
        self.norm = torch.dot(self.gradient, self.gradient).sqrt_()
        excess = self.norm / limit
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
        """Copy saved moments in, by their names."""
        for name, moment in self.moments.items():
            moment.copy_(moments[name])
