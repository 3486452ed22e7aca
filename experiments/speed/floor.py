"""The arithmetic floor of a training step: its matrix products alone, each in the faster of two libraries.

A layer of weights W [out, in] takes three: a W^T forward, g^T a for the weights, g W for what is below, which the layer
on the image does not need. The stock product is `torch.mm`, the other oneDNN's, which is a private operator of torch
and left out where there is none.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from experiments.speed.models import Chain

__all__ = ["Floor", "products"]

SECONDS = 0.002  # for which a product is repeated, at least


def products(chain: Chain, batch: int) -> list[tuple[int, int, int]]:
    """Return the products of a step as (rows, inner, columns)."""
    model = chain.model()
    found = []
    first = next(layer for layer in model.inference.modules() if isinstance(layer, nn.Linear))
    for layer in (module for module in model.modules() if isinstance(module, nn.Linear)):
        out, into = layer.weight.shape
        found += [(batch, into, out), (out, batch, into)]
        if layer is not first:
            found.append((batch, out, into))
    return found


class Floor:
    """The products of one step."""

    def __init__(self, chain: Chain, batch: int, seconds: float = SECONDS) -> None:
        self.batch, self.seconds = batch, seconds
        self.products = [_forms(*shape) for shape in products(chain, batch)]

    @torch.no_grad()
    def __call__(self) -> float:
        """Return images per second of processor time."""
        return self.batch / sum(min(map(self._seconds, forms)) for forms in self.products)

    def _seconds(self, form: Callable[[], Tensor]) -> float:
        form()
        start, count = time.process_time(), 0
        while (spent := time.process_time() - start) < self.seconds:
            for _ in range(4):
                form()
            count += 4
        return spent / count


def _forms(rows: int, inner: int, columns: int) -> Sequence[Callable[[], Tensor]]:
    """Return both libraries' products, their operands as each likes them best."""
    a, b = torch.randn(rows, inner), torch.randn(inner, columns)
    out, transposed = torch.empty(rows, columns), b.t().contiguous()

    def stock() -> Tensor:
        return torch.mm(a, b, out=out)

    def onednn() -> Tensor:
        found: Tensor = torch.ops.mkldnn._linear_pointwise(a, transposed, None, "none", [], "")
        return found

    try:
        onednn()
    except (AttributeError, RuntimeError):
        return [stock]
    return [stock, onednn]
