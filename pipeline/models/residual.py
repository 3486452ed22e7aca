"""Rungs above the first that start as a diffusion's steps, for `model.parametrization: residual`.

    q(z_t | z_t-1) = N(a z_t-1 + f(z_t-1, ..), s^2),    p(z_t-1 | z_t) = N(a z_t + g(z_t, ..), s^2),    a^2 + s^2 = 1

f, g and what the networks add to the scales start at 0. Where z_t-1 ~ N(0, I), so is then z_t, and p(z_t-1 | z_t) is
the exact reverse of q(z_t | z_t-1): above z_1 the chain starts without any divergence. Of two levels of different
widths a step connects the units that both have, the first ones (of maps the first channels, evenly spaced), and all
others start at N(0, 1), independent of the parent; so both steps stay exact and their covariances diagonal.

In the ladder, q(z_t | z_t+1, x) is N(mu_p + sigma_p m(x), (sigma_p r(x))^2) below the top; m starts at 0, r at 1.

Luo (2022), part 2, as in `hierarchy`; Vahdat, Kautz, "NVAE" (2020), section 3.2, https://arxiv.org/abs/2007.03898
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pipeline.data import Shape
from pipeline.distributions import SMALLEST_SIGMA

__all__ = ["KEPT", "NoiseStep", "zero_last"]

KEPT = math.sqrt(0.5)  # a: half of a unit's variance at the start


class NoiseStep(nn.Sequential):
    """A network to the mean and the raw scale of a level, to which a times the nearest parent is added."""

    source: Tensor
    target: Tensor

    def __init__(self, network: nn.Sequential, parent: Shape, child: Shape) -> None:
        super().__init__(*zero_last(network))
        self.register_buffer("source", _common(parent, child), persistent=False)
        self.register_buffer("target", _common(child, parent), persistent=False)
        scale = torch.ones(math.prod(child), dtype=torch.float64)
        scale[self.target] = math.sqrt(1 - KEPT**2)
        with torch.no_grad():
            raw = (scale - SMALLEST_SIGMA).expm1().log()
            self[-1].bias.copy_(torch.cat([torch.zeros_like(raw), raw]))  # type: ignore[operator]

    def forward(self, input: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch two_units"]:
        """Return the raw numbers; the nearest parent comes first in the input."""
        raw: Tensor = super().forward(input)  # type: ignore[no-untyped-call]
        return raw.index_add(-1, self.target, KEPT * input[..., self.source])


def zero_last(network: nn.Sequential) -> nn.Sequential:
    """Return the network, its last weights set to 0, so that only its last bias is left."""
    weights = getattr(network[-1], "weight", None)
    if weights is None:
        weights = [value for value in network.parameters() if value.dim() > 1][-1]
    nn.init.zeros_(weights)
    return network


def _common(shape: Shape, other: Shape) -> Tensor:
    """Return the places of the units of a level that one of another shape has too."""
    index = torch.arange(math.prod(shape)).view(shape)
    for axis, (size, count) in enumerate(zip(shape, map(min, shape, other), strict=True)):
        index = index.index_select(axis, torch.arange(count) * size // count if axis else torch.arange(count))
    return index.flatten()
