"""The sections `sweep` and `compare` of params.yaml."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from pipeline.params.ranges import Choices, Range, Strict
from pipeline.params.sections.types import MOST, Count, Positive, Seed

__all__ = [
    "CompareParams",
    "SweepParams",
]


Searched = Annotated[
    Annotated[Range, Tag("interval")] | Annotated[Choices, Tag("list")],
    Discriminator(lambda value: "list" if isinstance(value, Choices) or "choices" in _keys(value) else "interval"),
]


def _keys(value: object) -> Collection[object]:
    return value if isinstance(value, dict) else ()


class SweepParams(Strict):
    """The search of each variant's settings; what a variant fixes is not searched."""

    metric: Literal["valid/objective", "valid/elbo", "valid/iwae"] = Field(
        description="Validation metric that the search maximizes, of the weights that a training keeps: "
        "valid/objective (what is trained for), valid/elbo or valid/iwae (L_k, with k the draws of validation)."
    )
    searches: Count = Field(
        description="Independent searches of each variant, with the sampler seeds seed, seed + 1, ...; the j-th of "
        "train.seeds is trained with the best settings of search j mod searches, so that with one search a seed (the "
        "most allowed) intervals over seeds cover the search too."
    )
    trials: Count = Field(description="Number of trials per search.")
    epochs: Count = Field(description="Value of train.epochs in a trial.")
    sampler: Literal["tpe", "random", "grid"] = Field(
        description="How settings are chosen: tpe (tree-structured Parzen estimator), random, or grid (every setting "
        "of a space without endless intervals once; trials is not used)."
    )
    pruner: Literal["median", "none"] = Field(
        description="How trials are stopped early: median stops one that is below the median of the others at its "
        "epoch, none stops none."
    )
    startup_trials: Count = Field(description="Number of random trials before tpe learns and the pruner compares.")
    max_failures: Annotated[int, Field(ge=0, le=MOST)] = Field(
        description="Number of failed trials that a sweep tolerates; one more ends it."
    )
    seed: Seed = Field(description="Seed of the sampler and of the trials' trainings, of the first search.")
    space: dict[str, Searched] = Field(
        description="Values that are searched, by dotted path: {low, high, log, step} is an interval, {choices: "
        "[...]} a list. Each must hold the value that the file has at the path, which is the first trial."
    )


class CompareParams(Strict):
    """What all variants of a study have in equal amounts: parameters, or training time."""

    match: Literal["none", "parameters", "time"] = Field(
        description="What all variants have as much of: none; parameters, where hidden widths are scaled to the "
        "number of weights below, within 1%, in trials and final models; or time, where a final training gets as many "
        "epochs as the seconds below hold, and train.epochs is not used."
    )
    parameters: Count | None = Field(description="Weights of every model, with match parameters.")
    seconds: Positive | None = Field(description="Seconds of every final training, with match time.")

    @model_validator(mode="after")
    def _amount_is_set(self) -> Self:
        amounts = {"parameters": ("parameters", self.parameters), "time": ("seconds", self.seconds)}
        name, value = amounts.get(self.match, ("", 0))
        if value is None:
            raise ValueError(f"match '{self.match}' needs {name}, a number above 0 that every variant gets, not null")
        return self
