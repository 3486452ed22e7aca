"""Diffusions as hierarchies: built from parameters, at other levels with the same decoder, and for pictures."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pipeline.data import Shape
from pipeline.distributions import StandardNormal, likelihood
from pipeline.models.denoiser import Decoder, LevelMLP
from pipeline.models.diffusion import Denoised, Diffusion, Evidence, log_linear_levels
from pipeline.models.hierarchy import HierarchicalVAE
from pipeline.models.noising import Denoising
from pipeline.models.unet import UNet
from pipeline.params import ModelParams

__all__ = ["DECODERS", "at_levels", "build_diffusion", "chain_of", "chains_to_draw"]

MOST_DRAWN, FEW_SHOWN = 50, 6  # levels, in pictures


def chain_of(diffusion: Diffusion, units: int) -> HierarchicalVAE:
    """Return the hierarchy whose rungs share these levels and this decoder, for images of so many units."""
    levels = range(len(diffusion.positions))
    generative = [*(Denoised(diffusion, level) for level in levels), StandardNormal(units)]
    inference = [Evidence(diffusion, level + 1) for level in levels]
    return HierarchicalVAE(generative, inference, "nearest", "top_down", diffusion)


def at_levels(
    model: HierarchicalVAE, log_snr: Float[Tensor, " levels"], denoising: Denoising | None = None
) -> HierarchicalVAE:
    """Return the same diffusion at other levels, z_1's first; the decoder and the ends are the model's own, not copies.

    Raises:
        ValueError: the model is no diffusion, or the log SNR do not fall.
    """
    shared = model.diffusion
    if shared is None or bool((log_snr.diff() >= 0).any()):
        raise ValueError("levels are chosen for a diffusion, their log SNR falling from z_1 up")
    first, last = shared.ends.detach().unbind()
    positions = (log_snr.to(shared.ends) - first) / (last - first)
    diffusion = Diffusion(shared.decoder, shared.ends, positions, denoising or shared.denoising)
    return chain_of(diffusion, len(model.generative[-1].zero)).train(model.training)  # type: ignore[arg-type]


DECODERS: dict[str, Callable[[Shape, int, ModelParams], nn.Module]] = {
    "mlp": lambda image, numbers, params: LevelMLP(2 * math.prod(image), numbers, params.hidden[0], params.activation),
    "unet": lambda image, numbers, params: UNet(image, numbers, params.hidden[0], params.activation, params.blocks),
}
"""Networks from what a decoder gives them and the features of a level to so many raw numbers, by the image's shape."""


def chains_to_draw(model: HierarchicalVAE) -> tuple[HierarchicalVAE, HierarchicalVAE]:
    """Return the chain that samples are drawn with, and the one whose levels are shown one by one.

    Both are the model itself, but of a diffusion a chain of at most `MOST_DRAWN` levels, and one of `FEW_SHOWN`.
    """
    if model.diffusion is None:
        return model, model
    first, last = model.diffusion.ends.tolist()
    whole, few = (
        at_levels(model, log_linear_levels(count, first, last).to(model.diffusion.ends))
        for count in (MOST_DRAWN, FEW_SHOWN)
    )
    return (model if model.depth <= MOST_DRAWN else whole), few


def build_diffusion(params: ModelParams, mean: Float[Tensor, " units"], shape: Shape | None = None) -> HierarchicalVAE:
    """Build the diffusion that `params` describes for data of mean `mean`; channels are further pixels."""
    family = likelihood(params, 1)
    start = family.bias(mean)
    values = None if params.likelihood == "bernoulli" else torch.arange(params.grey_levels) / (params.grey_levels - 1)
    network = DECODERS[params.network](shape or (len(mean), 1, 1), len(start), params)
    ends = torch.tensor(params.log_snr)
    diffusion = Diffusion(
        Decoder(network, family, start, values),
        nn.Parameter(ends) if params.log_snr_ends == "learned" else ends,
        log_linear_levels(params.levels, 0.0, 1.0),
        params.denoising,
        params.depth == "continuous",
        params.log_snr_grid == "optimal" and params.depth != "continuous",
    )
    return chain_of(diffusion, len(mean))
