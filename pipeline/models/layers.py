"""Layers of the networks, and the multilayer perceptron.

With `batch_norm`, every dense layer of an mlp is followed by

    y = gamma (u - mean) / sqrt(variance + 1e-5) + beta

mean and variance being those of all rows (draws and batch) in training, and in evaluation those that `update_bn`
averaged over the training set, so that one example's outputs depend on no other. Ioffe, Szegedy, "Batch Normalization"
(2015), https://arxiv.org/abs/1502.03167
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.data import Shape

__all__ = ["ACTIVATIONS", "BatchNorm", "Bias", "Image", "Rows", "glorot", "mlp"]

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "silu": nn.SiLU,
}


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


class Rows(nn.Module):
    """A network of images [rows, units], applied to [..., units]."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.inner = nn.Sequential(*layers)

    def forward(self, x: Float[Tensor, "*rows _"]) -> Float[Tensor, "*rows _"]:
        """Fold the leading dimensions, apply, unfold."""
        y: Tensor = self.inner(x.reshape(-1, x.shape[-1]))
        return y.reshape(*x.shape[:-1], -1)


class Bias(nn.Module):
    """Add a learned number to every unit."""

    def __init__(self, units: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(units))

    def forward(self, x: Float[Tensor, "*rows units"]) -> Float[Tensor, "*rows units"]:
        """Return x + bias."""
        return x + self.bias


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
        layers.append(glorot(nn.Linear(fan_in, fan_out)))
        layers += [BatchNorm(fan_out)] if batch_norm else []
        layers.append(ACTIVATIONS[activation]())
    return nn.Sequential(*layers[:-1])


def glorot(layer: nn.Linear | nn.Conv2d) -> nn.Module:
    """Return the layer with Glorot-uniform weights and zero biases."""
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer
