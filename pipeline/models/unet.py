"""The U-Net: convolutions down to smaller maps and up again, each map on the way up seeing that on the way down.

Ronneberger, Fischer, Brox, "U-Net" (2015), https://arxiv.org/abs/1505.04597
Ho, Jain, Abbeel, "Denoising Diffusion Probabilistic Models" (2020), appendix B, https://arxiv.org/abs/2006.11239
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.data import Shape
from pipeline.models.denoiser import FEATURES
from pipeline.models.layers import glorot
from pipeline.models.resnet import active
from pipeline.params import halvings

__all__ = ["UNet"]


class LevelBlock(nn.Module):
    """A residual block of so many channels, to which the features of a level add a number each."""

    def __init__(self, channels: int, level: int, activation: str) -> None:
        super().__init__()
        self.before = nn.Sequential(*active(channels, activation), glorot(nn.Conv2d(channels, channels, 3, padding=1)))
        self.level = glorot(nn.Linear(level, channels))
        self.after = nn.Sequential(*active(channels, activation), glorot(nn.Conv2d(channels, channels, 3, padding=1)))

    def forward(self, x: Float[Tensor, "rows channels height width"], level: Float[Tensor, "#rows level"]) -> Tensor:
        """Return x + f(x, level)."""
        y: Tensor = x + self.after(self.before(x) + self.level(level)[..., None, None])
        return y


class UNet(nn.Module):
    """From two images of a shape and the features of a level to so many raw numbers, planes of the same size.

    They are 0 at the start. Maps have hidden[0] channels at the size of the image, hidden[1] at half of it, and so on.
    """

    def __init__(
        self, shape: Shape, numbers: int, hidden: Sequence[int], activation: str, blocks: int, level: int = FEATURES
    ) -> None:
        super().__init__()
        channels, height, width = 2 * shape[0], *shape[1:]
        self.shape, self.sizes = (channels, height, width), halvings((height, width), len(hidden) - 1)
        self.first = glorot(nn.Conv2d(channels, hidden[0], 3, padding=1))
        self.down = nn.ModuleList(
            nn.ModuleList(LevelBlock(width, level, activation) for _ in range(blocks)) for width in hidden
        )
        self.smaller = nn.ModuleList(
            glorot(nn.Conv2d(lower, upper, 3, stride=2, padding=1)) for lower, upper in pairwise(hidden)
        )
        self.larger = nn.ModuleList(glorot(nn.Conv2d(upper, lower, 1)) for lower, upper in pairwise(hidden))
        self.up = nn.ModuleList(
            nn.ModuleList(LevelBlock(width, level, activation) for _ in range(blocks)) for width in hidden
        )
        self.last = nn.Sequential(
            *active(hidden[0], activation), nn.Conv2d(hidden[0], numbers // (height * width), 3, padding=1, bias=False)
        )
        nn.init.zeros_(self.last[-1].weight)  # type: ignore[arg-type]

    def forward(self, z: Float[Tensor, "*rows units"], level: Float[Tensor, "*#rows features"]) -> Tensor:
        """Return raw numbers [..., numbers] at the features of a level, which broadcast."""
        rows = math.prod(z.shape[:-1])
        level = level.expand(*z.shape[:-1], -1).reshape(rows, -1) if level[..., 0].numel() > 1 else level.view(1, -1)
        h = self.first(z.reshape(rows, *self.shape))
        skips = []
        for index, blocks in enumerate(self.down):
            h = self.smaller[index - 1](h) if index else h
            for block in blocks:  # type: ignore[attr-defined]
                h = block(h, level)
            skips.append(h)
        for index in reversed(range(len(self.up))):
            if index < len(self.larger):
                h = skips[index] + F.interpolate(self.larger[index](h), self.sizes[index])
            for block in self.up[index]:  # type: ignore[attr-defined]
                h = block(h, level)
        raw: Tensor = torch.flatten(self.last(h), 1).unflatten(0, z.shape[:-1])
        return raw
