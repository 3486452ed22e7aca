"""The section `model` of params.yaml, and what its likelihoods measure."""

from __future__ import annotations

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
    "PROBABILITY",
    "ModelParams",
    "measure_of",
]

PROBABILITY = "probability"
DENSITY = "density of pixels scaled to [0, 1]"
DEQUANTIZED = "density of dequantized pixels in [0, 1]"
INFORMATIVE = 0.01  # of a unit's variance, above which it counts as informative
MEASURES = {  # what a likelihood gives to an image; numbers of different measures cannot be compared
    "bernoulli": PROBABILITY,
    "gaussian": DENSITY,
    "continuous_bernoulli": DENSITY,
    "discretized_logistic": PROBABILITY,
}


def measure_of(likelihood: str, dequantization: str = "none") -> str:
    """Return what a likelihood gives to an image: a probability, or a density and of what."""
    return DEQUANTIZED if dequantization == "uniform" else MEASURES[likelihood]


class ModelParams(Strict):
    """The architecture of a `HierarchicalVAE`."""

    depth: Annotated[int, Field(ge=1, le=64)] = Field(description="Number of latent levels, T.")
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
    inference: Annotated[Literal["bottom_up", "top_down"], or_own("posterior")] = Field(
        description="Direction of the posterior: bottom_up, equation (20), or top_down, the ladder, which merges "
        "features of x with the prior on the way down."
    )
    prior: Annotated[Literal["normal", "vamp", "mixture"], or_own("prior")] = Field(
        description="Distribution of the top level: normal, vamp (a mixture of the posterior at learned "
        "pseudo-inputs) or mixture (of learned Gaussians)."
    )
    pseudo_inputs: Annotated[int, Field(ge=1, le=65536)] = Field(
        description="Components of the priors vamp and mixture."
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
    network: Annotated[Literal["mlp", "conv"], or_own("network")] = Field(
        description="Networks between the levels: mlp, or conv, residual convolutions next to x and mlps above."
    )
    batch_norm: bool = Field(description="Whether every dense layer of the mlps is followed by batch normalization.")
    hidden: Annotated[tuple[tuple[Width, ...], ...], Field(min_length=1)] = Field(
        description="Widths of the hidden layers of each network from the data up; the last list serves all levels "
        "above. With conv, the first list has channels, each at half the height and width of the one before."
    )
    activation: Literal["tanh", "relu", "leaky_relu", "elu", "silu"] = Field(
        description="Activation function of the hidden layers."
    )

    @property
    def level_widths(self) -> tuple[int, ...]:
        """Units of z_1, ..., z_T: `widths`, or `z_dim` shrunk by `z_ratio` from level to level."""
        if self.widths is not None:
            return self.widths
        return tuple(max(1, round(self.z_dim * self.z_ratio**level)) for level in range(self.depth))
