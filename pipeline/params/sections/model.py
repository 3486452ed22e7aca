"""The section `model` of params.yaml, and what its likelihoods measure."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field

from pipeline.params.own import or_own
from pipeline.params.ranges import Strict
from pipeline.params.sections.types import Positive, Width

__all__ = [
    "DENSITY",
    "DEQUANTIZED",
    "INFORMATIVE",
    "MEASURES",
    "MOST_UNITS",
    "PROBABILITY",
    "ModelParams",
    "halvings",
    "measure_of",
]

PROBABILITY = "probability"
DENSITY = "density of pixels scaled to [0, 1]"
DEQUANTIZED = "density of dequantized pixels in [0, 1]"
Shape = tuple[int, int, int]  # channels, height, width
CONTINUOUS_LEVELS = 30  # of the chain that stands for a diffusion without end where levels are drawn
INFORMATIVE = 0.01  # of a unit's variance, above which it counts as informative
MOST_UNITS = 512  # of a level whose units depend on each other
LatentLogSNR = Annotated[float, Field(ge=-30, le=30)]
FlowWidth = Annotated[int, Field(ge=1, le=1024)]
MEASURES = {  # what a likelihood gives to an image; numbers of different measures cannot be compared
    "bernoulli": PROBABILITY,
    "gaussian": DENSITY,
    "continuous_bernoulli": DENSITY,
    "discretized_logistic": PROBABILITY,
}


def measure_of(likelihood: str, dequantization: str = "none") -> str:
    """Return what a likelihood gives to an image: a probability, or a density and of what."""
    return DEQUANTIZED if dequantization == "uniform" else MEASURES[likelihood]


LogSNR = Annotated[float, Field(ge=-30, le=30)]


class ModelParams(Strict):
    """The architecture of a `HierarchicalVAE`."""

    depth: Annotated[int, Field(ge=1, le=1000)] | Literal["continuous"] = Field(
        description="Number of latent levels, T. At most 64; with inference diffusion at most 1000, or continuous, "
        "endlessly many."
    )
    z_dim: Width = Field(description="Units of the first latent level, z_1.")
    z_ratio: Annotated[float, Field(gt=0, le=4, allow_inf_nan=False)] = Field(
        description="Units of each further level as a multiple of those of the level below it."
    )
    widths: Annotated[tuple[Width, ...], Field(min_length=1)] | None = Field(
        description="Units of every level from z_1 up, as in [16, 8]; depth is then the length of the list. null: by "
        "z_dim and z_ratio."
    )
    parents: Literal["nearest", "every"] = Field(
        description="Levels that a level is conditioned on: nearest, the level next to it (a Markov chain), or every "
        "level before it."
    )
    inference: Annotated[Literal["bottom_up", "top_down", "diffusion"], or_own("posterior")] = Field(
        description="The posterior: bottom_up, equation (20); top_down, the ladder, which merges features of x with "
        "the prior on the way down; or diffusion, levels that are noised images, with nothing to learn."
    )
    denoising: Literal["fixed", "matched", "mixture"] = Field(
        description="Form of a step down of a diffusion: a Gaussian of fixed variance, one with the matched variance, "
        "or for each pixel a mixture over its values."
    )
    log_snr: Annotated[tuple[LogSNR, ...], Field(min_length=2, max_length=2)] = Field(
        description="Log signal-to-noise ratios of the first and the last level of a diffusion, z_1 and z_T, at the "
        "start of training."
    )
    log_snr_ends: Literal["fixed", "learned"] = Field(description="Whether these two stay, or are learned.")
    log_snr_grid: Literal["log_linear", "optimal"] = Field(
        description="Levels between them: log_linear, in equal steps of log SNR, or optimal, after every epoch where "
        "the bound of so many levels is best."
    )
    parametrization: Literal["plain", "residual"] = Field(
        description="Where p and q of the levels above the first start: plain, near N(0, I), or residual, as the "
        "noising and denoising steps of a diffusion, to which the networks add corrections."
    )
    prior: Annotated[Literal["normal", "vamp", "mixture", "flow", "diffusion"], or_own("prior")] = Field(
        description="Distribution of the top level: normal, vamp (a mixture of the posterior at learned "
        "pseudo-inputs), mixture (of learned Gaussians), flow (normal noise carried over by learned splines) or "
        "diffusion (further levels of the same width, which noise it step by step)."
    )
    prior_levels: Annotated[int, Field(ge=1, le=60)] = Field(description="Levels above z_T of the prior diffusion.")
    prior_log_snr: Annotated[tuple[LatentLogSNR, ...], Field(min_length=2, max_length=2)] = Field(
        description="Log signal-to-noise ratios of the first and the last of these levels; those between them are in "
        "equal steps."
    )
    pseudo_inputs: Annotated[int, Field(ge=1, le=65536)] = Field(
        description="Components of the priors vamp and mixture."
    )
    posterior: Literal["gaussian", "full", "iaf"] = Field(
        description="Distribution of a level given those below it, with inference bottom_up: gaussian, of independent "
        "units; full, a Gaussian with all covariances; or iaf, an inverse autoregressive flow."
    )
    flow_transforms: Annotated[int, Field(ge=1, le=32)] = Field(
        description="Autoregressive maps, one after another, of the prior flow and of each level of the posterior iaf."
    )
    flow_hidden: Annotated[tuple[FlowWidth, ...], Field(min_length=1, max_length=8)] = Field(
        description="Widths of the hidden layers of the network in each of these maps."
    )
    likelihood: Annotated[
        Literal["bernoulli", "gaussian", "continuous_bernoulli", "discretized_logistic"], or_own("likelihood")
    ] = Field(
        description="Distribution of a pixel: bernoulli for binary pixels; for grey ones the densities gaussian and "
        "continuous_bernoulli or the probability discretized_logistic, which is never ranked with densities."
    )
    sigma: Positive | Literal["learned"] = Field(
        description="Standard deviation of the likelihood gaussian; learned: an output of the decoder for each pixel."
    )
    grey_levels: Annotated[int, Field(ge=2, le=65536)] = Field(
        description="Number of grey levels of the likelihood discretized_logistic, which must be that of the data: 17 "
        "for digits, else 256."
    )
    components: Annotated[int, Field(ge=1, le=10)] = Field(
        description="Logistics that are mixed in a pixel of the likelihood discretized_logistic. In colour, green "
        "depends on red, and blue on both."
    )
    network: Annotated[Literal["mlp", "conv", "resnet", "unet"], or_own("network")] = Field(
        description="Networks between the levels: mlp; conv, residual convolutions next to x and mlps above; or "
        "resnet, the same with group normalization and any number of blocks. A diffusion has one, mlp or unet."
    )
    blocks: Annotated[int, Field(ge=1, le=64)] = Field(
        description="Residual blocks of a resnet or a unet at each height and width."
    )
    latents: Literal["vectors", "maps"] = Field(
        description="Form of the levels: vectors, or maps, as high and wide as the network below has left of the "
        "image; then z_dim and widths count channels, and every network is a resnet."
    )
    levels_per_size: Annotated[int, Field(ge=1, le=64)] = Field(
        description="Levels of maps of the same height and width, before the next list of hidden halves them."
    )
    batch_norm: bool = Field(description="Whether every dense layer of the mlps is followed by batch normalization.")
    hidden: Annotated[tuple[tuple[Width, ...], ...], Field(min_length=1)] = Field(
        description="Widths of the hidden layers of each network from the data up; the last list serves all levels "
        "above. With conv and resnet, the first list has channels, each at half the height and width of the one "
        "before; with maps, every list has. Of a unet, channels at the image's own size, at half of it, and so on."
    )
    activation: Literal["tanh", "relu", "leaky_relu", "elu", "silu"] = Field(
        description="Activation function of the hidden layers."
    )

    @property
    def levels(self) -> int:
        """T, and of a diffusion without end the number of levels of the chain that stands for it."""
        return CONTINUOUS_LEVELS if self.depth == "continuous" else self.depth

    @property
    def level_widths(self) -> tuple[int, ...]:
        """Units of z_1, ..., z_T, or channels of maps: `widths`, or `z_dim` shrunk by `z_ratio` from level to level.

        Those of a diffusion are the data's, and none are given.
        """
        if self.inference == "diffusion":
            return ()
        if self.widths is not None:
            return self.widths
        return tuple(max(1, round(self.z_dim * self.z_ratio**level)) for level in range(self.levels))

    def level_shapes(self, image: Shape) -> list[Shape]:
        """Return channels, height and width of z_1, ..., z_T for images of this shape; vectors have the size 1x1.

        The levels of a prior diffusion follow.
        """
        if self.inference == "diffusion":
            return [image] * self.levels
        size, shapes = image[1:], []
        for rung, units in enumerate(self.level_widths):
            if self.latents == "maps" and self.halves(rung):
                size = halvings(size, len(self.hidden_of(rung)))[-1]
            shapes.append((units, *size) if self.latents == "maps" else (units, 1, 1))
        return shapes + shapes[-1:] * (self.prior_levels if self.prior == "diffusion" else 0)

    def level_units(self, image: Shape) -> list[int]:
        """Return the numbers of units of z_1, ..., z_T for images of this shape, of maps those in all channels."""
        return [math.prod(shape) for shape in self.level_shapes(image)]

    def hidden_of(self, rung: int) -> tuple[int, ...]:
        """Return the hidden widths of a rung's networks, the lowest being 0."""
        group = rung // self.levels_per_size if self.latents == "maps" else rung
        return self.hidden[min(group, len(self.hidden) - 1)]

    def halves(self, rung: int) -> bool:
        """Return whether a rung's networks between maps halve the height and width for each hidden layer."""
        return rung % self.levels_per_size == 0


def halvings(size: tuple[int, int], times: int) -> list[tuple[int, int]]:
    """Return a height and width, and those after each of so many halvings, rounded up."""
    sizes = [size]
    for _ in range(times):
        sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
    return sizes
