"""All sections together: budgets, overrides by dotted path, variants, and checks across sections."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from pipeline.errors import InputError
from pipeline.params.explain import RENAMED, explain
from pipeline.params.metric import check_metric
from pipeline.params.own import import_extensions
from pipeline.params.ranges import Choices, Range, Strict
from pipeline.params.rules import check_model, check_objective, check_outliers
from pipeline.params.sections import (
    CompareParams,
    DataParams,
    EvaluateParams,
    ModelParams,
    ReportParams,
    SweepParams,
    TrainParams,
    measure_of,
)
from pipeline.params.space import check_fixed, check_searches, check_space
from pipeline.params.text import read_yaml
from pipeline.text import did_you_mean

__all__ = ["Params"]

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=100)]
Folder = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]+$", max_length=4096)]
ModuleName = Annotated[str, Field(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$", max_length=200)]
Overrides = dict[str, Any]


class Params(Strict):
    """All of `params.yaml`."""

    root: Folder = Field(description="Folder of the project, relative to this file.")
    out: Folder = Field(
        description="Folder of this study's outputs, relative to this file; its last part is the study's name."
    )
    extensions: tuple[ModuleName, ...] = Field(
        description="Python modules in the project's root, or installed, that register likelihoods, networks, priors or"
        " posteriors of one's own (docs/python.md)."
    )
    budget: Annotated[str, Field(max_length=100)] = Field(
        description="Name of one of the budgets: its values replace those of this file, but not those of a variant or"
        " of --set."
    )
    budgets: Annotated[dict[Name, Overrides], Field(min_length=1)] = Field(
        description="Sets of values, {name: {path: value}}, with paths in train, sweep and evaluate."
    )
    data: DataParams
    model: ModelParams
    train: TrainParams
    variants: Annotated[dict[Name, Overrides], Field(min_length=1)] = Field(
        description="Models that are compared, {name: {path: value}}, with the values that each replaces, at paths in"
        " model and train; what a variant fixes is not searched."
    )
    sweep: SweepParams
    compare: CompareParams
    evaluate: EvaluateParams
    report: ReportParams

    @classmethod
    def read(cls, path: Path, overrides: Mapping[str, Any] | None = None) -> Params:
        """Read and check the whole file; raise `InputError` in one line.

        The values of the `budget` that the file or `overrides` names replace those of the file, and `overrides` replace
        both, all by dotted path. A path that is overridden is not searched.
        """
        return cls.read_with_file(path, overrides)[0]

    @classmethod
    def read_with_file(cls, path: Path, overrides: Mapping[str, Any] | None = None) -> tuple[Params, Params]:
        """Return what `read` returns, and the parameters as they stand in the file, without its budget."""
        file, overrides = cls.read_values(path), dict(overrides or {})
        params = file.override({name: overrides[name] for name in ("budget", "budgets") if name in overrides}, "--set")
        params = params._apply_budget().override(overrides, "--set")._remove_from_space(overrides)
        params.check()
        check_fixed(params, overrides)
        return params, file

    @classmethod
    def read_values(cls, path: Path) -> Params:
        """Return the parameters as they stand in a file, each value checked by itself, without its budget."""
        raw = read_yaml(path)
        if not isinstance(raw, dict):
            raise InputError(f"{path.name}: expected a mapping of sections, not {repr(raw)[:60]}")
        root = raw.get("root")
        return cls._validate(raw, path.name, (path.parent / root).resolve() if isinstance(root, str) else None)

    def _remove_from_space(self, overrides: Mapping[str, Any]) -> Params:
        """Return these parameters without the overridden paths in the search space, unless that is overridden too."""
        space = self.sweep.space
        if {"sweep", "sweep.space"} & set(overrides):
            return self
        smaller = {path: kind for path, kind in space.items() if not {path, path.split(".")[0]} & set(overrides)}
        if smaller == space:
            return self
        return self.model_copy(update={"sweep": self.sweep.model_copy(update={"space": smaller})})

    def _apply_budget(self) -> Params:
        """Return these parameters with the values of their budget; every budget is checked."""
        by_budget = {}
        for name, overrides in self.budgets.items():
            for path in overrides:
                if path.split(".")[0] not in ("train", "sweep", "evaluate"):
                    raise InputError(f"budgets.{name}: {path}: a budget sets paths in train, sweep and evaluate")
            by_budget[name] = self.override(overrides, f"budgets.{name}")
            if by_budget[name].evaluate.outliers != self.evaluate.outliers:
                raise InputError(
                    f"budgets.{name}: evaluate.outliers: a budget does not set it, because data are fetched for it"
                )
        if self.budget not in by_budget:
            hint = did_you_mean(self.budget, by_budget)
            raise InputError(f"budget: '{self.budget}' given; allowed: {', '.join(by_budget)}{hint}")
        return by_budget[self.budget]

    @classmethod
    def _validate(cls, raw: object, source: str, root: Path | None = None) -> Params:
        modules = raw.get("extensions") if isinstance(raw, dict) else ()
        if isinstance(modules, list | tuple):
            import_extensions([name for name in modules if isinstance(name, str)], root)
        try:
            return cls.model_validate(_tuples(raw))
        except ValidationError as error:
            raise InputError(f"{source}: {explain(error, raw, cls)}") from None
        except RecursionError:
            raise InputError(f"{source}: nested too deeply, or within itself") from None

    def override(self, overrides: Mapping[str, Any], source: str = "overrides") -> Params:
        """Return these parameters with the values at some dotted paths replaced, checked anew.

        An override of `model.widths` sets `model.depth` to its length, unless the same overrides have a depth.
        """
        raw = self.model_dump()
        for path, value in overrides.items():
            *parents, last = path.split(".")
            at: Any = raw
            for key in parents:
                at = at.get(key) if isinstance(at, dict) else None
            if not isinstance(at, dict) or not (last in at or at is raw["variants"]):
                if path in RENAMED:
                    raise InputError(f"{source}: {path}: renamed to {RENAMED[path]}")
                raise InputError(f"{source}: {path}: no such parameter{did_you_mean(path, self.flat())}")
            at[last] = value
        widths = overrides.get("model.widths")
        if isinstance(widths, list | tuple) and widths and not {"model", "model.depth"} & set(overrides):
            raw["model"]["depth"] = len(widths)
        return type(self)._validate(raw, source)

    def variant(self, name: str) -> Params:
        """Return these parameters as variant `name` has them."""
        if name not in self.variants:
            raise InputError(
                f"variant: '{name}' is not in variants; allowed: {', '.join(self.variants)}"
                + did_you_mean(name, self.variants)
            )
        return self.override(self.variants[name], f"variants.{name}")

    @property
    def measure(self) -> str:
        """What p(x | z_1) is: a probability, or a density and of what."""
        return measure_of(self.model.likelihood, self.data.dequantization)

    @property
    def has_own_images(self) -> bool:
        """Whether images of the user's own are read, at `data.path`."""
        return "files" in (self.data.name, self.evaluate.outliers.data if self.evaluate.outliers else "")

    @property
    def outliers(self) -> DataParams | None:
        """The data set that outliers are taken from; None without outliers, or if they are shuffled images."""
        outliers = self.evaluate.outliers
        if outliers is None or outliers.data == "shuffled":
            return None
        return self.data.model_copy(update={"name": outliers.data, "protocol": "auto"})

    def space(self, variant: str) -> dict[str, Range | Choices]:
        """Return what is swept for a variant: the space less what it fixes, `model.widths` fixing depth and units.

        The units of a diffusion are the data's.
        """
        fixed, model = set(self.variants.get(variant, {})), self.variant(variant).model
        if model.widths is not None:
            fixed |= {"model.depth", "model.z_dim", "model.z_ratio"}
        if model.inference == "diffusion":
            fixed |= {"model.z_dim", "model.z_ratio"}
        return {path: kind for path, kind in self.sweep.space.items() if path not in fixed}

    def trials(self, variant: str) -> int:
        """Return how many trials each search of a variant has at most: `sweep.trials`, or the settings of a grid."""
        if self.sweep.sampler != "grid":
            return self.sweep.trials
        return math.prod(len(kind.values or ()) for kind in self.space(variant).values())

    def with_settings(self, variant: str, settings: Mapping[str, Any], source: str) -> Params:
        """Return a variant's parameters with a trial's settings in place.

        Raises:
            InputError: they do not go together; the line begins with `source`.
        """
        params = self.variant(variant).override(settings, source)
        check_model(params.model, params.data, f"{source}: ")
        check_objective(params.model, params.train, f"{source}: ")
        return params

    def flat(self) -> dict[str, Any]:
        """Return every value of data, model, train, sweep, compare, evaluate and report by its dotted path."""
        sections = self.model_dump(exclude={"root", "out", "extensions", "budget", "budgets", "variants"})
        return dict(_flatten(sections, ""))

    def check(self) -> None:
        """Check what no single field can: variants, the search space, and sections against each other."""
        for name, fixed in self.variants.items():
            for path in fixed:
                if path.split(".")[0] not in ("model", "train") or path == "train.seeds":
                    raise InputError(
                        f"variants.{name}: {path}: a variant fixes paths in model and train, seeds excepted"
                    )
            variant = self.variant(name)
            check_model(variant.model, variant.data, f"variants.{name}: ")
            check_objective(variant.model, variant.train, f"variants.{name}: ")
        check_outliers(self.outliers, self.data)
        for name in self.report.published:
            if name not in self.variants:
                raise InputError(
                    f"report.published: {name}: not in variants; allowed: {', '.join(self.variants)}"
                    + did_you_mean(name, self.variants)
                )
        check_space(self)
        check_searches(self)
        check_metric(self)


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
        if isinstance(item, dict) and path not in ("sweep.space", "report.published"):
            rows += _flatten(item, path + ".")
        else:
            rows.append((path, item))
    return rows
