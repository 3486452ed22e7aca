"""The hierarchical VAE, of any depth.

Write z_0 = x. Joint and posterior are products over the same rungs:

    p(x, z_1:T) = p(z_T) prod_{t=1..T} p(z_{t-1} | parents)          (19)
    q(z_1:T | x) =       prod_{t=1..T} q(z_t | parents)              (20), bottom-up
    q(z_1:T | x) = q(z_T | x) prod_{t<T} q(z_t | z_t+1.., x)         top-down, the ladder

The parents of a rung are its nearest neighbour on the side it is conditioned on (`nearest`, the Markov chain
of the MHVAE) or every node on that side (`every`, the HVAE); at depth 1 both are the VAE. A node is a tensor
[draws, batch, units]; x enters as [1, batch, units] and broadcasts.

The ladder's bottom-up pass computes from x the evidence N(mu_hat_t, sigma_hat_t^2) of every level without drawing
anything. Top-down, q(z_t | .) is that evidence merged with the generative p(z_t | parents), whose networks it shares.
In a diffusion (`pipeline.models.diffusion`) it is merged with a message of q's own chain, and nothing of q is learned.

Luo, "Understanding Diffusion Models: A Unified Perspective" (2022), https://arxiv.org/abs/2208.11970
Sønderby et al., "Ladder Variational Autoencoders" (2016), https://arxiv.org/abs/1602.02282
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.func import functional_call

from pipeline.distributions import bottom_up_pass, merge, reparameterize
from pipeline.models.diffusion import Diffusion

__all__ = ["HierarchicalVAE"]


class HierarchicalVAE(nn.Module):
    """A chain of conditionals up (inference) and down (generative).

    Args:
        generative: p(x | .), p(z_1 | .), ..., p(z_T); the last is called without parents.
        inference: q(z_1 | .), ..., q(z_T | .), or the T steps of the way up where it is `top_down`.
        parents: what a conditional sees of its ancestors, the nearest node or every one (nearest first).
        direction: in which the factors of the posterior follow each other.
        diffusion: what the rungs share, and where q's own messages come from, if the chain is a diffusion.
    """

    def __init__(
        self,
        generative: Iterable[nn.Module],
        inference: Iterable[nn.Module],
        parents: Literal["nearest", "every"],
        direction: Literal["bottom_up", "top_down"] = "bottom_up",
        diffusion: Diffusion | None = None,
    ) -> None:
        super().__init__()
        self.generative = nn.ModuleList(generative)
        self.inference = nn.ModuleList(inference)
        self.parents = parents
        self.direction = direction
        self.diffusion = diffusion
        if len(self.generative) != len(self.inference) + 1:
            raise ValueError(f"{len(self.inference)} levels need one more generative rung, not {len(self.generative)}")

    @property
    def depth(self) -> int:
        """T, the number of latent levels."""
        return len(self.inference)

    def _parents(self, ancestors: Sequence[Tensor]) -> Sequence[Tensor]:
        return ancestors if self.parents == "every" else ancestors[:1]

    def _message(self, t: int) -> Callable[..., Distribution]:
        """Return what gives the normal over z_t, from the levels above, that the ladder merges evidence with."""
        return self.generative[t] if self.diffusion is None else partial(self.diffusion.message, t)

    @property
    def order(self) -> Sequence[int]:
        """The levels in the order in which the posterior draws them."""
        levels = range(1, self.depth + 1)
        return levels if self.direction == "bottom_up" else levels[::-1]

    def posterior(
        self,
        x: Float[Tensor, "batch units"],
        draws: int = 1,
        prefix: Sequence[Float[Tensor, "_ batch _"]] = (),
        noise: Sequence[Float[Tensor, "_ batch _"]] | None = None,
    ) -> tuple[list[Float[Tensor, "_ batch _"]], list[Distribution]]:
        """Draw z_1:T from (20) or the ladder: return the nodes [x, z_1, ..., z_T] and the factors of q, T of them.

        `prefix` holds draws of the first levels, in the order in which the posterior draws them; only the levels after
        them are drawn, and the factors are those of these levels. With `noise`, that of levels 1 to T,
        z_t = mu_t + sigma_t * noise_t takes the place of a draw from q(z_t | .).
        """
        if self.direction == "top_down":
            return self._posterior_top_down(x, draws, prefix, noise)
        z, q = [x[None], *prefix], []
        for t, rung in enumerate(self.inference[len(prefix) :], start=len(prefix)):
            q_t = rung(*self._parents(z[::-1])).expand((draws, len(x)))
            z.append(q_t.rsample() if noise is None else reparameterize(q_t, noise[t]))
            q.append(q_t)
        return z, q

    def pathwise_draws(
        self, x: Float[Tensor, "batch units"], draws: int = 1
    ) -> tuple[list[Float[Tensor, "_ batch _"]], list[Float[Tensor, "_ batch _"]]]:
        """Draw as `posterior` does, and return z_1:T twice: as functions of the encoder's weights, and of p's weights.

        In the ladder the draws depend on the weights of p(z_t | .) too. The second list has the same values and
        carries the gradient through those weights alone; the first carries the gradient through the encoder alone.
        Bottom-up, and at depth 1, no weights are shared and the second list is empty.
        """
        if self.direction == "bottom_up" or self.depth == 1:
            return self.posterior(x, draws)[0][1:], []
        nodes = self._posterior_top_down(x, draws, (), None, _detached)[0][1:]
        *evidence, _ = bottom_up_pass(map(_detached, self.inference), x[None])
        shared = [nodes[-1].detach()]
        for t in reversed(range(1, self.depth)):
            q_t = merge(self._message(t)(*self._parents(shared)), evidence[t - 1])
            mean, scale = q_t.mean, q_t.stddev
            z_t = nodes[t - 1].detach()
            # z_t = mean + scale * noise with the noise of the draw: its value is z_t, bit for bit.
            noise = (z_t - mean.detach()) / scale.detach()
            shared.insert(0, z_t + (mean - mean.detach()) + (scale - scale.detach()) * noise)
        return nodes, shared

    def _posterior_top_down(
        self,
        x: Float[Tensor, "batch units"],
        draws: int,
        prefix: Sequence[Tensor],
        noise: Sequence[Tensor] | None,
        wrap: Callable[[Any], Callable[..., Any]] = lambda rung: rung,
    ) -> tuple[list[Tensor], list[Distribution]]:
        evidence = bottom_up_pass(self.inference, x[None])
        z: list[Tensor] = list(reversed(prefix))
        q: list[Distribution] = []
        for t in reversed(range(1, self.depth + 1 - len(prefix))):
            q_t = evidence[t - 1]
            if t < self.depth:
                q_t = merge(wrap(self._message(t))(*self._parents(z)), q_t)
            q.insert(0, q_t.expand((draws, len(x))))
            z.insert(0, q[0].rsample() if noise is None else reparameterize(q[0], noise[t - 1]))
        return [x[None], *z], q

    def posterior_at(self, z: Sequence[Float[Tensor, "_ #batch _"]]) -> list[Distribution]:
        """Return the factors of q at the nodes z = [x, z_1, ..., z_T], whose leading dimensions broadcast."""
        return self._factors(z, lambda rung: rung)

    def detached_posterior(self, z: Sequence[Float[Tensor, "_ batch _"]]) -> list[Distribution]:
        """Return the factors of q at the nodes z with the encoder's weights held constant.

        Gradients reach the nodes and, in the ladder, the weights of p that q is merged with.
        """
        return self._factors(z, _detached)

    def _factors(self, z: Sequence[Tensor], wrap: Callable[[nn.Module], Callable[..., Any]]) -> list[Distribution]:
        if self.direction == "bottom_up":
            return [wrap(rung)(*self._parents(z[t::-1])) for t, rung in enumerate(self.inference)]
        *evidence, top = bottom_up_pass(map(wrap, self.inference), z[0])
        p = [self._message(t)(*self._parents(z[t + 1 :])) for t in range(1, self.depth)]
        return [*map(merge, p, evidence), top]

    def joint(self, z: Sequence[Float[Tensor, "_ batch _"]]) -> list[Distribution]:
        """Return the factors of (19) at the nodes z: p(x | .), p(z_1 | .), ..., p(z_T)."""
        return [rung(*self._parents(z[t + 1 :])) for t, rung in enumerate(self.generative)]

    def redraw(self, z: Sequence[Float[Tensor, "_ batch _"]], highest: int) -> list[Float[Tensor, "_ batch _"]]:
        """Return the nodes z = [x, z_1, ..., z_T] with z_1, ..., z_highest drawn anew from p, given the levels above.

        Raises:
            ValueError: no level is above `highest`.
        """
        if not 0 <= highest < self.depth:
            raise ValueError(f"levels 1 to {highest} cannot be drawn given levels above, of {self.depth} levels")
        nodes = list(z)
        for t in range(highest, 0, -1):
            nodes[t] = self.generative[t](*self._parents(nodes[t + 1 :])).sample()
        return nodes

    def sample(self, count: int) -> list[Float[Tensor, "count _"]]:
        """Draw `count` times from (19), top level first; return the nodes [x, z_1, ..., z_T]."""
        z: list[Tensor] = []
        for rung in reversed(self.generative):
            z.insert(0, rung(*self._parents(z)).expand((count,)).sample())
        return z

    def decode_noncentered(self, noise: Sequence[Float[Tensor, "*batch _"]]) -> tuple[list[Tensor], list[Distribution]]:
        """Return the nodes [z_1, ..., z_T] at z_t = mu_t + sigma_t * noise_t, and the factors of (19) at them.

        `noise` is given for levels 1 to T. In these non-centred coordinates the levels are independent a
        priori, N(0, I) whatever the depth and the parents.
        """
        z: list[Tensor] = []
        p: list[Distribution] = []
        for rung, eps in zip(reversed(self.generative[1:]), reversed(noise), strict=True):
            p.insert(0, rung(*self._parents(z)))
            z.insert(0, reparameterize(p[0], eps))
        return z, [self.generative[0](*self._parents(z)), *p]

    def decode(self, z: Sequence[Float[Tensor, "*batch _"]]) -> Float[Tensor, "*batch units"]:
        """Return E[x | z_1:T] at the latents z_1, ..., z_T; where the parents are the `nearest`, z_1 is enough."""
        x: Tensor = self.generative[0](*self._parents(z)).mean
        return x

    def decode_noise(self, noise: Sequence[Float[Tensor, "count _"]]) -> Float[Tensor, "count units"]:
        """Return E[x | z_1:T] at z_t = mu_t + sigma_t * noise_t, `noise` given for levels 1 to T.

        One level's decision can be taken again with all others held. Noise from N(0, I) gives z_1:T from the
        model, whatever the prior.
        """
        x: Tensor = self.decode_noncentered(noise)[1][0].mean
        return x


def _detached(rung: Callable[..., Any]) -> Callable[..., Any]:
    """Return `rung` as a function in which its weights, if it has any, are constants."""
    if not isinstance(rung, nn.Module):
        return rung
    weights = {name: value.detach() for name, value in rung.named_parameters()}
    return lambda *parents: functional_call(rung, weights, parents)
