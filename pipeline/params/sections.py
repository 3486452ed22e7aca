"""The sections of `params.yaml`: which keys there are, of what type, within what range."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pipeline.params.ranges import Choices, Range, Strict

__all__ = [
    "DENSITY",
    "DEQUANTIZED",
    "INFORMATIVE",
    "MEASURES",
    "PROBABILITY",
    "CaveParams",
    "CompareParams",
    "DataParams",
    "DecomposeParams",
    "EvaluateParams",
    "ModelParams",
    "OutlierParams",
    "ReportParams",
    "SweepParams",
    "TrainParams",
    "measure_of",
    "published_binary",
]

MOST = 2**31 - 1  # of whatever is counted: what every library takes
Seed = Annotated[int, Field(ge=0, le=MOST)]
Count = Annotated[int, Field(ge=1, le=MOST)]
Several = Annotated[int, Field(ge=2, le=MOST)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Nonnegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Width = Annotated[int, Field(ge=1, le=65536)]

DataName = Literal[
    "digits",
    "cave",
    "mnist",
    "fashion_mnist",
    "binarized_mnist",
    "omniglot",
    "caltech101_silhouettes",
    "frey_face",
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


class CaveParams(Strict):
    """The rendered data set."""

    images: Annotated[int, Field(ge=100, le=1_000_000)]
    size: Annotated[int, Field(ge=28, le=512)]
    grey: bool


def published_binary(name: str, grey: bool) -> bool:
    """Tell whether the pixels of a data set are 0 or 1 before any binarization; `grey` is that of `cave`."""
    return name in ("binarized_mnist", "caltech101_silhouettes") or (name == "cave" and not grey)


class DataParams(Strict):
    """Which images, how split, how binarized."""

    name: DataName
    protocol: Literal["auto", "stratified", "standard", "burda", "static", "published"]
    binarization: Literal["dynamic", "static", "none"]
    dequantization: Literal["none", "uniform"]
    seed: Seed
    cave: CaveParams

    @property
    def binary(self) -> bool:
        """Are the pixels 0 or 1, as published or by binarization?"""
        return self.binarization != "none" or published_binary(self.name, self.cave.grey)

    @property
    def grey_levels(self) -> int:
        """Grey levels of a pixel."""
        return 2 if self.binary else 17 if self.name == "digits" else 256


class ModelParams(Strict):
    """The knobs of a `HierarchicalVAE`."""

    depth: Annotated[int, Field(ge=1, le=64)]
    z_dim: Width
    z_ratio: Annotated[float, Field(gt=0, le=4, allow_inf_nan=False)]
    widths: Annotated[tuple[Width, ...], Field(min_length=1)] | None
    parents: Literal["nearest", "every"]
    inference: Literal["bottom_up", "top_down"]
    prior: Literal["normal", "vamp", "mixture"]
    pseudo_inputs: Annotated[int, Field(ge=1, le=65536)]
    likelihood: Literal["bernoulli", "gaussian", "continuous_bernoulli", "discretized_logistic"]
    sigma: Positive | Literal["learned"]
    grey_levels: Annotated[int, Field(ge=2, le=65536)]
    network: Literal["mlp", "conv"]
    batch_norm: bool
    hidden: Annotated[tuple[tuple[Width, ...], ...], Field(min_length=1)]
    activation: Literal["tanh", "relu", "leaky_relu", "elu", "silu"]

    @property
    def level_widths(self) -> tuple[int, ...]:
        """Units of z_1, ..., z_T: `widths`, or `z_dim` shrunk by `z_ratio` from level to level."""
        if self.widths is not None:
            return self.widths
        return tuple(max(1, round(self.z_dim * self.z_ratio**level)) for level in range(self.depth))


class TrainParams(Strict):
    """The objective, and how it is climbed."""

    objective: Literal["elbo", "beta", "iwae", "stl", "dreg"]
    draws: Count
    beta: Nonnegative
    warmup: Annotated[int, Field(ge=0, le=MOST)]
    warmup_stagger: Annotated[int, Field(ge=0, le=MOST)]
    free_bits: Nonnegative
    epochs: Count
    batch_size: Count
    learning_rate: Positive
    schedule: Literal["constant", "cosine", "staged"]
    schedule_epochs: Count | None
    adam_beta1: Annotated[float, Field(ge=0, lt=1)]
    adam_beta2: Annotated[float, Field(ge=0, lt=1)]
    adam_eps: Positive
    adam_initial_second_moment: Nonnegative
    reduction: Literal["mean", "sum"]
    clip: Positive | None
    precision: Literal["float32", "bfloat16"]
    compile: bool
    shuffle: bool
    ema: Annotated[float, Field(gt=0, lt=1)] | None
    patience: Count | None
    keep: Literal["best", "last"]
    milestones: tuple[Count, ...]
    valid_draws: Count
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)]

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

    def warmup_end(self, depth: int) -> int:
        """Return the epoch at which every level's rate has its full weight; only later ones can be the best."""
        return self.warmup + self.warmup_stagger * (depth - 1)


