"""Networks: what turns a context into raw numbers, [..., inputs] to [..., outputs]."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

__all__ = ["ACTIVATIONS", "NETWORKS", "mlp"]


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
