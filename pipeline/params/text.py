"""Parameters as text: YAML files, `path=value` words, digests."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from pipeline.errors import InputError

__all__ = ["digest", "parse_assignments", "read_yaml"]


def digest(value: Any, length: int = 12) -> str:
    """Return a short sha256 of a JSON-able value, equal for equal values whatever their keys' order."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=list)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def read_yaml(path: Path) -> Any:
    """Read a YAML 1.2 file (`1e-3` is a number) without executing anything in it."""
    from ruamel.yaml import YAML

    try:
        return YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; run this in the project's root or in a study's folder") from None
    except Exception as error:  # the parser raises whatever a broken tag makes its converters raise
        raise InputError(f"{path.name}: not readable as YAML: {_one_line(error)}") from None


def parse_assignments(assignments: list[str]) -> dict[str, Any]:
    """Read `path=value` words; a value is YAML (`3`, `1e-3`, `[20, 10]`, `null`, `mnist`)."""
    from ruamel.yaml import YAML

    values: dict[str, Any] = {}
    for word in assignments:
        path, sign, text = word.partition("=")
        if not sign or not path:
            raise InputError(f"--set: '{word}' is not of the form path=value, as in model.depth=3")
        try:
            values[path] = YAML(typ="safe", pure=True).load(text)
        except Exception as error:  # as in `read_yaml`
            raise InputError(f"--set: {path}: not readable as YAML: {_one_line(error)}") from None
    return values


def _one_line(error: object) -> str:
    return " ".join(str(error).split()) or type(error).__name__
