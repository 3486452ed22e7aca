"""The reference of all parameters, made from the fields' types and descriptions: what each takes and what it means.

The comments of `params.yaml`, `docs/parameters.md` and the table of `cave params` are made from `entries`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from pydantic import BaseModel

from pipeline.params.sections.types import MOST

__all__ = ["allowed", "entries", "reference_page"]

OBVIOUS = ("true | false", "text", "mapping", "section or null")  # what a value in the file shows by itself

TITLE = """# Parameters

A dotted path (`model.depth`) is a parameter's only name: in `params.yaml`, with `--set`, in a study's `study.yaml`, in
a variant's values, in the search space and in MLflow. Default values stand in the root's `params.yaml` alone;
`cave params PATH` shows the value of a study. This page is written by `cave params --write`.
"""


@dataclass(frozen=True)
class Entry:
    """A parameter, or a section of parameters."""

    path: str
    allowed: str  # empty for a section
    meaning: str

    @property
    def comment(self) -> str:
        """The meaning, and the allowed values where it does not name them all."""
        named = all(re.search(rf"\b{re.escape(word)}\b", self.meaning) for word in self.allowed.split(" | "))
        return self.meaning if named or self.allowed in OBVIOUS else f"{self.meaning} [{self.allowed}]"


@cache
def entries(model: type[BaseModel]) -> tuple[Entry, ...]:
    """Return every section and parameter of `Params`, or of another model, in the order of `params.yaml`."""
    schema = model.model_json_schema()
    return tuple(_entries(schema, "", schema["$defs"]))


def _entries(schema: Mapping[str, Any], prefix: str, definitions: Mapping[str, Any]) -> Iterator[Entry]:
    for name, field in schema["properties"].items():
        kinds = [kind["$ref"].rpartition("/")[2] for kind in field.get("anyOf", [field]) if "$ref" in kind]
        below = definitions[kinds[0]] if kinds else None
        if below is None:
            yield Entry(prefix + name, allowed(field), field["description"])
        else:
            optional = " or null" if "anyOf" in field else ""
            yield Entry(
                prefix + name, f"section{optional}" if optional else "", field.get("description", below["description"])
            )
            yield from _entries(below, f"{prefix}{name}.", definitions)


def allowed(schema: Mapping[str, Any]) -> str:
    """Say in a few words which values a JSON schema takes.

    >>> allowed({"type": "integer", "minimum": 2, "maximum": 64}), allowed({"enum": ["mean", "sum"]})
    ('integer >= 2, <= 64', 'mean | sum')
    >>> allowed({"anyOf": [{"type": "number", "exclusiveMinimum": 0}, {"type": "null"}]})
    'number > 0, or null'
    """
    if "anyOf" in schema:
        named = all("enum" in each or "const" in each for each in schema["anyOf"])
        return (" | " if named else ", or ").join(map(allowed, schema["anyOf"]))
    if "enum" in schema or "const" in schema:
        return " | ".join(schema.get("enum", [schema.get("const")]))
    match schema.get("type"):
        case "array":
            return f"list of: {allowed(schema['items'])}"
        case "integer" | "number" as kind:
            return f"{kind} {', '.join(_limits(schema))}".strip()
        case kind:
            return {"boolean": "true | false", "null": "null", "object": "mapping", "string": "text"}[str(kind)]


def _limits(schema: Mapping[str, Any]) -> Iterator[str]:
    signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    yield from (f"{sign} {schema[key]}" for key, sign in signs.items() if schema.get(key, MOST) != MOST)
    if "multipleOf" in schema:
        yield f"a multiple of {schema['multipleOf']}"


def reference_page(model: type[BaseModel]) -> str:
    """Return the page `docs/parameters.md`."""
    lines = [TITLE]
    for entry in entries(model):
        if "." not in entry.path and entry.allowed == "":
            lines += [
                f"\n## {entry.path}\n",
                f"{entry.meaning}\n",
                "| parameter | allowed | meaning |",
                "|---|---|---|",
            ]
        elif "." not in entry.path and len(lines) == 1:
            lines += ["\n| parameter | allowed | meaning |", "|---|---|---|"]
        if entry.allowed:
            cells = [f"`{entry.path}`", entry.allowed, entry.meaning]
            lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines) + "\n"
