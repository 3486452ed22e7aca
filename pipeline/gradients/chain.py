"""The gradient of a bottom-up hierarchy of dense Gaussian rungs over a Bernoulli or Gaussian image, derived by hand.

The loss is a function of the terms alone. Its derivatives by log p(x | .) and by every rate, `slopes`, are carried down
from rung to rung, first through (19), then through (20) from the top to the data:

    by z_t = that by log p(z_t | .) + what every rung passes back that has z_t in its context

No graph is built: at batch 20 that, and not arithmetic, is what most of a step consists of. All that is as large as a
batch lies in buffers which the next step writes over; the terms and the loss are fresh.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.distributions import LATENT, LIKELIHOODS, Conditional, Family, StandardNormal
from pipeline.gradients.buffers import Buffers
from pipeline.gradients.dense import Dense
from pipeline.gradients.densities import Bernoulli, Density, Drawn, Gaussian, standard_normal
from pipeline.gradients.plain import Loss
from pipeline.models import HierarchicalVAE
from pipeline.objectives import ELBO

__all__ = ["Chain"]

DENSITIES: dict[Family, type[Bernoulli | Gaussian]] = {
    LIKELIHOODS["bernoulli"]: Bernoulli,
    LIKELIHOODS["gaussian"]: Gaussian,
    LATENT: Gaussian,
}


class Chain:
    """Computes the terms of a batch, and leaves the loss's gradient in the weights."""

    def __init__(self, model: HierarchicalVAE, loss: Loss) -> None:
        self.loss, self.every = loss, model.parents == "every"
        rungs: list[Conditional] = [*model.generative][:-1]
        self.up = [Dense(rung.network, loss.params.precision) for rung in model.inference]  # type: ignore[arg-type]
        self.down = [Dense(rung.network, loss.params.precision) for rung in rungs]  # type: ignore[arg-type]
        self.q = [Drawn() for _ in self.up]
        self.p: list[Density] = [DENSITIES[rung.family]() for rung in rungs]
        self.by_z = [Buffers() for _ in self.up]
        for weights in model.parameters():
            if weights.grad is None:
                weights.grad = torch.zeros_like(weights)

    @classmethod
    def fits(cls, model: HierarchicalVAE) -> bool:
        """Tell whether the model is of this form."""
        rungs = [*model.inference, *[*model.generative][:-1]]
        return (
            model.direction == "bottom_up"
            and isinstance(model.generative[-1], StandardNormal)
            and all(isinstance(rung, Conditional) and Dense.fits(rung.network) for rung in rungs)
            and all(rung.family in DENSITIES for rung in rungs)
        )

    @torch.no_grad()
    def __call__(self, x: Float[Tensor, "batch units"], draws: int, at: float) -> tuple[ELBO, Float[Tensor, ""]]:
        """Return the terms at `draws` draws and the loss at epoch `at`."""
        depth, rows = len(self.up), draws * len(x)
        z = [x.repeat(draws, 1) if draws > 1 else x]
        terms = x.new_empty(depth + 1, rows)  # log p(x | .) and the rates
        log_q = []
        for t, (network, q) in enumerate(zip(self.up, self.q, strict=True)):  # (20)
            below = [x] if t == 0 else self._parents(z[::-1])
            node, found = q.draw(network.forward(_together(below)), draws if t == 0 else 1)
            z.append(node)
            log_q.append(found)
        log_p = [  # (19)
            p.log_p(network.forward(_together(self._parents(z[t + 1 :]))), z[t])
            for t, (network, p) in enumerate(zip(self.down, self.p, strict=True))
        ]
        log_p.append(standard_normal(z[-1]))
        terms[0] = log_p[0]
        for t in range(1, depth + 1):
            torch.sub(log_q[t - 1], log_p[t], out=terms[t])
        bound = ELBO(terms[0].view(draws, -1), terms[1:].view(depth, draws, -1))
        loss, by_reconstruction, by_rate = self.loss.slopes(bound, at)
        slopes = [_column(slope) for slope in (by_reconstruction, *by_rate)]

        by_z = [buffers("by_z", (rows, node.shape[1]), x) for buffers, node in zip(self.by_z, z[1:], strict=True)]
        torch.mul(z[-1], slopes[-1], out=by_z[-1])
        for by_node in by_z[:-1]:
            by_node.zero_()
        for t, (network, p) in enumerate(zip(self.down, self.p, strict=True)):
            by_raw = p.slopes(slopes[0] if t == 0 else -slopes[t], by_z[t - 1] if t else None)
            self._share(network.backward(by_raw), by_z[t:])
        for t in reversed(range(depth)):
            by_context = self.up[t].backward(self.q[t].slopes(by_z[t], slopes[t + 1]), wanted=t > 0)
            self._share(by_context, by_z[:t][::-1])
        return bound, loss

    def _parents(self, ancestors: Sequence[Tensor]) -> Sequence[Tensor]:
        return ancestors if self.every else ancestors[:1]

    def _share(self, by_context: Tensor | None, by_nodes: Sequence[Tensor]) -> None:
        """Add a context's derivative to those of the latent nodes in it, the nearest first; x needs none."""
        start = 0
        for by_node in self._parents(by_nodes):
            assert by_context is not None
            by_node += by_context[:, start : start + by_node.shape[1]]
            start += by_node.shape[1]


def _together(nodes: Sequence[Tensor]) -> Tensor:
    return nodes[0] if len(nodes) == 1 else torch.cat(list(nodes), dim=1)


def _column(slope: Tensor) -> Tensor:
    return slope.reshape(-1, 1)
