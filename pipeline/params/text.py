"""Parameters as text: YAML files, `path=value` words, digests."""

from __future__ import annotations

import copy
import functools
import hashlib
import json
import warnings
from itertools import accumulate
from pathlib import Path
from typing import Any

from pipeline.errors import InputError
from pipeline.redaction import reason

__all__ = ["digest", "format_value", "parse_assignments", "read_yaml"]

MAX_BYTES = 2**20  # bytes of a YAML file
MAX_VALUES = 20_000  # values in one, and lines or commas: the parser takes a second for ten thousand
MAX_DEPTH = 100  # brackets open at once


def digest(value: Any, length: int = 12) -> str:
    """Return a short sha256 of a JSON-able value, equal for equal values whatever their keys' order."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=list)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def format_value(value: Any) -> str:
    """Write a value as the file has it; a section, which would be too long, as `{...}`."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(format_value, value))}]"
    if isinstance(value, bool | int | float | str) or value is None:
        return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return "{...}" if value else "{}"


def read_yaml(path: Path) -> Any:
    """Read a YAML 1.2 file (`1e-3` is a number) without executing anything in it."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES} bytes")
        return copy.deepcopy(_parse(content.decode()))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; run this in the project's root or in a study's folder") from None
    except Exception as error:  # the parser raises whatever a broken tag makes its converters raise
        raise InputError(f"{path.name}: not readable as YAML: {reason(error, 300)}") from None


def parse_assignments(assignments: list[str], option: str = "--set") -> dict[str, Any]:
    """Read `path=value` words; a value is YAML (`3`, `1e-3`, `[20, 10]`, `null`, `mnist`)."""
    values: dict[str, Any] = {}
    for word in assignments:
        path, sign, text = word.partition("=")
        if not sign or not path:
            raise InputError(f"{option}: '{word[:200]}' is not of the form path=value, as in model.depth=3")
        try:
            value = copy.deepcopy(_parse(text))
        except Exception as error:  # as in `read_yaml`
            raise InputError(f"{option}: {path}: not readable as YAML: {reason(error, 300)}") from None
        if path in values and values[path] != value:
            raise InputError(f"{option}: {path}: given twice, {values[path]!r} and {value!r}")
        values[path] = value
    for path in values:
        parents = accumulate(path.split(".")[:-1], "{}.{}".format)
        if whole := next((parent for parent in parents if parent in values), None):
            raise InputError(f"{option}: {path}: given beside {whole}, which holds it; give one of them")
    return values


@functools.lru_cache(maxsize=8)  # a command reads its params.yaml several times
def _parse(text: str) -> Any:
    """Parse a YAML text; raise `ValueError` where it is nested too deeply or its anchors unfold to too many values."""
    from ruamel.yaml import YAML  # noqa: TID251

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an anchor of the same name again is allowed
            # The parser's time grows with the square of the brackets that are open.
            if max(accumulate((c in "[{") - (c in "]}") for c in text), default=0) > MAX_DEPTH:
                raise RecursionError
            if text.count("\n") + text.count(",") > MAX_VALUES:
                raise ValueError(f"more than {MAX_VALUES} values")
            # Merging keys unfolds anchors while a text is read, so that its nodes are counted before.
            if _count_nodes(YAML(typ="safe", pure=True).compose(text), {}) > MAX_VALUES:
                raise ValueError(f"its anchors unfold to more than {MAX_VALUES} values")
            return YAML(typ="safe", pure=True).load(text)
    except RecursionError:
        raise ValueError("nested too deeply, or within itself") from None


def _count_nodes(node: Any, counts: dict[int, int]) -> int:
    """Count a node of a YAML text and the nodes below it, each as often as it is referred to."""
    if id(node) not in counts:
        counts[id(node)] = MAX_VALUES  # within itself
        content = node.value if node is not None and not isinstance(node.value, str) else []
        below = [part for item in content for part in (item if isinstance(item, tuple) else (item,))]
        counts[id(node)] = 1 + sum(_count_nodes(part, counts) for part in below)
    return counts[id(node)]
