"""The gradient of a bottom-up hierarchy of dense Gaussian rungs over a Bernoulli or Gaussian image, derived by hand.

The loss is a function of the terms alone. Its derivatives by log p(x | .) and by every rate, `slopes`, are carried down
from rung to rung, first through (19), then through (20) from the top to the data:

    by z_t = that by log p(z_t | .) + what every rung passes back that has z_t in its context

No graph is built: at batch 20 that, and not arithmetic, is what most of a step consists of.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.distributions import LATENT, LIKELIHOODS, Conditional, StandardNormal
from pipeline.gradients.dense import Dense
from pipeline.gradients.densities import Density, Drawn, bernoulli, gaussian, standard_normal
from pipeline.gradients.plain import Loss
from pipeline.models import HierarchicalVAE
from pipeline.objectives import ELBO

__all__ = ["Chain"]

DENSITIES = {LIKELIHOODS["bernoulli"]: bernoulli, LIKELIHOODS["gaussian"]: gaussian, LATENT: gaussian}


class Chain:
    """Computes the terms of a batch, and leaves the loss's gradient in the weights."""

    def __init__(self, model: HierarchicalVAE, loss: Loss) -> None:
        self.loss, self.every = loss, model.parents == "every"
        rungs: list[Conditional] = [*model.generative][:-1]
        self.up = [Dense(rung.network) for rung in model.inference]  # type: ignore[arg-type]
        self.down = [Dense(rung.network) for rung in rungs]  # type: ignore[arg-type]
        self.densities = [DENSITIES[rung.family] for rung in rungs]
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
        depth, shape = len(self.up), (draws, len(x))
        x_rows = x.repeat(draws, 1) if draws > 1 else x
        z, q = [x_rows], []
        for t, network in enumerate(self.up):  # (20)
            below = [x] if t == 0 else self._parents(z[::-1])
            q.append(Drawn(network.forward(_together(below)), draws if t == 0 else 1))
            z.append(q[t].z)
        p: list[Density] = [  # (19)
            density(network.forward(_together(self._parents(z[t + 1 :]))), z[t])
            for t, (network, density) in enumerate(zip(self.down, self.densities, strict=True))
        ]
        log_p = [*(found for found, _ in p), standard_normal(z[-1])]
        rate = torch.stack([drawn.log_q - found for drawn, found in zip(q, log_p[1:], strict=True)])
        bound = ELBO(log_p[0].view(shape), rate.view(depth, *shape))
        loss, by_reconstruction, by_rate = self.loss.slopes(bound, at)
        rows = [_rows(slope) for slope in (by_reconstruction, *by_rate)]

        by_z: list[Tensor] = [torch.zeros_like(node) for node in z[1:]]  # of z_1, ..., z_T
        by_z[-1] = z[-1] * rows[-1]
        for t, ((_, slopes), network) in enumerate(zip(p, self.down, strict=True)):
            by_raw, by_node = slopes(rows[0] if t == 0 else -rows[t])
            if t and by_node is not None:
                by_z[t - 1] += by_node
            self._share(network.backward(by_raw), by_z[t:])
        for t in reversed(range(depth)):
            by_context = self.up[t].backward(q[t].slopes(by_z[t], rows[t + 1]), wanted=t > 0)
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


def _rows(slope: Tensor) -> Tensor:
    return slope.reshape(-1, 1)
