"""Priors p(z_T): conditionals without parents.

    StandardNormal    N(0, I)                                                                             (16)
    Mixture           sum_k pi_k N(mu_k, diag sigma_k^2), all of it learned
    Vamp              1/K sum_k q(z_T | u_k), the pseudo-inputs u_k learned

What u_k is depends on what the top rung of the inference sees. At depth 1, and for top-down inference at any
depth, it is an image: the sigmoid of K learned vectors, started at the data's mean and noise. For bottom-up
inference of more levels q(z_T | x) is itself an intractable mixture over z_1:T-1, so u_k are the *parents* of
the top rung (z_{T-1}, or every node below z_T where `every` node is a parent): the components are the rung's own
conditionals, and the density is exact.

Tomczak, Welling, "VAE with a VampPrior" (2018), https://arxiv.org/abs/1705.07120
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, MixtureSameFamily

from pipeline.distributions.families import diag_gaussian
from pipeline.distributions.gaussian import DiagGaussian

__all__ = ["Mixture", "StandardNormal", "Vamp"]


class StandardNormal(nn.Module):
    """The prior p(z_T) = N(0, I) of equation (16): a conditional without parents."""

    zero: Tensor

    def __init__(self, units: int) -> None:
        super().__init__()
        self.register_buffer("zero", torch.zeros(units), persistent=False)

    def forward(self) -> Distribution:
        """Return N(0, I) over `units` dimensions."""
        return DiagGaussian(self.zero, torch.ones_like(self.zero))


class Mixture(nn.Module):
    """K learned diagonal Gaussians; they start with means drawn from N(0, I), deviation 1 and equal weights."""

    def __init__(self, units: int, components: int) -> None:
        super().__init__()
        spread = math.log(math.expm1(1))
        self.weight = nn.Parameter(torch.zeros(components))
        self.raw = nn.Parameter(torch.cat([torch.randn(components, units), torch.full((components, units), spread)], 1))

    def forward(self) -> Distribution:
        """Return the mixture over `units` dimensions."""
        return _mixture(self.weight, diag_gaussian(self.raw))


class Vamp(nn.Module):
    """The equal mixture of the top inference conditional at K learned pseudo-inputs.

    Args:
        top: q(z_T | parents) as the model has it; its weights stay the model's own.
        parents: starting values [K, units] of each parent, unbounded.
        image: is the last parent an image, in [0, 1] by a sigmoid?
    """

    weight: Tensor

    def __init__(
        self, top: Callable[..., Distribution], parents: Sequence[Float[Tensor, "components _"]], image: bool
    ) -> None:
        super().__init__()
        self._top = top  # not a module here: its weights are listed once, under the inference
        self.image = image
        self.pseudo = nn.ParameterList([nn.Parameter(start) for start in parents])
        self.register_buffer("weight", torch.zeros(len(parents[0])), persistent=False)

    def pseudo_inputs(self) -> list[Float[Tensor, "components _"]]:
        """Return the pseudo-inputs, one tensor a parent, the nearest first."""
        *nearer, last = self.pseudo
        return [*nearer, torch.sigmoid(last) if self.image else last]

    def forward(self) -> Distribution:
        """Return the mixture over the units of z_T."""
        return _mixture(self.weight, self._top(*self.pseudo_inputs()))


def _mixture(logits: Tensor, components: Distribution) -> Distribution:
    return MixtureSameFamily(Categorical(logits=logits, validate_args=False), components, validate_args=False)
