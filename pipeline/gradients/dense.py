"""A multilayer perceptron whose gradient is derived by hand and written where the weights keep it.

a_0 = context, a_l = f(a_l-1 W_l' + b_l), raw = a_n-1 W_n' + b_n
dW_l = g_l' a_l-1,   db_l = sum over rows of g_l,   g_l-1 = (g_l W_l) f'(a_l-1),   g_n given
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["Dense"]

aten = torch.ops.aten
DERIVATIVES: dict[type[nn.Module], Callable[[Tensor, Tensor], Tensor]] = {
    nn.Tanh: lambda gradient, a: aten.tanh_backward(gradient, a),
    nn.ReLU: lambda gradient, a: aten.threshold_backward(gradient, a, 0),
    nn.LeakyReLU: lambda gradient, a: aten.leaky_relu_backward(gradient, a, 0.01, True),
    nn.ELU: lambda gradient, a: aten.elu_backward(gradient, 1, 1, 1, True, a),
}
"""By activation: the gradient before it from the gradient after it and its result a = f(u)."""


class Dense:
    """The network of a rung: dense layers, the same activation between any two."""

    def __init__(self, network: nn.Sequential) -> None:
        self.layers = [module for module in network if isinstance(module, nn.Linear)]
        (self.activation,) = {type(module) for module in network if not isinstance(module, nn.Linear)} or {nn.Tanh}
        self.f = self.activation()
        self.kept: list[Tensor] = []

    @classmethod
    def fits(cls, network: nn.Module) -> bool:
        """Tell whether the network is of this form."""
        if not isinstance(network, nn.Sequential):
            return False
        inner = {type(module) for module in network} - {nn.Linear}
        return len(inner) <= 1 and inner <= set(DERIVATIVES)

    def forward(self, context: Float[Tensor, "rows inputs"]) -> Float[Tensor, "rows outputs"]:
        """Return the raw numbers, and keep what `backward` needs."""
        self.kept = [context]
        for layer in self.layers[:-1]:
            self.kept.append(self.f(torch.addmm(layer.bias, self.kept[-1], layer.weight.t())))
        return torch.addmm(self.layers[-1].bias, self.kept[-1], self.layers[-1].weight.t())

    def backward(
        self, gradient: Float[Tensor, "rows outputs"], wanted: bool = True
    ) -> Float[Tensor, "rows inputs"] | None:
        """Write the gradient of every weight into its `grad`; return the context's, if it is `wanted`."""
        for index in reversed(range(len(self.layers))):
            layer, a = self.layers[index], self.kept[index]
            torch.mm(gradient.t(), a, out=layer.weight.grad)
            torch.sum(gradient, 0, out=layer.bias.grad)
            if index == 0 and not wanted:
                return None
            gradient = torch.mm(gradient, layer.weight)
            if index:
                gradient = DERIVATIVES[self.activation](gradient, a)
        return gradient
