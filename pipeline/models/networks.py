"""Networks: what turns a context into raw numbers, [..., inputs] to [..., outputs].

    mlp     dense layers, an activation between any two
    conv    for the rung that touches an image: convolutions of half the size each, a residual block after each
            (mirrored where the image is what comes out); without an image, the mlp
    resnet  the same with any number of blocks, and a group normalization before each of their convolutions

A network ends in a layer whose `bias` is where its outputs start.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pipeline.models.hierarchy import HierarchicalVAE
from pipeline.models.layers import ACTIVATIONS, BatchNorm, Bias, Image, Rows, glorot, mlp
from pipeline.models.resnet import resnet
from pipeline.params import halvings

__all__ = ["NETWORKS", "conv", "update_bn"]


@torch.no_grad()
def update_bn(model: HierarchicalVAE, batches: Iterable[Float[Tensor, "batch units"]]) -> None:
    """Average the statistics of the batch normalizations, if any, over `batches`, and set the model to evaluation."""
    norms = [module for module in model.modules() if isinstance(module, BatchNorm)]
    if norms:
        model.train()
        for norm in norms:
            norm.reset_running_stats()
        for x in batches:
            z, _ = model.posterior(x)
            model.joint(z)
    model.eval()


class Residual(nn.Module):
    """x + f(x), f two convolutions, an activation before each."""

    def __init__(self, channels: int, activation: str) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            ACTIVATIONS[activation](),
            glorot(nn.Conv2d(channels, channels, 3, padding=1)),
            ACTIVATIONS[activation](),
            glorot(nn.Conv2d(channels, channels, 3, padding=1)),
        )

    def forward(self, x: Float[Tensor, "rows channels height width"]) -> Float[Tensor, "rows channels height width"]:
        """Return x + f(x)."""
        y: Tensor = x + self.inner(x)
        return y


def conv(
    inputs: int,
    outputs: int,
    hidden: Sequence[int],
    activation: str,
    batch_norm: bool = False,
    image: Image | None = None,
) -> nn.Sequential:
    """Return a residual convolutional network with `hidden` channels, the image's side first; an mlp without image."""
    if image is None:
        return mlp(inputs, outputs, hidden, activation, batch_norm)
    sizes = halvings(image.shape[1:], len(hidden))
    pixels, (height, width) = math.prod(sizes[0]), sizes[-1]
    layers: list[nn.Module] = []
    if image.side == "input":
        channels = [inputs // pixels, *hidden]
        for lower, above in pairwise(channels):
            layers.append(glorot(nn.Conv2d(lower, above, 3, stride=2, padding=1)))
            layers += [Residual(above, activation), ACTIVATIONS[activation]()]
        encoder = Rows(nn.Unflatten(1, (channels[0], *sizes[0])), *layers, nn.Flatten())
        return nn.Sequential(encoder, glorot(nn.Linear(channels[-1] * height * width, outputs)))
    channels = [outputs // pixels, *hidden]
    for size, (below, upper) in zip(sizes[-2::-1], list(pairwise(channels))[::-1], strict=True):
        layers += [Residual(upper, activation), ACTIVATIONS[activation](), nn.Upsample(size=size)]
        layers.append(glorot(nn.Conv2d(upper, below, 3, padding=1)))
    decoder = Rows(nn.Unflatten(1, (channels[-1], height, width)), *layers, nn.Flatten())
    return nn.Sequential(glorot(nn.Linear(inputs, channels[-1] * height * width)), decoder, Bias(outputs))


@runtime_checkable
class Network(Protocol):
    """A function of the registry `NETWORKS`."""

    def __call__(
        self,
        inputs: int,
        outputs: int,
        hidden: Sequence[int],
        activation: str,
        batch_norm: bool = False,
        image: Image | None = None,
    ) -> nn.Sequential:
        """Return a network from [..., inputs] to [..., outputs]."""


NETWORKS: dict[str, Network] = {"mlp": mlp, "conv": conv, "resnet": resnet}
