"""The sections `evaluate` and `report` of params.yaml."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pipeline.params.ranges import Strict
from pipeline.params.sections.types import MOST, Count, DataName, Positive, Seed, Several

__all__ = [
    "DecomposeParams",
    "EvaluateParams",
    "OutlierParams",
    "ReportParams",
]


class DecomposeParams(Strict):
    """Numbers of images and draws of each decomposition; the first images of the test set are taken."""

    level_images: Several = Field(description="Test images behind chain_kl and the gaps by level.")
    level_draws: Several = Field(description="Posterior draws per image behind them.")
    inner_draws: Several = Field(
        description="Draws of the remaining levels for each draw of the first ones, behind the inner bounds."
    )
    simulated: Several = Field(description="Images drawn from the model, on which bounds have an upper side.")
    queries: Several = Field(
        description="Examples whose draws are scored under the posteriors of all images (surgery)."
    )
    path_draws: Several = Field(description="Draws of the levels above, behind the information of the others.")
    pair_queries: Several = Field(
        description="Queries of the surgery where every pair with an example goes through the networks."
    )
    aggregate: Literal["test", "train"] = Field(
        description="Images that the surgery is of; with more of them log N limits less."
    )
    gap_images: Several = Field(description="Test images behind the approximation and the amortization gap.")
    gap_steps: Count = Field(
        description="Largest number of steps of the search for the best posterior of an image, which ends where its "
        "bound stops rising."
    )
    gap_draws: Count = Field(description="Draws per step of that search.")
    gap_learning_rate: Positive = Field(description="Learning rate of that search.")
    ais_images: Several = Field(
        description="Test images behind annealed importance sampling; its two-sided bound is of the `simulated` images."
    )
    ais_chains: Several = Field(description="Chains per image.")
    ais_temperatures: Several = Field(
        description="Largest number of temperatures, which is doubled from about a tenth until the bound rises by "
        "less than 0.05 nats."
    )
    ais_leapfrog_steps: Count = Field(description="Leapfrog steps of each Hamiltonian move.")
    factor_images: Annotated[int, Field(ge=100, le=MOST)] = Field(
        description="Training images that probes of the known factors are fitted on (data set cave)."
    )
    factor_draws: Several = Field(description="Posterior draws per image behind the probes.")


class OutlierParams(Strict):
    """Images of another kind that the test set is compared with; the first of their test set are taken."""

    data: Literal["shuffled"] | DataName = Field(
        description="Images that the test set is compared with: shuffled (its own, with pixels in random order) or "
        "another data set of the same shape."
    )
    images: Several = Field(description="Number of images of each kind.")
    draws: Several = Field(description="Posterior draws per image.")


class EvaluateParams(Strict):
    """The measurement of the test bounds."""

    draws: Several = Field(description="Posterior draws per test image.")
    k: Annotated[tuple[Count, ...], Field(min_length=1)] = Field(
        description="Sample counts of the importance-weighted bounds L_k, in growing order, divisors of draws; nll is "
        "minus the last."
    )
    active_draws: Annotated[int, Field(ge=20, le=MOST, multiple_of=10)] = Field(
        description="Draws behind the active units of the levels above the first."
    )
    active_threshold: Positive = Field(description="Variance above which a unit counts as active.")
    milestone_draws: Several = Field(
        description="Draws per test image at each of train.milestones, whose nll is minus L_k at that k, and per "
        "training image of generalization/*."
    )
    precision: Literal["float32", "bfloat16"] = Field(
        description="Number format of the products of dense layers in the bounds; with bfloat16 the largest error on "
        "the first images is measured and shown."
    )
    decompose: DecomposeParams | None = Field(
        description="The finer decompositions, on the first images of the test set. null: left out."
    )
    outliers: OutlierParams | None = Field(
        description="How well each level separates the test set from other images, as in {data: shuffled, images: 500, "
        "draws: 100}. null: not measured."
    )
    levels: tuple[Annotated[int, Field(ge=1, le=1000)] | Literal["continuous"], ...] = Field(
        description="Numbers of levels at which the bound of a trained diffusion is also measured, without training."
    )
    seed: Seed = Field(description="Seed of all draws of the evaluation.")

    @model_validator(mode="after")
    def _within(self) -> Self:
        if list(self.k) != sorted(set(self.k)):
            raise ValueError(f"k must grow, not {list(self.k)}")
        if any(self.draws % k for k in self.k):
            raise ValueError(f"every k must divide draws, {self.draws}, not {list(self.k)}")
        return self


class ReportParams(Strict):
    """How the report shows results."""

    confidence: Annotated[float, Field(gt=0, lt=1)] = Field(description="Level of the confidence intervals.")
    images: Annotated[int, Field(ge=2, le=40)] = Field(description="Images per row of the figures.")
    published: dict[str, dict[str, Annotated[float, Field(allow_inf_nan=False)]]] = Field(
        description="Published values of nll to show beside the study's own, by variant and source, with the number "
        'of draws in the name: {vae: {"a paper, -L_5000": 86.76}}.'
    )
