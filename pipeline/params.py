"""Parameters: `params.yaml` read into frozen, strict models.

A parameter has one name everywhere, its dotted path (`model.depth`): in YAML, in `--set`, in a variant's
overrides, in the search space and in MLflow. Defaults stand in the YAML file alone, so every key must be
there. Whatever is wrong becomes an `InputError` that names the path, what was given and what is allowed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipeline.errors import InputError, nearest

__all__ = [
    "CaveParams",
    "Choices",
    "DataParams",
    "EvaluateParams",
    "ModelParams",
    "Params",
    "Range",
    "ReportParams",
    "SweepParams",
    "TrainParams",
    "digest",
    "dump_yaml",
    "parse_assignments",
    "read_yaml",
]

Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Nonnegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Width = Annotated[int, Field(ge=1, le=65536)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]


class Strict(BaseModel):
    """Frozen; an unknown key raises; no type is converted."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class CaveParams(Strict):
    """The rendered data set."""

    images: Annotated[int, Field(ge=100, le=1_000_000)]
    size: Annotated[int, Field(ge=28, le=512)]
    grey: bool


class DataParams(Strict):
    """Which images, how split, how binarized."""

    name: Literal[
        "digits",
        "cave",
        "mnist",
        "fashion_mnist",
        "binarized_mnist",
        "omniglot",
        "caltech101_silhouettes",
        "frey_face",
    ]
    protocol: Literal["auto", "stratified", "standard", "burda", "static", "published"]
    binarization: Literal["dynamic", "static", "none"]
    seed: Seed
    cave: CaveParams

    @property
    def binary(self) -> bool:
        """Are the pixels 0 or 1, by nature or by binarization?"""
        published = self.name in ("binarized_mnist", "caltech101_silhouettes")
        return self.binarization != "none" or published or (self.name == "cave" and not self.cave.grey)


class ModelParams(Strict):
    """The knobs of a `HierarchicalVAE`."""

    depth: Annotated[int, Field(ge=1, le=64)]
    z_dim: Width
    z_ratio: Annotated[float, Field(gt=0, le=4, allow_inf_nan=False)]
    widths: Annotated[tuple[Width, ...], Field(min_length=1)] | None
    parents: Literal["nearest", "every"]
    inference: Literal["bottom_up"]
    prior: Literal["normal"]
    likelihood: Literal["bernoulli", "gaussian"]
    network: Literal["mlp"]
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

    objective: Literal["elbo", "beta", "iwae"]
    draws: Count
    beta: Nonnegative
    warmup: Annotated[int, Field(ge=0)]
    epochs: Count
    batch_size: Count
    learning_rate: Positive
    schedule: Literal["constant", "cosine", "staged"]
    horizon: Count | None
    adam_beta1: Annotated[float, Field(ge=0, lt=1)]
    adam_beta2: Annotated[float, Field(ge=0, lt=1)]
    adam_eps: Positive
    clip: Positive | None
    patience: Count | None
    valid_draws: Count
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.objective != "beta" and (self.beta != 1 or self.warmup != 0):
            raise ValueError(f"beta {self.beta} and warmup {self.warmup} weigh nothing in objective '{self.objective}'")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds must differ, not {list(self.seeds)}")
        return self


