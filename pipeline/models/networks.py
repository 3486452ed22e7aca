"""Networks: what turns a context into raw numbers, [..., inputs] to [..., outputs].

    mlp     dense layers, an activation between any two
    conv    for the rung that touches an image: convolutions of half the size each, a residual block after each
            (mirrored where the image is what comes out); without an image, the mlp

A network ends in a layer whose `bias` is where its outputs start. With `batch_norm`, every dense layer of an mlp
is followed by

    y = gamma (u - mean) / sqrt(variance + 1e-5) + beta

mean and variance being those of all rows (draws and batch) in training, and in evaluation those that `update_bn`
averaged over the training set, so that one example's outputs depend on no other. Ioffe, Szegedy, "Batch Normalization"
(2015), https://arxiv.org/abs/1502.03167
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.data import Shape
from pipeline.models.hierarchy import HierarchicalVAE

__all__ = ["ACTIVATIONS", "NETWORKS", "BatchNorm", "Image", "conv", "mlp", "update_bn"]


@dataclass(frozen=True)
class Image:
    """The side of a network that is an image, and its channels, height and width."""

    side: Literal["input", "output"]
    shape: Shape


class BatchNorm(nn.BatchNorm1d):
    """Batch normalization over all leading dimensions; one row alone has no variance and is taken as in evaluation."""

    def __init__(self, units: int) -> None:
        super().__init__(units, momentum=None)

    def forward(self, input: Float[Tensor, "*rows units"]) -> Float[Tensor, "*rows units"]:  # noqa: D102
        rows = input.reshape(-1, input.shape[-1])
        if self.training and len(rows) > 1:
            return super().forward(rows).reshape(input.shape)
        return F.batch_norm(
            rows, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
        ).reshape(input.shape)


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


def mlp(
    inputs: int,
    outputs: int,
    hidden: Sequence[int],
    activation: str,
    batch_norm: bool = False,
    image: Image | None = None,
) -> nn.Sequential:
    """Return a multilayer perceptron, Glorot-uniform weights and zero biases."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise([inputs, *hidden, outputs]):
        layers.append(_glorot(nn.Linear(fan_in, fan_out)))
        layers += [BatchNorm(fan_out)] if batch_norm else []
        layers.append(ACTIVATIONS[activation]())
    return nn.Sequential(*layers[:-1])


class Rows(nn.Module):
    """A network of images [rows, units], applied to [..., units]."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.inner = nn.Sequential(*layers)

    def forward(self, x: Float[Tensor, "*rows _"]) -> Float[Tensor, "*rows _"]:
        """Fold the leading dimensions, apply, unfold."""
        y: Tensor = self.inner(x.reshape(-1, x.shape[-1]))
        return y.reshape(*x.shape[:-1], -1)


class Residual(nn.Module):
    """x + f(x), f two convolutions, an activation before each."""

    def __init__(self, channels: int, activation: str) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            ACTIVATIONS[activation](),
            _glorot(nn.Conv2d(channels, channels, 3, padding=1)),
            ACTIVATIONS[activation](),
            _glorot(nn.Conv2d(channels, channels, 3, padding=1)),
        )

    def forward(self, x: Float[Tensor, "rows channels height width"]) -> Float[Tensor, "rows channels height width"]:
        """Return x + f(x)."""
        y: Tensor = x + self.inner(x)
        return y


class Bias(nn.Module):
    """Add a learned number to every unit."""

    def __init__(self, units: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(units))

    def forward(self, x: Float[Tensor, "*rows units"]) -> Float[Tensor, "*rows units"]:
        """Return x + bias."""
        return x + self.bias


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
    sizes = [image.shape[1:]]
    for _ in hidden:
        sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
    pixels, (height, width) = math.prod(sizes[0]), sizes[-1]
    layers: list[nn.Module] = []
    if image.side == "input":
        channels = [inputs // pixels, *hidden]
        for lower, above in pairwise(channels):
            layers.append(_glorot(nn.Conv2d(lower, above, 3, stride=2, padding=1)))
            layers += [Residual(above, activation), ACTIVATIONS[activation]()]
        encoder = Rows(nn.Unflatten(1, (channels[0], *sizes[0])), *layers, nn.Flatten())
        return nn.Sequential(encoder, _glorot(nn.Linear(channels[-1] * height * width, outputs)))
    channels = [outputs // pixels, *hidden]
    for size, (below, upper) in zip(sizes[-2::-1], list(pairwise(channels))[::-1], strict=True):
        layers += [Residual(upper, activation), ACTIVATIONS[activation](), nn.Upsample(size=size)]
        layers.append(_glorot(nn.Conv2d(upper, below, 3, padding=1)))
    decoder = Rows(nn.Unflatten(1, (channels[-1], height, width)), *layers, nn.Flatten())
    return nn.Sequential(_glorot(nn.Linear(inputs, channels[-1] * height * width)), decoder, Bias(outputs))


def _glorot(layer: nn.Linear | nn.Conv2d) -> nn.Module:
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer


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


ACTIVATIONS: dict[str, type[nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "silu": nn.SiLU,
}
NETWORKS: dict[str, Network] = {"mlp": mlp, "conv": conv}
