"""The search space is checked before anything runs: every combination of values that it can draw, for every variant.

The ends of an interval stand for all values in it. Where there are too many combinations, each value is checked alone
and in pairs, the other values being the variant's own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import combinations, islice, product
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from pipeline.errors import InputError
from pipeline.params.ranges import MOST_VALUES, Choices, Range
from pipeline.params.rules import check_model, check_objective
from pipeline.params.sections import MEASURES, ModelParams, TrainParams
from pipeline.text import plural

if TYPE_CHECKING:
    from pipeline.params.parameters import Params

__all__ = ["check_fixed", "check_searches", "check_space"]

MAX_COMBINATIONS = 1000  # combinations of all paths that are checked
MAX_PAIRS = 10_000
# Settings that leave a trial's training as it is, or change how its result is measured.
NOT_SEARCHED = ("train.seeds", "train.epochs", "train.milestones", "train.keep", "train.valid_draws")


def check_space(params: Params) -> None:
    """Raise `InputError` for a path that cannot be searched, and for values that do not go together."""
    for path, kind in params.sweep.space.items():
        where = f"sweep.space.{path}"
        if path.split(".")[0] not in ("model", "train") or path in NOT_SEARCHED:
            raise InputError(f"{where}: only paths in model and train can be swept, excepted {', '.join(NOT_SEARCHED)}")
        _check_values(params, path, kind, where)
    searched = {variant: params.space(variant) for variant in params.variants}
    if params.sweep.sampler == "grid":
        _check_grid(params, searched)
    own = params.flat()
    for path, kind in {path: kind for space in searched.values() for path, kind in space.items()}.items():
        if own[path] not in kind:
            raise InputError(
                f"sweep.space.{path}: {kind} given, but {path} is {own[path]}, which every search tries first;"
                " allowed: a space that holds it"
            )
    for variant, space in searched.items():
        base = params.variant(variant)
        for settings in _combinations({path: kind.boundary_values for path, kind in space.items()}):
            if not _is_valid(base, settings):
                words = ", ".join(f"{path}={value}" for path, value in settings.items())
                params.with_settings(variant, settings, f"sweep.space: variant '{variant}' can draw {words}")


def _check_grid(params: Params, searched: Mapping[str, Mapping[str, Range | Choices]]) -> None:
    """Raise `InputError` for a grid that is endless or too large."""
    for path, kind in params.sweep.space.items():
        if kind.values is None:
            raise InputError(
                f"sweep.space.{path}: {kind} given, which has too many values for a grid (sweep.sampler); allowed:"
                f" choices, whole numbers, or an interval of at most {MOST_VALUES} steps"
            )
    for variant in searched:
        if (count := params.trials(variant)) > MOST_VALUES:
            raise InputError(
                f"sweep.space: the grid of variant '{variant}' has {plural(count, 'setting')}; allowed: at most"
                f" {MOST_VALUES}"
            )


def check_searches(params: Params) -> None:
    """Raise `InputError` where there are more searches than seeds, so that no training would use some of them."""
    count, seeds = params.sweep.searches, len(params.train.seeds)
    if count > seeds and any(params.space(variant) for variant in params.variants):
        raise InputError(
            f"sweep.searches: {count} given, but train.seeds has {plural(seeds, 'seed')}, and each is trained with the"
            f" best settings of one search; allowed: at most {seeds}"
        )


def check_fixed(params: Params, overrides: Mapping[str, Any]) -> None:
    """Raise `InputError` for an override of a path at which every variant fixes another value."""
    for path, value in overrides.items():
        fixed = {name: values[path] for name, values in params.variants.items() if path in values}
        if (
            fixed
            and len(fixed) == len(params.variants)
            and _with_tuples(value) not in map(_with_tuples, fixed.values())
        ):
            words = ", ".join(f"variant '{name}' fixes it at {other!r}" for name, other in fixed.items())
            raise InputError(f"--set: {path}: {value!r} given, but {words}")


def _check_values(params: Params, path: str, kind: Range | Choices, where: str) -> None:
    """Check each value of one path by itself; combinations are checked for each variant."""
    section, _, name = path.partition(".")
    is_parameter = name in type(getattr(params, section)).model_fields
    for value in kind.boundary_values:
        if is_parameter and _is_valid(params, {path: value}):
            continue
        try:
            params.override({path: value}, where)
        except InputError as error:
            if not str(error).startswith(f"{where}: {path}"):
                continue
            fraction = isinstance(kind, Range) and str(error).endswith("integer")
            raise InputError(f"{error}, for low, high and step" if fraction else str(error)) from None
    if path == "model.likelihood" and len({MEASURES[str(value)] for value in kind.boundary_values}) > 1:
        measures = ", ".join(f"{value} is a {MEASURES[str(value)]}" for value in kind.boundary_values)
        raise InputError(f"{where}: {measures}; allowed: likelihoods of one measure, as others cannot be compared")


def _combinations(values: Mapping[str, tuple[Any, ...]]) -> Iterator[dict[str, Any]]:
    """Yield the combinations of values that are checked, those of few paths first."""
    yield from ({path: value} for path, some in values.items() for value in some)
    pairs = (
        {a: first, b: second} for a, b in combinations(values, 2) for first, second in product(values[a], values[b])
    )
    yield from islice(pairs, MAX_PAIRS)
    if len(values) > 2 and math.prod(map(len, values.values())) <= MAX_COMBINATIONS:
        yield from (dict(zip(values, some, strict=True)) for some in product(*values.values()))


def _is_valid(params: Params, settings: Mapping[str, Any]) -> bool:
    """Return whether settings are valid together; faster than `with_settings`, which says what is wrong."""
    changed: dict[str, dict[str, Any]] = {"model": dict(params.model), "train": dict(params.train)}
    for path, value in settings.items():
        section, _, name = path.partition(".")
        changed[section][name] = value
    try:
        model, train = ModelParams.model_validate(changed["model"]), TrainParams.model_validate(changed["train"])
        check_model(model, params.data)
        check_objective(model, train)
    except (InputError, ValidationError):
        return False
    return True


def _with_tuples(value: Any) -> Any:
    """Return a value with lists as tuples, so that those of a file and of a command line can be compared."""
    return tuple(map(_with_tuples, value)) if isinstance(value, list | tuple) else value
