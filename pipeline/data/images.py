"""What a model sees of stored pixels: their fraction of white, or a Bernoulli draw of it at each presentation.

A draw is 1 where a number of 16 random bits is below round(2^16 pixel / scale): black stays black, white stays white,
and what lies between is white with its probability to 2^-17. Four pixels share one 64-bit random number: a batch
takes a sixth of the time of `torch.bernoulli`, two fifths of that of a comparison with `torch.rand`.

Dequantized pixels are x = (level + u) / L, L grey levels and u uniform in [0, 1)^D. For a density p of x

    log P(levels) = log integral p((levels + u) / L) L^-D du  >=  E_u log p(x) - D log L

is a probability of the levels, so that the mean log-density of dequantized pixels is bounded, and that of the levels
themselves is not: a density may grow without limit at the few values that they take.

Theis, van den Oord, Bethge, "A note on the evaluation of generative models" (2016), https://arxiv.org/abs/1511.01844
"""

from __future__ import annotations

import hashlib

import torch
from jaxtyping import Float, Int16, Int64, Shaped, UInt8
from torch import Tensor

__all__ = ["TrainingImages", "dequantized", "frozen", "to_unit_interval"]

ROWS = 10_000  # images whose thresholds are looked up at a time


def to_unit_interval(pixels: Shaped[Tensor, "*batch units"], scale: int) -> Float[Tensor, "*batch units"]:
    """Return pixel / scale of stored pixels; those that are dequantized already stay as they are."""
    if pixels.is_floating_point():
        return pixels
    return pixels.to(torch.get_default_dtype()) / scale


def dequantized(
    pixels: UInt8[Tensor, "*batch units"], scale: int, generator: torch.Generator | None = None
) -> Float[Tensor, "*batch units"]:
    """Return (pixel + u) / (scale + 1), u uniform in [0, 1)."""
    device = pixels.device if generator is None else generator.device
    noise = torch.rand(pixels.shape, generator=generator, dtype=torch.get_default_dtype(), device=device)
    return (pixels + noise.to(pixels.device)) / (scale + 1)


def frozen(pixels: UInt8[Tensor, "n units"], scale: int, name: str) -> Float[Tensor, "n units"]:
    """Return dequantized pixels whose noise is determined by `name`, on every device."""
    seed = int.from_bytes(hashlib.sha256(f"dequantization/{name}".encode()).digest()[:7])
    return dequantized(pixels, scale, torch.Generator().manual_seed(seed))


class TrainingImages:
    """A training set on its device; one that stays on the disk (`mapped`) gives its device a batch at a time."""

    def __init__(
        self,
        pixels: UInt8[Tensor, "n units"],
        scale: int,
        binarize: bool,
        dequantize: bool = False,
        *,
        mapped_for: torch.device | None = None,
    ) -> None:
        self.scale, self.binarize, self.dequantize = scale, binarize, dequantize
        self.mapped_for = mapped_for
        self.pixels: Tensor = _thresholds(pixels, scale) if binarize and mapped_for is None else pixels

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def device(self) -> torch.device:
        """Where batches are."""
        return self.mapped_for or self.pixels.device

    def batch(self, positions: Int64[Tensor, " batch"]) -> Float[Tensor, "batch units"]:
        """Return the images at these positions, binarized or dequantized anew."""
        chosen = torch.index_select(self.pixels, 0, positions.to(self.pixels.device)).to(self.device)
        if self.dequantize:
            return dequantized(chosen, self.scale)
        if self.binarize and self.mapped_for is not None:
            chosen = _thresholds(chosen, self.scale)
        return _drawn(chosen) if self.binarize else to_unit_interval(chosen, self.scale)


def _thresholds(pixels: UInt8[Tensor, "n units"], scale: int) -> Int16[Tensor, "n units"]:
    """Return 2^16 pixel / scale, less 2^15; white is 2^15 - 1, above every random number."""
    table = torch.arange(scale + 1, device=pixels.device, dtype=torch.float64).mul_(2**16 / scale).round_().sub_(2**15)
    table = table.clamp_(max=2**15 - 1).to(torch.int16)
    thresholds = torch.empty(pixels.shape, dtype=torch.int16, device=pixels.device)
    for part, out in zip(pixels.split(ROWS), thresholds.split(ROWS), strict=True):  # indices take four bytes a pixel
        out.copy_(table[part.int()])
    return thresholds


def _drawn(thresholds: Int16[Tensor, "batch units"]) -> Float[Tensor, "batch units"]:
    count = thresholds.numel()
    bits = torch.empty(-(-count // 4), dtype=torch.int64, device=thresholds.device).random_(-(2**63), None)
    noise = bits.view(torch.int16)[:count].view_as(thresholds).clamp_(max=2**15 - 2)
    x = torch.empty(thresholds.shape, device=thresholds.device)
    return torch.gt(thresholds, noise, out=x)
