"""The section `train` of params.yaml."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pipeline.params.ranges import Strict
from pipeline.params.sections.types import MOST, Count, Nonnegative, Positive, Seed

__all__ = [
    "TrainParams",
]


class TrainParams(Strict):
    """The objective and its optimization."""

    objective: Literal["elbo", "beta", "iwae", "stl", "dreg"] = Field(
        description="What is maximized: elbo, beta (the elbo with a weighted rate and a warm-up), iwae (the "
        "importance-weighted bound), stl (the elbo without the score of q) or dreg (iwae with the doubly "
        "reparameterized gradient)."
    )
    draws: Count = Field(description="Posterior draws per image and step: L of elbo, beta and stl, k of iwae and dreg.")
    beta: Nonnegative = Field(description="Weight of the rate in the objective beta. No reported bound is weighted.")
    warmup: Annotated[int, Field(ge=0, le=MOST)] = Field(
        description="Epochs over which the weight of the rate grows from 0, with the objective beta."
    )
    warmup_stagger: Annotated[int, Field(ge=0, le=MOST)] = Field(
        description="Epochs by which the warm-up of a level starts after that of the level below it."
    )
    free_bits: Nonnegative = Field(
        description="Nats of each level's rate that cost nothing, with the objectives elbo and beta."
    )
    epochs: Count = Field(description="Largest number of epochs of a final training.")
    batch_size: Count = Field(description="Images per step.")
    learning_rate: Positive = Field(description="Learning rate of Adam at the start of the schedule.")
    schedule: Literal["constant", "cosine", "staged"] = Field(
        description="How the learning rate falls: constant, cosine, or staged, the schedule of the IWAE paper: "
        "10^(-i/7) for 3^i of 3280 epochs, to scale."
    )
    schedule_epochs: Count | None = Field(description="Epochs over which the schedule is laid out. null: train.epochs.")
    adam_beta1: Annotated[float, Field(ge=0, lt=1)] = Field(description="Decay of Adam's mean of the gradient.")
    adam_beta2: Annotated[float, Field(ge=0, lt=1)] = Field(description="Decay of Adam's mean square of the gradient.")
    adam_eps: Positive = Field(description="Term that Adam adds to the denominator.")
    adam_initial_second_moment: Nonnegative = Field(
        description="Value at which Adam's mean square of the gradient starts; the IWAE paper's code has 1."
    )
    reduction: Literal["mean", "sum"] = Field(
        description="Whether the objective is the mean or the sum over the batch; clip and adam_eps act on its "
        "gradient."
    )
    clip: Positive | None = Field(
        description="Largest norm of the gradient; a longer one is scaled down to it. null: no limit."
    )
    precision: Literal["float32", "bfloat16"] = Field(
        description="Number format of the products of dense layers in training; bfloat16 has 8 bits, and is slower in "
        "small batches."
    )
    compile: bool = Field(
        description="Whether the training step is compiled: some 10 s once, worth it for trainings of minutes; needs "
        "a C++ compiler."
    )
    shuffle: bool = Field(description="Whether the images are presented in another order every epoch.")
    ema: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        description="Decay of an exponential moving average of the weights, which is then what is validated and kept. "
        "null: no average."
    )
    patience: Count | None = Field(
        description="Epochs without a gain in valid/objective after which training stops. null: never."
    )
    keep: Literal["best", "last"] = Field(
        description="Weights that are kept: those of the best epoch by valid/objective, or of the last."
    )
    milestones: tuple[Count, ...] = Field(
        description="Epochs whose weights are kept and tested too, for curves of the test bounds."
    )
    valid_draws: Count = Field(
        description="Posterior draws per validation image behind the metrics valid/*, unless the objective is iwae or "
        "dreg, which take train.draws."
    )
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = Field(
        description="Seeds of the final trainings, one training each."
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.objective != "beta" and (self.beta != 1 or self.warmup != 0):
            raise ValueError(f"beta {self.beta} and warmup {self.warmup} weigh nothing in objective '{self.objective}'")
        if self.warmup_stagger and not self.warmup:
            raise ValueError(f"warmup_stagger {self.warmup_stagger} delays a warmup, and there is none")
        if self.free_bits and self.objective not in ("elbo", "beta"):
            raise ValueError(f"free_bits {self.free_bits} go with objective elbo or beta, not '{self.objective}'")
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"milestones must grow, not {list(self.milestones)}")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds must differ, not {list(self.seeds)}")
        return self

    @property
    def importance_weighted(self) -> bool:
        """Whether the objective is L_k with k the draws."""
        return self.objective in ("iwae", "dreg")

    @property
    def draws_behind_valid(self) -> int:
        """Draws per validation image behind the metrics `valid/`."""
        return self.draws if self.importance_weighted else self.valid_draws

    def warmup_end(self, depth: int | Literal["continuous"]) -> int:
        """Return the epoch at which every level's rate has its full weight; only later ones can be the best."""
        return self.warmup + (0 if depth == "continuous" else self.warmup_stagger * (depth - 1))