class Range(Strict):
    """An interval of a search space; whole numbers where both ends are whole."""

    low: int | float
    high: int | float
    log: bool = False
    step: int | float | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.low <= self.high:
            raise ValueError(f"low {self.low} is above high {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"a log scale needs low above 0, not {self.low}")
        if self.step is not None and (self.log or self.step <= 0):
            raise ValueError("step must be above 0 and does not go with log")
        return self


class Choices(Strict):
    """A list of values of a search space."""

    choices: Annotated[tuple[str | int | float | bool, ...], Field(min_length=1)]


class SweepParams(Strict):
    """The search: how many trials, over what."""

    trials: Count
    epochs: Count
    sampler: Literal["tpe", "random"]
    pruner: Literal["median", "none"]
    failures: Annotated[int, Field(ge=0)]
    seed: Seed
    space: dict[str, Range | Choices]


class EvaluateParams(Strict):
    """How precisely the test bounds are measured."""

    draws: Count
    k: Annotated[tuple[Count, ...], Field(min_length=1)]
    active_draws: Annotated[int, Field(ge=20)]
    active_threshold: Positive
    seed: Seed

    @model_validator(mode="after")
    def _within(self) -> Self:
        if list(self.k) != sorted(set(self.k)):
            raise ValueError(f"k must grow, not {list(self.k)}")
        if self.k[-1] > self.draws:
            raise ValueError(f"k up to {self.k[-1]} needs as many draws, not {self.draws}")
        return self


class ReportParams(Strict):
    """How results are shown."""

    confidence: Annotated[float, Field(gt=0, lt=1)]
    images: Annotated[int, Field(ge=2, le=40)]


Overrides = dict[str, Any]


class Params(Strict):
    """All of `params.yaml`."""

    root: str
    out: str
    data: DataParams
    model: ModelParams
    train: TrainParams
    variants: Annotated[dict[Name, Overrides], Field(min_length=1)]
    sweep: SweepParams
    evaluate: EvaluateParams
    report: ReportParams

    @classmethod
    def read(cls, path: Path, overrides: Mapping[str, Any] | None = None) -> Params:
        """Read and check the whole file, with `overrides` by dotted path; raise `InputError` in one line."""
        raw = read_yaml(path)
        if not isinstance(raw, dict):
            raise InputError(f"{path.name}: a mapping of sections is wanted, not {_show(raw)}")
        params = cls._validate(raw, path.name).override(overrides or {}, "--set")
        params.check()
        return params

    @classmethod
    def _validate(cls, raw: object, source: str) -> Params:
        try:
            return cls.model_validate(_tuples(raw))
        except ValidationError as error:
            raise InputError(f"{source}: {_explain(error, cls)}") from None

    def override(self, overrides: Mapping[str, Any], source: str = "overrides") -> Params:
        """Return these parameters with the values at some dotted paths replaced, checked anew.

        Giving `model.widths` sets `model.depth` to its length unless the same overrides name a depth.
        """
        raw = self.model_dump()
        for path, value in overrides.items():
            *parents, last = path.split(".")
            at: Any = raw
            for key in parents:
                at = at.get(key) if isinstance(at, dict) else None
            if not isinstance(at, dict) or not (last in at or at is raw["variants"]):
                raise InputError(f"{source}: {path}: no such parameter{nearest(path, self.flat())}")
            at[last] = value
        if overrides.get("model.widths") is not None and "model.depth" not in overrides:
            raw["model"]["depth"] = len(overrides["model.widths"])
        return type(self)._validate(raw, source)

    def variant(self, name: str) -> Params:
        """Return these parameters as variant `name` has them."""
        if name not in self.variants:
            raise InputError(
                f"variant: '{name}' is not in variants; allowed: {', '.join(self.variants)}"
                + nearest(name, self.variants)
            )
        return self.override(self.variants[name], f"variants.{name}")

    def space(self, variant: str) -> dict[str, Range | Choices]:
        """Return what is swept for a variant: the space less the paths that the variant fixes."""
        return {path: kind for path, kind in self.sweep.space.items() if path not in self.variants[variant]}

    def flat(self) -> dict[str, Any]:
        """Return every value of data, model, train, sweep, evaluate and report by its dotted path."""
        sections = self.model_dump(exclude={"root", "out", "variants"})
        return dict(_flatten(sections, ""))

    def check(self) -> None:
        """Check what no single field shows: variants, the space, and sections against each other."""
        for name in self.variants:
            self.variant(name)._check_model(f"variants.{name}: ")
        for path, kind in self.sweep.space.items():
            where = f"sweep.space.{path}"
            if path.split(".")[0] not in ("model", "train") or path in ("train.seeds", "train.epochs"):
                raise InputError(f"{where}: only paths in model and train can be swept, seeds and epochs excepted")
            values = kind.choices if isinstance(kind, Choices) else (kind.low, kind.high)
            for value in values:
                self.override({path: value}, where)

    def _check_model(self, where: str = "") -> None:
        model = self.model
        if model.widths is not None and len(model.widths) != model.depth:
            raise InputError(
                f"{where}model.widths: {len(model.widths)} widths given for model.depth {model.depth};"
                " allowed: null or one width per level"
            )
        if model.likelihood == "bernoulli" and not self.data.binary:
            raise InputError(
                f"{where}model.likelihood: 'bernoulli' needs binary pixels, but data.binarization is 'none' and"
                f" {self.data.name} is grey; allowed: data.binarization dynamic or static, or model.likelihood gaussian"
            )


def digest(value: Any, length: int = 12) -> str:
    """Return a short sha256 of a JSON-able value, equal for equal values whatever their keys' order."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=list)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def read_yaml(path: Path) -> Any:
    """Read a YAML 1.2 file (`1e-3` is a number) without executing anything in it."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        return YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; run this in the project's root or in a study's folder") from None
    except (YAMLError, UnicodeDecodeError, ValueError, OSError) as error:
        raise InputError(f"{path.name}: not readable as YAML: {_one_line(error)}") from None


