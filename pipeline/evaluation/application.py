"""A trained model applied to images: what it reconstructs, its latents, and the bounds of each image."""

from __future__ import annotations

import numpy as np
import torch

from pipeline.errors import InputError
from pipeline.evaluation.bounds import many_draws
from pipeline.models import HierarchicalVAE
from pipeline.randomness import seeded

__all__ = ["DRAWS", "apply_model", "mean_nodes"]

DRAWS = 100  # from the posterior of an image, by default
IMAGES = 100  # a batch


@torch.no_grad()
def apply_model(model: HierarchicalVAE, images: np.ndarray, draws: int = DRAWS, seed: int = 0) -> dict[str, np.ndarray]:
    """Apply a model to images, whose values are those it was trained on, in [0, 1].

    Their shape is [n, height, width] in grey, [n, channels, height, width] in colour, or [n, units].

    A diffusion without end is applied as the chain of 30 levels that stands for it where levels are drawn.

    Equal images, `draws` and `seed` give equal numbers.

    Returns:
        `reconstructions`, in the shape of the images: the mean of p(x | z) at the latents below.
        `z1`, ..., `zT` [n, width]: the latents, from level to level the mean of q(z_t | .); of a flow, its value at
        noise 0.
        `elbo`, `kl`, `rate/z1`, ..., `rate/zT` [n], in nats: means over the draws from q(z_1:T | x).
        `nll` [n]: -L_k with k all the draws, in the mean an upper bound of -log p(x).

    Raises:
        InputError: there are no images or no draws.
    """
    if draws < 1:
        raise InputError(f"draws: {draws} given; allowed: 1 or more")
    if len(images) == 0:
        raise InputError("images: none given; allowed: 1 or more")
    weight = next(model.parameters())
    x = torch.tensor(np.asarray(images), dtype=weight.dtype, device=weight.device).flatten(1)
    with seeded(seed, "application"):
        parts = [_apply(model, part, draws) for part in x.split(IMAGES)]
    results = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return results | {"reconstructions": results["reconstructions"].reshape(np.shape(images))}


def mean_nodes(model: HierarchicalVAE, x: torch.Tensor) -> list[torch.Tensor]:
    """Return x and its latents z_1, ..., z_T [1, batch, width], from level to level the mean of q(z_t | .).

    Of a flow it is the value at noise 0.
    """
    widths = [factor.event_shape[0] for factor in model.posterior(x)[1]]
    return model.posterior(x, noise=[x.new_zeros(1, len(x), width) for width in widths])[0]


def _apply(model: HierarchicalVAE, x: torch.Tensor, draws: int) -> dict[str, np.ndarray]:
    """Return the results of a batch [batch, units]."""
    nodes = mean_nodes(model, x)
    bound = many_draws(model, x, draws)
    results = {"reconstructions": model.joint(nodes)[0].mean[0]}
    results |= {f"z{level}": z[0] for level, z in enumerate(nodes[1:], start=1)}
    results |= {"elbo": bound.elbo, "nll": -bound.iwae, "kl": bound.kl.mean(0)}
    results |= {f"rate/z{level}": rate.mean(0) for level, rate in enumerate(bound.rate, start=1)}
    return {name: value.cpu().numpy() for name, value in results.items()}
