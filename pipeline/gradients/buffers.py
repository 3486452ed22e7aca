"""Tensors that are made once and written again at every step.

Fresh ones of a batch's pixels are a large part of a step's time: their memory goes back to the system and comes from
it again, page by page. Each owner has its own buffers, by name and shape, so a smaller last batch has others.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["Buffers"]


class Buffers:
    """An owner's tensors: what one holds is valid until it is asked for by the same name and shape again."""

    def __init__(self) -> None:
        self._made: dict[tuple[str, tuple[int, ...], torch.dtype], Tensor] = {}
        self._halved: dict[tuple[str, tuple[int, ...], torch.dtype], tuple[Tensor, Tensor]] = {}

    def __call__(self, name: str, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Return the tensor of this name and shape, on the device of `like`; what it holds is arbitrary."""
        key = name, shape, like.dtype
        found = self._made.get(key)
        if found is None:
            found = self._made[key] = like.new_empty(shape)
        return found

    def halves(self, name: str, shape: tuple[int, int], like: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Return a tensor as above, and its two halves, left and right."""
        whole, key = self(name, shape, like), (name, shape, like.dtype)
        if key not in self._halved:
            left, right = whole.chunk(2, dim=1)
            self._halved[key] = left, right
        return whole, self._halved[key]