class SweepParams(Strict):
    """The search: which metric it maximizes, how many trials, over what."""

    metric: Literal["valid/objective", "valid/elbo", "valid/iwae"]
    trials: Count
    epochs: Count
    sampler: Literal["tpe", "random"]
    pruner: Literal["median", "none"]
    startup_trials: Count
    max_failures: Annotated[int, Field(ge=0, le=MOST)]
    seed: Seed
    space: dict[str, Range | Choices]


class CompareParams(Strict):
    """What all variants of a study have as much of."""

    match: Literal["none", "parameters", "time"]
    parameters: Count | None
    seconds: Positive | None

    @model_validator(mode="after")
    def _matched(self) -> Self:
        given = {"parameters": ("parameters", self.parameters), "time": ("seconds", self.seconds)}
        name, value = given.get(self.match, ("", 0))
        if value is None:
            raise ValueError(f"match '{self.match}' needs {name}, a number above 0 that every variant gets, not null")
        return self


class DecomposeParams(Strict):
    """How much of the test set, and how many draws, each decomposition takes; the first images are taken."""

    level_images: Several
    level_draws: Several
    inner_draws: Several
    simulated: Several
    queries: Several
    path_draws: Several
    pair_queries: Several
    aggregate: Literal["test", "train"]
    gap_images: Several
    gap_steps: Count
    gap_draws: Count
    gap_learning_rate: Positive
    ais_images: Several
    ais_chains: Several
    ais_temperatures: Several
    ais_leapfrog_steps: Count
    factor_images: Annotated[int, Field(ge=100, le=MOST)]
    factor_draws: Several


class OutlierParams(Strict):
    """Images from elsewhere that the test set is told apart from; the first of their test set are taken."""

    data: Literal["shuffled"] | DataName
    images: Several
    draws: Several


class EvaluateParams(Strict):
    """How precisely the test bounds are measured."""

    draws: Several
    k: Annotated[tuple[Count, ...], Field(min_length=1)]
    active_draws: Annotated[int, Field(ge=20, le=MOST, multiple_of=10)]
    active_threshold: Positive
    milestone_draws: Several
    precision: Literal["float32", "bfloat16"]
    decompose: DecomposeParams | None
    outliers: OutlierParams | None
    seed: Seed

    @model_validator(mode="after")
    def _within(self) -> Self:
        if list(self.k) != sorted(set(self.k)):
            raise ValueError(f"k must grow, not {list(self.k)}")
        if any(self.draws % k for k in self.k):
            raise ValueError(f"every k must divide draws, {self.draws}, not {list(self.k)}")
        return self


class ReportParams(Strict):
    """How results are shown."""

    confidence: Annotated[float, Field(gt=0, lt=1)]
    images: Annotated[int, Field(ge=2, le=40)]
    published: dict[str, dict[str, Annotated[float, Field(allow_inf_nan=False)]]]
