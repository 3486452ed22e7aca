"""A variant's search space: its own values in it, all settings of a finite one, and which settings train alike.

Different values can lead to the same training (`z_ratio` 0.25 and 0.26 may round to the same widths), so settings are
compared by `identity`, which replaces depth, width and ratio by the widths of the levels.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.errors import InputError
from pipeline.params import Choices, Params, Range, digest

__all__ = ["apply", "closest", "every", "identity", "is_whole", "own"]

Space = Mapping[str, Range | Choices]
LARGEST = 2000  # combinations of values that are looked at; a larger space counts as endless
SHAPE = {"depth", "z_dim", "z_ratio", "widths"}  # what the widths of the levels stand for


def is_whole(kind: Range) -> bool:
    """Return whether a range holds whole numbers only."""
    return all(isinstance(bound, int) for bound in (kind.low, kind.high, kind.step or 1))


def own(base: Params, space: Space) -> dict[str, Any]:
    """Return the values that `base` itself has at the paths of the space.

    Raises:
        InputError: a value is not in the space.
    """
    flat = base.flat()
    for path, kind in space.items():
        if not _contains(kind, flat[path]):
            raise InputError(
                f"{path}: {flat[path]!r} given, which is not in sweep.space.{path}; allowed: {_described(kind)},"
                " because the given settings are the first trial of a search"
            )
    return {path: flat[path] for path in space}


def apply(base: Params, values: Mapping[str, Any]) -> Params:
    """Return `base` with the values of a trial.

    Raises:
        InputError: no model can have these values together.
    """
    params = base.override(values, "sweep.space")
    _check(params)
    return params


def closest(base: Params, values: Mapping[str, Any]) -> Params:
    """Return `base` with as many of the values, in their order, as go together."""
    for path, value in values.items():
        try:
            base = apply(base, {path: value})
        except InputError:
            continue
    return base


def identity(params: Params) -> str:
    """Return a digest that is equal for settings that lead to the same training."""
    model = params.model.model_dump(exclude=SHAPE)
    return digest([model, params.model.level_widths, params.train.model_dump(exclude={"seeds"})])


def every(base: Params, space: Space, most: int) -> dict[str, dict[str, Any]] | None:
    """Return one set of values for each setting of a space, by identity, the own one first.

    None where there are more than `most`, or endlessly many. Values that do not go together count as a setting.
    """
    choices = [finite for kind in space.values() if (finite := _values(kind)) is not None]
    if len(choices) < len(space) or math.prod(map(len, choices)) > LARGEST:
        return None
    settings: dict[str, dict[str, Any]] = {}
    combinations = (dict(zip(space, chosen, strict=True)) for chosen in itertools.product(*choices))
    for values in itertools.chain([own(base, space)], combinations):
        try:
            key = identity(apply(base, values))
        except InputError:
            key = digest(values)
        settings.setdefault(key, values)
        if len(settings) > most:
            return None
    return settings


def _check(params: Params) -> None:
    params._check_model("sweep.space: ")


def _values(kind: Range | Choices) -> Sequence[Any] | None:
    if isinstance(kind, Choices):
        return kind.choices
    if is_whole(kind):
        return range(int(kind.low), int(kind.high) + 1, int(kind.step or 1))
    if kind.low == kind.high:
        return (kind.low,)
    if kind.step is None:
        return None
    count = math.floor((kind.high - kind.low) / kind.step + 1e-8) + 1
    return None if count > LARGEST else [kind.low + index * kind.step for index in range(count)]


def _contains(kind: Range | Choices, value: Any) -> bool:
    if isinstance(kind, Choices):
        return any(choice == value and isinstance(choice, bool) == isinstance(value, bool) for choice in kind.choices)
    if not isinstance(value, int | float) or isinstance(value, bool) or not kind.low <= value <= kind.high:
        return False
    step = kind.step or (1 if is_whole(kind) else None)
    steps = (value - kind.low) / step if step else 0.0
    return abs(steps - round(steps)) < 1e-8


def _described(kind: Range | Choices) -> str:
    if isinstance(kind, Choices):
        return ", ".join(map(str, kind.choices))
    step = f" in steps of {kind.step}" if kind.step else ", whole numbers" if is_whole(kind) else ""
    return f"{kind.low} to {kind.high}{step}"
