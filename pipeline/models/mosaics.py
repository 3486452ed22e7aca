"""Small pictures of what a model draws, restores and decides level by level, [channels, height, width] in [0, 1]."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from pipeline.data import Shape
from pipeline.models.hierarchy import HierarchicalVAE
from pipeline.models.noise_chains import chains_to_draw
from pipeline.randomness import seeded

__all__ = ["mosaics"]

COLUMNS = 8


@torch.no_grad()
def mosaics(
    model: HierarchicalVAE, x: Float[Tensor, "n units"], shape: Shape, seed: int = 0
) -> dict[str, Float[Tensor, "channels height width"]]:
    """Return three pictures of a model, whose mode and weights stay as they are; equal seeds have equal noise.

    `samples` holds means of p(x | z) at draws from the prior. `reconstructions` holds the images x and, below them,
    the means of p(x | z) at a draw of their latents. `levels` has a row for each level, z_1 at the top: means at draws
    that differ in the noise of that level alone. Of a diffusion these are few (`chains_to_draw`).
    """
    training = model.training
    model.eval()
    whole, few = chains_to_draw(model)
    try:
        with seeded(seed, "mosaics"):
            nodes, q = few.posterior(x)
            restored = few.joint(nodes)[0].mean[0]
            noise = [torch.randn(COLUMNS * COLUMNS // 2, factor.event_shape[0], device=x.device) for factor in q]
            whole_noise = noise if whole is few else [torch.randn_like(noise[0]) for _ in range(whole.depth)]
            samples = whole.decode_noise(whole_noise)
            rows = []
            for level, eps in enumerate(noise):
                held = [other[:1].expand(COLUMNS, -1) for other in noise]
                held[level] = eps[:COLUMNS]
                rows.append(few.decode_noise(held))
    finally:
        model.train(training)
    return {
        "samples": _mosaic(samples.unflatten(0, (-1, COLUMNS)), shape),
        "reconstructions": _mosaic(torch.stack([x, restored]), shape),
        "levels": _mosaic(torch.stack(rows), shape),
    }


def _mosaic(images: Float[Tensor, "rows columns units"], shape: Shape) -> Float[Tensor, "channels height width"]:
    """Put images side by side, with a grey line of one pixel after each."""
    framed = pad(images.unflatten(-1, shape).clamp(0, 1), (0, 1, 0, 1), value=0.5)
    return framed.permute(2, 0, 3, 1, 4).flatten(3, 4).flatten(1, 2).cpu()
