"""A multilayer perceptron whose gradient is derived by hand and written where the weights keep it.

a_0 = context, a_l = f(a_l-1 W_l' + b_l), raw = a_n-1 W_n' + b_n
dW_l = g_l' a_l-1,   db_l = sum over rows of g_l,   g_l-1 = (g_l W_l) f'(a_l-1),   g_n given
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pipeline.gradients.buffers import Buffers
from pipeline.precision import Precision

__all__ = ["Dense"]

aten = torch.ops.aten
ACTIVATE: dict[type[nn.Module], Callable[[Tensor], Tensor]] = {
    nn.Tanh: torch.tanh_,
    nn.ReLU: torch.relu_,
    nn.LeakyReLU: aten.leaky_relu_.default,
    nn.ELU: aten.elu_.default,
}
"""By activation: f, in place."""
DERIVATIVES: dict[type[nn.Module], Callable[[Tensor, Tensor], Tensor]] = {
    nn.Tanh: lambda g, a: aten.tanh_backward.grad_input(g, a, grad_input=g),
    nn.ReLU: lambda g, a: aten.threshold_backward.grad_input(g, a, 0, grad_input=g),
    nn.LeakyReLU: lambda g, a: aten.leaky_relu_backward.grad_input(g, a, 0.01, True, grad_input=g),
    nn.ELU: lambda g, a: aten.elu_backward.grad_input(g, 1, 1, 1, True, a, grad_input=g),
}
"""By activation: the gradient g after it becomes, in place, that before it, given its result a = f(u)."""


class Dense:
    """The network of a rung: dense layers, the same activation between any two."""

    def __init__(self, network: nn.Sequential, precision: Precision = "float32") -> None:
        self.layers = [module for module in network if isinstance(module, nn.Linear)]
        (activation,) = {type(module) for module in network if not isinstance(module, nn.Linear)} or {nn.Tanh}
        self.f, self.derivative = ACTIVATE[activation], DERIVATIVES[activation]
        self.rounded = precision == "bfloat16"
        self.kept: list[Tensor] = []
        self.a = [Buffers() for _ in self.layers]
        self.g = [Buffers() for _ in self.layers]

    @classmethod
    def fits(cls, network: nn.Module) -> bool:
        """Tell whether the network is of this form."""
        if not isinstance(network, nn.Sequential):
            return False
        inner = {type(module) for module in network} - {nn.Linear}
        return len(inner) <= 1 and inner <= set(DERIVATIVES)

    def forward(self, context: Float[Tensor, "rows inputs"]) -> Float[Tensor, "rows outputs"]:
        """Return the raw numbers, in a buffer, and keep what `backward` needs."""
        self.kept, rows = [context], len(context)
        for layer, buffers in zip(self.layers, self.a, strict=True):
            a = buffers("a", (rows, layer.out_features), context)
            if self.rounded:
                torch.add(_rounded(buffers, self.kept[-1], layer.weight.t()), layer.bias, out=a)
            else:
                torch.addmm(layer.bias, self.kept[-1], layer.weight.t(), out=a)
            self.kept.append(self.f(a) if layer is not self.layers[-1] else a)
        return self.kept.pop()

    def backward(
        self, gradient: Float[Tensor, "rows outputs"], wanted: bool = True
    ) -> Float[Tensor, "rows inputs"] | None:
        """Write the gradient of every weight into its `grad`; return the context's, in a buffer, if it is `wanted`."""
        for index in reversed(range(len(self.layers))):
            layer, a = self.layers[index], self.kept[index]
            self._product(self.g[index], gradient.t(), a, layer.weight.grad)
            torch.sum(gradient, 0, out=layer.bias.grad)
            if index == 0 and not wanted:
                return None
            below = self.g[index]("g", (len(a), layer.in_features), a)
            self._product(self.g[index], gradient, layer.weight, below)
            gradient = below
            if index:
                gradient = self.derivative(gradient, a)
        return gradient

    def _product(self, buffers: Buffers, a: Tensor, b: Tensor, out: Tensor | None) -> None:
        assert out is not None
        if self.rounded:
            out.copy_(_rounded(buffers, a, b))
        else:
            torch.mm(a, b, out=out)


def _rounded(buffers: Buffers, a: Tensor, b: Tensor) -> Tensor:
    """Return a b in bfloat16, see `pipeline.precision`."""
    out = buffers("product", (len(a), b.shape[1]), a.new_empty(0, dtype=torch.bfloat16))
    return torch.mm(a.to(torch.bfloat16), b.to(torch.bfloat16), out=out)
