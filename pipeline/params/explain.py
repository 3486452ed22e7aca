"""A `ValidationError` of pydantic as one line: the path, the value there, what is allowed, and the nearest match."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ValidationError

from pipeline.params.reference import entries
from pipeline.text import did_you_mean

__all__ = ["RENAMED", "explain"]

RENAMED = {  # names that parameters had in earlier versions
    "model.levels": "model.grey_levels",
    "train.stagger": "train.warmup_stagger",
    "train.horizon": "train.schedule_epochs",
    "train.gradient": "train.reduction",
    "train.adam_second_moment": "train.adam_initial_second_moment",
    "sweep.failures": "sweep.max_failures",
    "sweep.startup": "sweep.startup_trials",
    "evaluate.decompose.gap_rate": "evaluate.decompose.gap_learning_rate",
    "evaluate.decompose.ais_leapfrog": "evaluate.decompose.ais_leapfrog_steps",
}


def explain(error: ValidationError, raw: Any, model: type[BaseModel]) -> str:
    """Return one line about the first error of a validation of `raw` by `model`.

    An unknown key comes first, since a key that is missing may be the same one misspelt.
    """
    first = min(error.errors(), key=lambda each: each["type"] != "extra_forbidden")
    missing = [str(first["loc"][-1])] if first["type"] == "missing" else []
    path = ".".join([*_keys(first["loc"], raw), *missing])[:200]
    value, context = _shorten(first["input"]), first.get("ctx", {})
    parent, _, key = path.rpartition(".")
    if path in RENAMED:
        return f"{path}: renamed to {RENAMED[path]}"
    match first["type"]:
        case "extra_forbidden":
            names = [entry.path for entry in entries(model) if entry.path.rpartition(".")[0] == parent]
            keys = [name.rpartition(".")[2] for name in names]
            return f"{path}: unknown key{did_you_mean(key, keys)}" + (f"; allowed: {', '.join(keys)}" if keys else "")
        case "missing":
            return f"{path}: missing"
        case "literal_error":
            allowed = next((entry.allowed for entry in entries(model) if entry.path == path), context["expected"])
            choices = allowed.split(" | ")
            return f"{path}: {value} given{did_you_mean(value.strip(chr(39)), choices)}; allowed: {', '.join(choices)}"
        case "value_error":
            return f"{path}: {context['error']}"
    allowed = first["msg"].removeprefix("Input should be ").removeprefix("a valid ").replace("tuple", "list")
    return f"{path}: {value} given; allowed: {allowed}"


def _keys(location: tuple[int | str, ...], raw: Any) -> list[str]:
    """Return the keys of a location that lead through the value, without the names that pydantic gives to types."""
    keys, at = [], raw
    for key in location:
        if key in at if isinstance(at, dict) else isinstance(at, list | tuple) and isinstance(key, int):
            keys.append(str(key))
            at = at[key]
    return keys


def _shorten(value: object) -> str:
    """Return a value as Python writes it, in at most 60 characters."""
    try:
        text = repr(list(value) if isinstance(value, tuple) else value)
    except ValueError:
        return "a number of thousands of digits"
    return text if len(text) <= 60 else text[:57] + "..."
