"""One line for each value that a user sets and something overrides, or that is set without being used.

A budget replaces values of the file, a variant those of both, and a search replaces what is in its space. Each line
names the parameter, the value that counts and the one that does not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from pipeline.params.text import format_value
from pipeline.params.usage import is_unused_by, unused

if TYPE_CHECKING:
    from pipeline.params.parameters import Params

__all__ = ["notes"]


def notes(
    params: Params,
    file: Params,
    overrides: Mapping[str, Any] | None = None,
    *,
    variant: str | None = None,
    command: str = "",
) -> list[str]:
    """Return the lines on parameters and the file that they were read from (`Params.read_with_file`).

    `overrides` are the values of `--set`; `variant` leaves out the others; `command` is `train` or `sweep`, by hand,
    the stage `evaluate`, or nothing for the whole pipeline.
    """
    overrides = dict(overrides or {})
    variants = list(params.variants) if variant is None else [variant]
    lines = [_budget_line(params, file, overrides, command)]
    lines += [_override_line(params, file, path, value, variants, command) for path, value in overrides.items()]
    lines += [_variant_line(params, name, overrides, command) for name in variants]
    return [line for line in lines if line]


def _budget_line(params: Params, file: Params, overrides: Mapping[str, Any], command: str) -> str:
    parts = [
        f"{path} to {format_value(value)} in place of {format_value(_at(file, path))}"
        for path, value in params.budgets[params.budget].items()
        if path not in overrides
        and not is_unused_by(path, command)
        and format_value(value) != format_value(_at(file, path))
    ]
    return f"budget {params.budget} sets {', '.join(parts)} (params.yaml)" if parts else ""


def _override_line(params: Params, file: Params, path: str, value: Any, variants: Iterable[str], command: str) -> str:
    """Return a line on a value of `--set` that is no longer searched, or that some variants do not use."""
    if is_unused_by(path, command):
        return f"--set {path}: not used by cave {command}"
    reasons: dict[str, list[str]] = {}
    for name in variants:
        fixed = params.variants[name]
        if path in fixed and format_value(fixed[path]) != format_value(value):
            reason = f"the variant fixes {format_value(fixed[path])}"
        else:
            space = params.space(name)
            reason = unused(path, params.variant(name).flat() | {"sweep.space": space}, space)
        reasons.setdefault(reason, []).append(name)
    parts = [
        f"not used by {', '.join(names)} ({reason})" if len(reasons) > 1 else f"not used ({reason})"
        for reason, names in reasons.items()
        if reason
    ]
    units = {"model.depth", "model.z_dim", "model.z_ratio"} & set(params.sweep.space)
    if path == "model.widths" and value is not None and units:
        parts.insert(0, f"{format_value(value)} is taken, and {', '.join(sorted(units))} not searched")
    if "" in reasons and path in file.sweep.space and path not in params.sweep.space:
        parts.insert(0, f"{format_value(value)} is taken, and not searched over {file.sweep.space[path]}")
    return f"--set {path}: {'; '.join(parts)}" if parts else ""


def _variant_line(params: Params, name: str, overrides: Mapping[str, Any], command: str) -> str:
    """Return a line on the values that a variant replaces and on those that its search draws."""
    parts = [
        f"{path} {format_value(value)} in place of {format_value(_at(params, path))}"
        for path, value in params.variants[name].items()
        if path not in overrides
        and format_value(value) != format_value(_at(params, path))
        and not is_unused_by(path, command)
    ]
    space = {} if is_unused_by("sweep.space", command) else params.space(name)
    searched = [f"{path} over {kind} (first trial {format_value(_at(params, path))})" for path, kind in space.items()]
    if searched:
        parts.append(f"searched: {', '.join(searched)}")
    return f"{name}: {'; '.join(parts)}" if parts else ""


def _at(params: Params, path: str) -> Any:
    at: Any = params
    for key in path.split("."):
        at = getattr(at, key, None)
    return at
