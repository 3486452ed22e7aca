"""A variant's search space: its own values in it, all settings of a finite one, and which settings train alike.

Different values can lead to the same training (`z_ratio` 0.25 and 0.26 may round to the same widths), so settings are
compared by `identity`, which replaces depth, width and ratio by the widths of the levels.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

from pipeline.errors import InputError
from pipeline.params import MOST_VALUES, Choices, Params, Range, check_model, digest

__all__ = ["apply", "closest", "every", "identity", "key", "own"]

Space = Mapping[str, Range | Choices]
SHAPE = {"depth", "z_dim", "z_ratio", "widths"}  # what the widths of the levels stand for


def own(base: Params, space: Space) -> dict[str, Any]:
    """Return the values that `base` itself has at the paths of the space, which hold them (`Params.check`)."""
    flat = base.flat()
    return {path: flat[path] for path in space}


def apply(base: Params, values: Mapping[str, Any]) -> Params:
    """Return `base` with the values of a trial.

    Raises:
        InputError: no model can have these values together.
    """
    params = base.override(values, "sweep.space")
    check_model(params.model, params.data, "sweep.space: ")
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
    shape = [params.model.depth] if params.model.inference == "diffusion" else params.model.level_widths
    return digest([model, shape, params.train.model_dump(exclude={"seeds"})])


def key(base: Params, values: Mapping[str, Any]) -> str:
    """Return the identity of `base` with the values of a trial; of values that do not go together, one of their own."""
    try:
        return identity(apply(base, values))
    except InputError:
        return digest(values)


def every(base: Params, space: Space, most: int) -> dict[str, dict[str, Any]] | None:
    """Return one set of values for each setting of a space, by identity, the own one first.

    None where there are more than `most`, or endlessly many. Values that do not go together count as a setting.
    """
    choices = [finite for kind in space.values() if (finite := kind.values) is not None]
    if len(choices) < len(space) or math.prod(map(len, choices)) > MOST_VALUES:
        return None
    settings: dict[str, dict[str, Any]] = {}
    combinations = (dict(zip(space, chosen, strict=True)) for chosen in itertools.product(*choices))
    for values in itertools.chain([own(base, space)], combinations):
        settings.setdefault(key(base, values), values)
        if len(settings) > most:
            return None
    return settings
