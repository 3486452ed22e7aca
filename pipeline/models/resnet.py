"""Residual convolutions with group normalization, between an image and a vector, or between the maps of two nodes.

    block(u) = u + f(u),      f = convolution . activation . norm . convolution . activation . norm

`down` halves height and width once for each entry of `hidden`, by convolutions of stride 2 with blocks after each;
`up` is its mirror, where nearest neighbours fill the larger map. A norm is over groups of channels of one example,
so that an example's outputs depend on no other, in training and in evaluation.

Wu, He, "Group Normalization" (2018), https://arxiv.org/abs/1803.08494
He et al., "Identity Mappings in Deep Residual Networks" (2016), https://arxiv.org/abs/1603.05027
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.data import Shape
from pipeline.models.layers import ACTIVATIONS, Bias, Image, Rows, glorot, mlp
from pipeline.params import halvings

__all__ = ["active", "maps", "resnet"]

GROUPS = 8  # at most
SMALLEST_GROUP = 4  # channels of a group, where there are as many


class Block(nn.Module):
    """A residual block of so many channels."""

    def __init__(self, channels: int, activation: str) -> None:
        super().__init__()
        half = [[*active(channels, activation), _convolution(channels, channels)] for _ in range(2)]
        self.inner = nn.Sequential(*half[0], *half[1])

    def forward(self, x: Float[Tensor, "rows channels height width"]) -> Float[Tensor, "rows channels height width"]:
        """Return x + f(x)."""
        y: Tensor = x + self.inner(x)
        return y


class Maps(nn.Module):
    """Vectors of maps, one after another, as channels of one size: larger maps are averaged, smaller ones repeated."""

    def __init__(self, shapes: Sequence[Shape], size: tuple[int, int]) -> None:
        super().__init__()
        self.shapes, self.size = list(shapes), size

    def forward(self, x: Float[Tensor, "rows _"]) -> Float[Tensor, "rows channels height width"]:
        """Return the channels of all maps."""
        parts = x.split([math.prod(shape) for shape in self.shapes], dim=-1)
        unfolded = [part.unflatten(-1, shape) for part, shape in zip(parts, self.shapes, strict=True)]
        return torch.cat(list(map(self._resized, unfolded)), 1)

    def _resized(self, x: Float[Tensor, "rows channels _ _"]) -> Float[Tensor, "rows channels height width"]:
        if tuple(x.shape[-2:]) == self.size:
            return x
        larger = x.shape[-2] > self.size[0] or x.shape[-1] > self.size[1]
        return F.adaptive_avg_pool2d(x, self.size) if larger else F.interpolate(x, self.size)


def resnet(
    inputs: int,
    outputs: int,
    hidden: Sequence[int],
    activation: str,
    batch_norm: bool = False,
    image: Image | None = None,
    blocks: int = 1,
) -> nn.Sequential:
    """Return the network from or to an image, with `blocks` blocks at each size; an mlp without image."""
    if image is None or not hidden:
        return mlp(inputs, outputs, hidden, activation, batch_norm)
    sizes = halvings(image.shape[1:], len(hidden))
    small: Shape = (hidden[-1], *sizes[-1])
    if image.side == "input":
        large: Shape = (inputs // math.prod(sizes[0]), *sizes[0])
        encoder = Rows(nn.Unflatten(1, large), *_down(large[0], hidden, activation, blocks), nn.Flatten())
        return nn.Sequential(encoder, glorot(nn.Linear(math.prod(small), outputs)))
    planes = outputs // math.prod(sizes[0])
    decoder = Rows(nn.Unflatten(1, small), *_up(sizes, hidden, planes, activation, blocks), nn.Flatten())
    return nn.Sequential(glorot(nn.Linear(inputs, math.prod(small))), decoder, Bias(outputs))


def maps(
    inputs: Sequence[Shape],
    output: Shape,
    hidden: Sequence[int],
    side: Literal["input", "output"],
    activation: str,
    blocks: int = 1,
    halve: bool = True,
) -> nn.Sequential:
    """Return the network from the maps `inputs`, the first of which is next to the map `output`.

    `side` is that of the larger map: an output is larger by as many doublings as there are entries in `hidden`, and
    equally large without `halve`.
    """
    gather = Maps(inputs, inputs[0][1:])
    channels = sum(shape[0] for shape in inputs)
    if side == "input" or not hidden:
        down = _down(channels, hidden, activation, blocks, 2 if halve else 1)
        layers = [*down, _convolution(hidden[-1] if hidden else channels, output[0])]
    else:
        sizes = halvings(output[1:], len(hidden)) if halve else [output[1:]] * (len(hidden) + 1)
        up = _up(sizes, hidden, output[0], activation, blocks)
        layers = [_convolution(channels, hidden[-1]), *up]
    return nn.Sequential(Rows(gather, *layers, nn.Flatten()), Bias(math.prod(output)))


def _down(channels: int, hidden: Sequence[int], activation: str, blocks: int, stride: int = 2) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for lower, upper in pairwise([channels, *hidden]):
        layers += [_convolution(lower, upper, stride), *(Block(upper, activation) for _ in range(blocks))]
    return [*layers, *active(hidden[-1], activation)] if hidden else layers


def _up(
    sizes: Sequence[tuple[int, int]], hidden: Sequence[int], planes: int, activation: str, blocks: int
) -> list[nn.Module]:
    """Return the layers from a map of hidden[-1] channels at the last of the sizes to `planes` at the first."""
    layers: list[nn.Module] = []
    for size, (lower, upper) in zip(sizes[-2::-1], list(pairwise([planes, *hidden]))[::-1], strict=True):
        layers += [Block(upper, activation) for _ in range(blocks)]
        layers += [nn.Upsample(size=size), _convolution(upper, lower)]
    return [*layers[:-2], *active(hidden[0], activation), *layers[-2:]]


def active(channels: int, activation: str) -> list[nn.Module]:
    """Return a norm and an activation; a group of few channels could be a single number, whose norm is 0."""
    most = min(GROUPS, max(1, channels // SMALLEST_GROUP))
    groups = next(count for count in range(most, 0, -1) if channels % count == 0)
    return [nn.GroupNorm(groups, channels), ACTIVATIONS[activation]()]


def _convolution(lower: int, upper: int, stride: int = 1) -> nn.Module:
    return glorot(nn.Conv2d(lower, upper, 3, stride=stride, padding=1))
