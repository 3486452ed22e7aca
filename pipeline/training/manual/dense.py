"""A multilayer perceptron and its gradient, derived by hand.

a_0 = context, a_l = f(a_l-1 W_l' + b_l), raw = a_n-1 W_n' + b_n
dW_l = g_l' a_l-1,   db_l = sum over rows of g_l,   g_l-1 = (g_l W_l) f'(a_l-1),   g_n given
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pipeline.models.precision import Precision

__all__ = ["Dense", "Saved"]

aten = torch.ops.aten
ACTIVATE: dict[type[nn.Module], Callable[[Tensor], Tensor]] = {
    nn.Tanh: torch.tanh_,
    nn.ReLU: torch.relu_,
    nn.LeakyReLU: aten.leaky_relu_.default,
    nn.ELU: aten.elu_.default,
}
"""By activation: f, in place."""
DERIVATIVES: dict[type[nn.Module], Callable[[Tensor, Tensor], Tensor]] = {
    nn.Tanh: lambda g, a: aten.tanh_backward(g, a),
    nn.ReLU: lambda g, a: aten.threshold_backward(g, a, 0),
    nn.LeakyReLU: lambda g, a: aten.leaky_relu_backward(g, a, 0.01, True),
    nn.ELU: lambda g, a: aten.elu_backward(g, 1, 1, 1, True, a),
}
"""By activation: from the gradient g after it and its result a = f(u), the gradient before it."""

Saved = list[tuple[Tensor, Tensor, Tensor]]
"""Of every layer its input, and the factors of its product: the input and the weights, rounded with bfloat16."""


class Dense:
    """The network of a rung: dense layers, the same activation between any two."""

    def __init__(self, network: nn.Sequential, precision: Precision = "float32") -> None:
        layers = [module for module in network if isinstance(module, nn.Linear)]
        self.layers: list[tuple[Tensor, Tensor]] = [(layer.weight, layer.bias) for layer in layers]
        (activation,) = {type(module) for module in network if not isinstance(module, nn.Linear)} or {nn.Tanh}
        self.f, self.derivative = ACTIVATE[activation], DERIVATIVES[activation]
        self.dtype, self.rounded = self.layers[0][0].dtype, precision == "bfloat16"

    @classmethod
    def supports(cls, network: nn.Module) -> bool:
        """Return whether the network has this form."""
        if type(network) is not nn.Sequential:
            return False
        inner = {type(module) for module in network} - {nn.Linear}
        return len(inner) <= 1 and inner <= set(DERIVATIVES)

    def forward(self, context: Float[Tensor, "rows inputs"]) -> tuple[Float[Tensor, "rows outputs"], Saved]:
        """Return the raw numbers, and what `backward` needs."""
        saved: Saved = []
        a = context
        for index, (weight, bias) in enumerate(self.layers):
            factors = self._round(a), self._round(weight)
            saved.append((a, *factors))
            if self.rounded:
                a = (factors[0] @ factors[1].t()).to(self.dtype).add_(bias)
            else:
                a = torch.addmm(bias, a, weight.t())
            if index < len(self.layers) - 1:
                a = self.f(a)
        return a, saved

    def backward(
        self,
        saved: Saved,
        gradient: Float[Tensor, "rows outputs"],
        into: Sequence[Tensor | None],
        context_gradient: bool = True,
    ) -> tuple[Float[Tensor, "rows inputs"] | None, list[Tensor]]:
        """Return the gradient of the context, None without `context_gradient`, and of each layer's weight and bias.

        The gradients of weights and biases are written `into` tensors, where there are any.
        """
        by_weights: list[Tensor] = []
        for index in reversed(range(len(saved))):
            (a, *factors), g = saved[index], self._round(gradient)
            by_weight = self._product(g.t(), factors[0], into[2 * index])
            by_weights[:0] = [by_weight, torch.sum(gradient, 0, out=into[2 * index + 1])]
            if index == 0 and not context_gradient:
                return None, by_weights
            gradient = self._product(g, factors[1])
            if index:
                gradient = self.derivative(gradient, a)
        return gradient, by_weights

    def _round(self, factor: Tensor) -> Tensor:
        return factor.to(torch.bfloat16) if self.rounded else factor

    def _product(self, a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
        if not self.rounded:
            return torch.mm(a, b, out=out)
        product = torch.mm(a, b)
        return product.to(self.dtype) if out is None else out.copy_(product)
