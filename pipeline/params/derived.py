"""A study's `params.yaml`, derived from the root's default values and the study's own values in `study.yaml`.

`study.yaml` maps dotted paths to values, as `variants` and `budgets` do. DVC tracks the complete `params.yaml`, and the
stages read it: a change of a default reaches a study when `cave study refresh` derives the file anew, and then makes
exactly those stages stale that depend on a value that has changed. A study without `study.yaml` stands for itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import Any

from pipeline.errors import InputError
from pipeline.files import write_text
from pipeline.params.parameters import Params
from pipeline.params.text import read_yaml
from pipeline.params.writing import dump_mapping, dump_yaml

__all__ = ["STUDY_FILE", "derive", "derived_text", "differences", "differing_paths", "outdated", "write_settings"]

STUDY_FILE = "study.yaml"
LOCATION = {"root": "../..", "out": "."}  # of every study in `experiments/`
HEADER = """Written by `cave study refresh` from study.yaml, which holds this study's own values, and from the default
values in the root's params.yaml. Change study.yaml, not this file; docs/parameters.md explains the parameters."""
SHOWN = 3  # paths that a line names


def derive(defaults: Params, folder: Path) -> Params | None:
    """Return the parameters that the study in `folder` has by its `study.yaml`; None where there is none.

    Raises:
        InputError: the file is not a mapping of parameters' paths to sound values; the line names the file.
    """
    path = folder / STUDY_FILE
    if not path.exists():
        return None
    name = f"experiments/{folder.name}/{STUDY_FILE}"
    try:
        values = read_yaml(path)
    except InputError as error:
        raise InputError(f"experiments/{folder.name}/{error}") from None
    if values is not None and not isinstance(values, dict):
        raise InputError(
            f"{name}: expected a mapping of paths to values, as in `model.depth: 3`, not {repr(values)[:60]}"
        )
    if unexpected := [path for path in values or {} if not isinstance(path, str) or path in LOCATION]:
        raise InputError(f"{name}: {unexpected[0]}: not a parameter of a study")
    return defaults.override({**(values or {}), **LOCATION}, name)


def derived_text(params: Params) -> str:
    """Return the text of a study's `params.yaml`."""
    return dump_yaml(params, HEADER)


def differences(params: Params, defaults: Params) -> dict[str, Any]:
    """Return the values, by dotted path, that lead from the defaults to a study's parameters."""
    own, theirs = _values(params), _values(defaults)
    changed: dict[str, Any] = {}
    for path, value in own.items():
        if path in theirs and theirs[path] == value:
            continue
        while path not in theirs and not any(other.startswith(f"{path}.") for other in theirs):
            path = path.rpartition(".")[0]  # the root has null in the place of this section
        changed[path] = _at(params, path)
    widths = changed.get("model.widths")
    if widths is not None and len(widths) != params.model.depth:  # a list of widths would set the depth
        changed["model.depth"] = params.model.depth
    return changed


def differing_paths(params: Params, other: Params) -> list[str]:
    """Return the dotted paths at which parameters differ."""
    return list(differences(params, other) | differences(other, params))


def outdated(defaults: Params, folder: Path) -> str:
    """Return a line if a study's `params.yaml` is not what its `study.yaml` and the defaults give, else nothing."""
    path, name = folder / "params.yaml", f"experiments/{folder.name}/params.yaml"
    try:
        params = derive(defaults, folder)
        if params is None or path.read_text(encoding="utf-8") == derived_text(params):
            return ""
        paths = differing_paths(Params.read_values(path), params)
    except (InputError, OSError, UnicodeDecodeError) as error:
        return f"{name} could not be compared with {STUDY_FILE}: {error}"
    if not paths:
        return ""
    more = f" and {len(paths) - SHOWN} more" if len(paths) > SHOWN else ""
    return (
        f"{name} differs from {STUDY_FILE} and the root's defaults in {', '.join(paths[:SHOWN])}{more}, and is used as"
        " it is; to write it anew: cave study refresh"
    )


def write_settings(folder: Path, params: Params, defaults: Params) -> None:
    """Write a study's `study.yaml`, whose comments stay, and its `params.yaml`."""
    values = differences(params, defaults)
    path = folder / STUDY_FILE
    if not path.exists() or derive(defaults, folder) != params:
        write_text(path, _edited(path, values) if path.exists() else dump_mapping(values))
    write_text(folder / "params.yaml", derived_text(params))


def _edited(path: Path, values: Mapping[str, Any]) -> str:
    """Return the text of a `study.yaml` with other values and the comments that it has."""
    from ruamel.yaml import YAML  # noqa: TID251 (round trip: builds plain values alone)

    yaml, text = YAML(typ="rt"), StringIO()  # a tag in the file builds no object
    yaml.width = 120
    content = yaml.load(path.read_text(encoding="utf-8")) or {}
    new = YAML(typ="safe", pure=True).load(dump_mapping(values)) or {}
    for key in [key for key in content if key not in new]:
        del content[key]
    content.update({key: value for key, value in new.items() if content.get(key) != value})
    yaml.dump(content, text)
    return text.getvalue()


def _values(params: Params) -> dict[str, Any]:
    """Return every value of a study by its dotted path, in the order of the file."""
    whole = {name: getattr(params, name) for name in ("extensions", "budget", "budgets", "variants")}
    values = whole | params.flat()
    order = list(Params.model_fields)
    return dict(sorted(values.items(), key=lambda item: order.index(item[0].partition(".")[0])))


def _at(params: Params, path: str) -> Any:
    at: Any = params.model_dump(exclude_defaults=True)
    for key in path.split("."):
        at = at[key]
    return at