def dump_yaml(params: Params) -> str:
    """Write parameters as a YAML text that `Params.read` takes back."""
    from ruamel.yaml import YAML

    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = None
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    text = StringIO()
    yaml.dump(json.loads(params.model_dump_json()), text)
    return text.getvalue()


def parse_assignments(assignments: list[str]) -> dict[str, Any]:
    """Read `path=value` words; a value is YAML (`3`, `1e-3`, `[20, 10]`, `null`, `mnist`)."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    values: dict[str, Any] = {}
    for word in assignments:
        path, sign, text = word.partition("=")
        if not sign or not path:
            raise InputError(f"--set: '{word}' is not of the form path=value, as in model.depth=3")
        try:
            values[path] = YAML(typ="safe", pure=True).load(text)
        except (YAMLError, ValueError) as error:
            raise InputError(f"--set: {path}: not readable as YAML: {_one_line(error)}") from None
    return values


def _tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return tuple(_tuples(item) for item in value)
    return value


def _flatten(value: dict[str, Any], prefix: str) -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for key, item in value.items():
        path = prefix + str(key)
        if isinstance(item, dict) and path != "sweep.space":
            rows += _flatten(item, path + ".")
        else:
            rows.append((path, item))
    return rows


def _explain(error: ValidationError, root: type[BaseModel]) -> str:
    """Tell the first fault in one line: path, what was given, what is allowed."""
    first = error.errors()[0]
    keys = [key for key in first["loc"] if key not in ("Range", "Choices", "int", "float", "tuple")]
    path = ".".join(str(key) for key in keys if not _is_branch(key))
    given = _show(first["input"])
    kind, context = first["type"], first.get("ctx", {})
    if kind == "extra_forbidden":
        siblings = _siblings(root, [str(key) for key in keys[:-1]])
        hint = nearest(str(keys[-1]), siblings)
        allowed = f"; allowed: {', '.join(siblings)}" if siblings else ""
        return f"{path}: unknown key{hint}{allowed}"
    if kind == "missing":
        return f"{path}: missing"
    if kind == "literal_error":
        field = _annotation(root, [str(key) for key in keys])
        choices = [str(choice) for choice in get_args(field)] or [str(context.get("expected"))]
        return f"{path}: {given} given{nearest(str(first['input']), choices)}; allowed: {', '.join(choices)}"
    if kind == "value_error":
        return f"{path}: {context['error']}"
    allowed = first["msg"].removeprefix("Input should be ").removeprefix("a valid ")
    return f"{path}: {given} given; allowed: {allowed}"


def _is_branch(key: object) -> bool:
    return isinstance(key, str) and ("[" in key or "constrained" in key)


def _siblings(root: type[BaseModel], keys: list[str]) -> list[str]:
    model = _annotation(root, keys)
    return list(model.model_fields) if isinstance(model, type) and issubclass(model, BaseModel) else []


def _annotation(root: type[BaseModel], keys: list[str]) -> Any:
    at: Any = root
    for key in keys:
        if not (isinstance(at, type) and issubclass(at, BaseModel) and key in at.model_fields):
            return None
        at = at.model_fields[key].annotation
    return at


def _show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _one_line(error: object) -> str:
    return " ".join(str(error).split())
