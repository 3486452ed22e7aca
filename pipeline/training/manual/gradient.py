"""The gradient of a bottom-up hierarchy of dense Gaussian rungs over a Bernoulli or Gaussian image, derived by hand.

The loss is a function of the terms alone. Its derivatives by log p(x | .) and by every rate are carried down
from rung to rung, first through (19), then through (20) from the top to the data:

    by z_t = that by log p(z_t | .) + what every rung passes back that has z_t in its context

No graph is built: at batch 20 that, and not arithmetic, is what most of a step consists of. `forward` and `backward`
are functions of their arguments, so that `pipeline.training.compiled` can have them compiled.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.distributions import LATENT, LIKELIHOODS, Conditional, Family, StandardNormal
from pipeline.models import HierarchicalVAE
from pipeline.objectives import ELBO
from pipeline.training.loss import Loss
from pipeline.training.manual import dense, densities
from pipeline.training.manual.dense import Dense
from pipeline.training.manual.densities import BERNOULLI, GAUSSIAN, Density, draw, draw_gradients, standard_normal

__all__ = ["ManualGradient"]

T = TypeVar("T")

DENSITIES: dict[Family, Density] = {
    LIKELIHOODS["bernoulli"]: BERNOULLI,
    LIKELIHOODS["gaussian"]: GAUSSIAN,
    LATENT: GAUSSIAN,
}


class Saved(NamedTuple):
    """What `backward` needs of every rung of q and p: of its network, and of its density."""

    up: list[tuple[dense.Saved, densities.Saved]]
    down: list[tuple[dense.Saved, densities.Saved]]
    top: Tensor


class ManualGradient:
    """Computes the terms of a batch, and leaves the loss's gradient in the weights."""

    def __init__(self, model: HierarchicalVAE, loss: Loss) -> None:
        self.loss, self.every = loss, model.parents == "every"
        rungs: list[Conditional] = [*model.generative][:-1]
        self.up = [Dense(rung.network, loss.params.precision) for rung in model.inference]  # type: ignore[arg-type]
        self.down = [Dense(rung.network, loss.params.precision) for rung in rungs]  # type: ignore[arg-type]
        self.p = [DENSITIES[rung.family] for rung in rungs]  # type: ignore[index]
        self.units = [len(network.layers[-1][1]) // 2 for network in self.up]
        self.weights = [[w for layer in network.layers for w in layer] for network in (*self.up, *self.down)]

    @classmethod
    def supports(cls, model: HierarchicalVAE) -> bool:
        """Return whether the model has this form."""
        rungs = [*model.inference, *[*model.generative][:-1]]
        return (
            model.direction == "bottom_up"
            and isinstance(model.generative[-1], StandardNormal)
            and all(isinstance(rung, Conditional) and Dense.supports(rung.network) for rung in rungs)
            and all(rung.family in DENSITIES for rung in rungs)
        )

    @cached_property
    def into(self) -> list[list[Tensor]]:
        """The `grad` of each weight, which `backward` writes into."""
        return [[_gradient(w) for w in weights] for weights in self.weights]

    @torch.no_grad()
    def __call__(self, x: Float[Tensor, "batch units"], draws: int, at: float) -> tuple[ELBO, Float[Tensor, ""]]:
        """Write the gradient into the weights' `grad`; return the terms at `draws` draws and the loss at epoch `at`."""
        bound, saved = self.forward(x, self.noise(x, draws))
        loss, derivatives = self.loss.gradients(bound, at)
        self.backward(saved, *derivatives, self.into)
        return bound, loss

    def noise(self, x: Float[Tensor, "batch units"], draws: int) -> list[Float[Tensor, "rows _"]]:
        """Return the standard normal noise of `draws` draws of every level."""
        return [x.new_empty(draws * len(x), units).normal_() for units in self.units]

    def forward(self, x: Float[Tensor, "batch units"], noise: Sequence[Float[Tensor, "rows _"]]) -> tuple[ELBO, Saved]:
        """Return the terms at the draws that this noise makes, and what `backward` needs."""
        draws = len(noise[0]) // len(x)
        z, log_q, log_p, up, down = [x.repeat(draws, 1) if draws > 1 else x], [], [], [], []
        for t, (network, eps) in enumerate(zip(self.up, noise, strict=True)):  # (20)
            raw, of_network = network.forward(_concatenate(self._parents(z[::-1])) if t else x)
            node, log_density, of_density = draw(raw, eps)
            z.append(node)
            log_q.append(log_density)
            up.append((of_network, of_density))
        for t, (network, p) in enumerate(zip(self.down, self.p, strict=True)):  # (19)
            raw, of_network = network.forward(_concatenate(self._parents(z[t + 1 :])))
            log_density, of_density = p.log_p(raw, z[t])
            log_p.append(log_density)
            down.append((of_network, of_density))
        log_p.append(standard_normal(z[-1]))
        rates = torch.stack(log_q) - torch.stack(log_p[1:])
        return ELBO(log_p[0].view(draws, -1), rates.view(len(noise), draws, -1)), Saved(up, down, z[-1])

    def backward(
        self,
        saved: Saved,
        by_reconstruction: Float[Tensor, "#draws #batch"],
        by_rate: Float[Tensor, "depth #draws #batch"],
        into: Sequence[Sequence[Tensor | None]],
    ) -> list[list[Tensor]]:
        """Return, and write `into` tensors, every weight's gradient from the loss's derivatives by the terms."""
        derivatives = [derivative.reshape(-1, 1) for derivative in (by_reconstruction, *by_rate)]
        by_z: list[Tensor | None] = [*[None] * (len(self.up) - 1), saved.top * derivatives[-1]]
        by_weights: list[list[Tensor]] = [[] for _ in (*self.up, *self.down)]
        for t, (network, p, (of_network, of_density)) in enumerate(zip(self.down, self.p, saved.down, strict=True)):
            by_raw, by_node = p.gradients(of_density, derivatives[0] if t == 0 else -derivatives[t])
            own = len(self.up) + t
            by_context, by_weights[own] = network.backward(of_network, by_raw, into[own])
            if t:
                by_z[t - 1] = _sum(by_z[t - 1], by_node)
            self._share(by_context, by_z, range(t, len(by_z)))
        for t in reversed(range(len(self.up))):
            (of_network, of_density), by_node = saved.up[t], by_z[t]
            assert by_node is not None
            by_raw = draw_gradients(of_density, by_node, derivatives[t + 1])
            by_context, by_weights[t] = self.up[t].backward(of_network, by_raw, into[t], context_gradient=t > 0)
            self._share(by_context, by_z, range(t - 1, -1, -1))
        return by_weights

    def _parents(self, ancestors: Sequence[T]) -> Sequence[T]:
        return ancestors if self.every else ancestors[:1]

    def _share(self, by_context: Tensor | None, by_z: list[Tensor | None], ancestors: Sequence[int]) -> None:
        """Add a context's derivative to those of the latent nodes in it, the nearest first; x needs none."""
        start = 0
        for t in self._parents(ancestors):
            assert by_context is not None
            by_z[t] = _sum(by_z[t], by_context[:, start : start + self.units[t]])
            start += self.units[t]


def _gradient(weights: Tensor) -> Tensor:
    """Return a weight's `grad`, zeros where it has none yet."""
    if weights.grad is None:
        weights.grad = torch.zeros_like(weights)
    return weights.grad


def _concatenate(nodes: Sequence[Tensor]) -> Tensor:
    return nodes[0] if len(nodes) == 1 else torch.cat(list(nodes), dim=1)


def _sum(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    return other if one is None else one if other is None else one + other
