"""Parameters as YAML text: one line for each, with comments from their descriptions where they are asked for."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any, get_args

from pydantic import BaseModel

from pipeline.params.parameters import Params
from pipeline.params.reference import entries

__all__ = ["dump_mapping", "dump_yaml"]

WIDTH = 120
COMMENTS = 30  # column where the comments begin
WORDS = {"null", "true", "false", "yes", "no", "on", "off", "y", "n"}  # which YAML 1.1 or 1.2 does not read as text


def dump_yaml(params: Params, header: str = "", *, comments: bool = False) -> str:
    """Return parameters as a YAML text that `Params.read` takes back, below the lines of a header."""
    described = {entry.path: entry for entry in entries(Params)} if comments else {}
    lines = [f"# {line}" for line in header.splitlines()]
    raw = params.model_dump(exclude_defaults=True)
    for path, line in _lines(raw, "", ""):
        if path in raw and path not in ("out", "budgets"):
            lines.append("")
        entry = described.get(path)
        lines += [line] if entry is None else _commented(line, entry.comment)
    return "\n".join(lines).lstrip("\n") + "\n"


def dump_mapping(values: Mapping[str, Any]) -> str:
    """Return values by dotted path as a YAML text."""
    return "".join(f"{line}\n" for _, line in _lines(values, "", ""))


def _lines(values: Mapping[str, Any], prefix: str, indent: str) -> Iterator[tuple[str, str]]:
    """Yield each line of a mapping in block style, with the dotted path that it begins."""
    sections = set(_sections(Params, ""))
    for key, value in values.items():
        path, line = f"{prefix}{key}", f"{indent}{_flow(key)}: {_flow(value)}"
        nested = isinstance(value, dict) and any(isinstance(item, dict) for item in value.values())
        if isinstance(value, dict) and value and (nested or path in sections or len(line) > WIDTH):
            yield path, f"{indent}{_flow(key)}:"
            yield from _lines(value, f"{path}.", f"{indent}  ")
        else:
            yield path, line


def _sections(model: type[BaseModel], prefix: str) -> Iterator[str]:
    """Yield the dotted paths of the sections of a model."""
    for name, field in model.model_fields.items():
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield prefix + name
                yield from _sections(kind, f"{prefix}{name}.")


def _flow(value: Any) -> str:
    """Return a value as YAML on one line."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_flow(key)}: {_flow(item)}' for key, item in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_flow, value))}]"
    if isinstance(value, str):
        if re.fullmatch(r"[A-Za-z_][\w./-]*|\.{1,2}(/[\w./-]*)?", value, re.ASCII) and value.lower() not in WORDS:
            return value
        escaped = [c if c.isprintable() and c not in '"\\' else f"\\U{ord(c):08x}" for c in value]
        return f'"{"".join(escaped)}"'
    if isinstance(value, float) and value - value != 0:
        return ".nan" if value != value else ".inf" if value > 0 else "-.inf"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)


def _commented(line: str, comment: str) -> list[str]:
    """Return a line with a comment beside it, and below where that takes several lines."""
    column = max(COMMENTS, len(line) + 2)
    if WIDTH - column < 50:
        column = COMMENTS
        first, *rest = "", *textwrap.wrap(comment, WIDTH - column - 2)
        return [line, *(f"{'':{column}}# {text}" for text in rest)]
    first, *rest = textwrap.wrap(comment, WIDTH - column - 2)
    return [f"{line:{column}}# {first}", *(f"{'':{column}}# {text}" for text in rest)]
