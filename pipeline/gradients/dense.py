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
        self.factors: list[tuple[Tensor, Tensor]] = []
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
        self.kept, self.factors, a = [], [], context
        for layer, buffers in zip(self.layers, self.a, strict=True):
            factors = self._round(buffers, "in", a), self._round(buffers, "weight", layer.weight)
            self.kept.append(a)
            self.factors.append(factors)
            a = buffers("a", (len(context), layer.out_features), context)
            if self.rounded:
                torch.add(_product(buffers, factors[0], factors[1].t()), layer.bias, out=a)
            else:
                torch.addmm(layer.bias, factors[0], factors[1].t(), out=a)
            if layer is not self.layers[-1]:
                self.f(a)
        return a

    def backward(
        self, gradient: Float[Tensor, "rows outputs"], wanted: bool = True
    ) -> Float[Tensor, "rows inputs"] | None:
        """Write the gradient of every weight into its `grad`; return the context's, in a buffer, if it is `wanted`."""
        for index in reversed(range(len(self.layers))):
            layer, (a, weight), buffers = self.layers[index], self.factors[index], self.g[index]
            g = self._round(buffers, "g", gradient)
            self._multiply(buffers, g.t(), a, layer.weight.grad)
            torch.sum(gradient, 0, out=layer.bias.grad)
            if index == 0 and not wanted:
                return None
            below = buffers("below", (len(a), layer.in_features), gradient)
            self._multiply(buffers, g, weight, below)
            gradient = self.derivative(below, self.kept[index]) if index else below
        return gradient

    def _round(self, buffers: Buffers, name: str, factor: Tensor) -> Tensor:
        if not self.rounded:
            return factor
        return buffers(name, tuple(factor.shape), factor.new_empty(0, dtype=torch.bfloat16)).copy_(factor)

    def _multiply(self, buffers: Buffers, a: Tensor, b: Tensor, out: Tensor | None) -> None:
        assert out is not None
        if self.rounded:
            out.copy_(_product(buffers, a, b))
        else:
            torch.mm(a, b, out=out)


def _product(buffers: Buffers, a: Tensor, b: Tensor) -> Tensor:
    """Return a b in bfloat16, see `pipeline.precision`."""
    return torch.mm(a, b, out=buffers("product", (a.shape[0], b.shape[1]), a))
