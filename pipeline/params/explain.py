"""A fault that pydantic found, in one line: path, what was given, what is allowed, the nearest match."""

from __future__ import annotations

from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from pipeline.text import nearest

__all__ = ["explain"]


def explain(error: ValidationError, root: type[BaseModel]) -> str:
    """Tell the first fault in one line: path, what was given, what is allowed."""
    first = _first(error)
    keys = [key for key in first["loc"] if not _is_kind(key) and key not in ("int", "float", "tuple")]
    path = ".".join(str(key) for key in keys if not _is_branch(key))[:200]
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
        near = nearest(given.strip("'"), choices)
        return f"{path}: {given} given{near}; allowed: {', '.join(choices)}"
    if kind == "value_error":
        return f"{path}: {context['error']}"
    allowed = first["msg"].removeprefix("Input should be ").removeprefix("a valid ").replace("tuple", "list")
    return f"{path}: {given} given; allowed: {allowed}"


def _first(error: ValidationError) -> Any:
    """Return the fault to explain: the first unknown key, as a key that is missing may be the same one misspelt.

    Where a value could be of two kinds, it is a fault of the kind that has the fewest.
    """
    faults = sorted(error.errors(), key=lambda fault: fault["type"] != "extra_forbidden" or _in_kind(fault))
    at = next((i for i, key in enumerate(faults[0]["loc"]) if _is_kind(key)), None)
    if at is None:
        return faults[0]
    kinds: dict[object, list[Any]] = {}
    for fault in faults:
        if fault["loc"][:at] == faults[0]["loc"][:at]:
            kinds.setdefault(fault["loc"][at], []).append(fault)
    return min(kinds.values(), key=len)[0]


def _in_kind(fault: Any) -> bool:
    return any(_is_kind(key) for key in fault["loc"])


def _is_kind(key: object) -> bool:
    return isinstance(key, str) and key.rstrip("]").endswith(("Range", "Choices"))


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
    try:
        text = repr(list(value) if isinstance(value, tuple) else value)
    except ValueError:
        return "a number of thousands of digits"
    return text if len(text) <= 60 else text[:57] + "..."
