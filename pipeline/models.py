"""The hierarchical VAE, of any depth.

Write z_0 = x. Joint and posterior are products over the same rungs:

    p(x, z_1:T) = p(z_T) prod_{t=1..T} p(z_{t-1} | parents)          (19)
    q(z_1:T | x) =       prod_{t=1..T} q(z_t | parents)              (20)

The parents of a rung are its nearest neighbour on the side it is conditioned on (`nearest`, the Markov chain
of the MHVAE) or every node on that side (`every`, the HVAE); at depth 1 both are the VAE. A node is a tensor
[draws, batch, units]; x enters as [1, batch, units] and broadcasts.

Luo, "Understanding Diffusion Models: A Unified Perspective" (2022), https://arxiv.org/abs/2208.11970
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution

from pipeline.distributions import LATENT, LIKELIHOODS, Conditional, Family, StandardNormal, noncentred
from pipeline.params import ModelParams

__all__ = ["NETWORKS", "PRIORS", "HierarchicalVAE", "build"]


class HierarchicalVAE(nn.Module):
    """A chain of conditionals up (inference) and down (generative).

    Args:
        generative: p(x | .), p(z_1 | .), ..., p(z_T); the last is called without parents.
        inference: q(z_1 | .), ..., q(z_T | .).
        parents: what a conditional sees of its ancestors, the nearest node or every one (nearest first).
    """

    def __init__(
        self,
        generative: Iterable[nn.Module],
        inference: Iterable[nn.Module],
        parents: Literal["nearest", "every"],
    ) -> None:
        super().__init__()
        self.generative = nn.ModuleList(generative)
        self.inference = nn.ModuleList(inference)
        self.parents = parents
        if len(self.generative) != len(self.inference) + 1:
            raise ValueError(f"{len(self.inference)} levels need one more generative rung, not {len(self.generative)}")

    @property
    def depth(self) -> int:
        """T, the number of latent levels."""
        return len(self.inference)

    def _parents(self, ancestors: Sequence[Tensor]) -> Sequence[Tensor]:
        return ancestors if self.parents == "every" else ancestors[:1]

    def posterior(
        self, x: Float[Tensor, "batch units"], draws: int = 1
    ) -> tuple[list[Float[Tensor, "_ batch _"]], list[Distribution]]:
        """Draw z_1:T from (20): return the nodes [x, z_1, ..., z_T] and the T factors of q."""
        z, q = [x[None]], []
        for rung in self.inference:
            q_t = rung(*self._parents(z[::-1])).expand((draws, len(x)))
            z.append(q_t.rsample())
            q.append(q_t)
        return z, q

    def joint(self, z: Sequence[Float[Tensor, "_ batch _"]]) -> list[Distribution]:
        """Return the factors of (19) at the nodes z: p(x | .), p(z_1 | .), ..., p(z_T)."""
        return [rung(*self._parents(z[t + 1 :])) for t, rung in enumerate(self.generative)]

    def sample(self, count: int) -> list[Float[Tensor, "count _"]]:
        """Draw `count` times from (19), top level first; return the nodes [x, z_1, ..., z_T]."""
        z: list[Tensor] = []
        for rung in reversed(self.generative):
            z.insert(0, rung(*self._parents(z)).expand((count,)).sample())
        return z

    def descend(self, noise: Sequence[Float[Tensor, "*batch _"]]) -> tuple[list[Tensor], list[Distribution]]:
        """Return the nodes [z_1, ..., z_T] at z_t = mu_t + sigma_t * noise_t, and the factors of (19) at them.

        `noise` is given for levels 1 to T. In these non-centred coordinates the levels are independent a
        priori, N(0, I) whatever the depth and the parents.
        """
        z: list[Tensor] = []
        p: list[Distribution] = []
        for rung, eps in zip(reversed(self.generative[1:]), reversed(noise), strict=True):
            p.insert(0, rung(*self._parents(z)))
            z.insert(0, noncentred(p[0], eps))
        return z, [self.generative[0](*self._parents(z)), *p]

    def decode(self, noise: Sequence[Float[Tensor, "count _"]]) -> Float[Tensor, "count units"]:
        """Return E[x | z_1:T] at z_t = mu_t + sigma_t * noise_t, `noise` given for levels 1 to T.

        One level's decision can be taken again with all others held.
        """
        x: Tensor = self.descend(noise)[1][0].mean
        return x


def mlp(inputs: int, outputs: int, hidden: Sequence[int], activation: str) -> nn.Sequential:
    """Return a multilayer perceptron, Glorot-uniform weights and zero biases."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in zip([inputs, *hidden], [*hidden, outputs], strict=True):
        layer = nn.Linear(fan_in, fan_out)
        nn.init.xavier_uniform_(layer.weight)
        nn.init.zeros_(layer.bias)
        layers += [layer, ACTIVATIONS[activation]()]
    return nn.Sequential(*layers[:-1])


ACTIVATIONS: dict[str, type[nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "silu": nn.SiLU,
}
NETWORKS: dict[str, Callable[[int, int, Sequence[int], str], nn.Sequential]] = {"mlp": mlp}
PRIORS: dict[str, type[StandardNormal]] = {"normal": StandardNormal}


def build(params: ModelParams, mean: Float[Tensor, " units"]) -> HierarchicalVAE:
    """Build the model that `params` describes for data of mean `mean`, a vector of all its units.

    The output bias starts at the data's mean; the biases of every latent conditional start at N(0, I).
    """
    widths = [len(mean), *params.level_widths]

    def conditional(rung: int, child: int, ancestors: Sequence[int], family: Family, at: Tensor) -> Conditional:
        inputs = sum(widths[node] for node in (ancestors if params.parents == "every" else ancestors[:1]))
        hidden = params.hidden[min(rung, len(params.hidden) - 1)]
        network = NETWORKS[params.network](inputs, family.per_unit * widths[child], hidden, params.activation)
        with torch.no_grad():
            network[-1].bias.copy_(family.bias(at))  # type: ignore[operator]
        return Conditional(network, family)

    levels = range(1, params.depth + 1)
    inference = [conditional(t - 1, t, range(t - 1, -1, -1), LATENT, torch.zeros(widths[t])) for t in levels]
    likelihood = LIKELIHOODS[params.likelihood]
    generative: list[nn.Module] = [
        conditional(
            t - 1,
            t - 1,
            range(t, params.depth + 1),
            likelihood if t == 1 else LATENT,
            mean if t == 1 else torch.zeros(widths[t - 1]),
        )
        for t in levels
    ]
    return HierarchicalVAE([*generative, PRIORS[params.prior](widths[-1])], inference, params.parents)
