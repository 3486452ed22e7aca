"""Settings by the last part of their path: `depth` for `model.depth`, with the default values of params.yaml."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pipeline.data import suggest_settings
from pipeline.errors import InputError
from pipeline.params import EvaluateParams, Params, check_model, check_objective
from pipeline.params.text import format_value
from pipeline.progress import print_note
from pipeline.project import default_params
from pipeline.text import did_you_mean

__all__ = ["evaluation_params", "training_params"]

TRAINING = ("data", "model", "train")
OWN = ("data.name", "data.path", "data.seed", "train.seeds")  # which have arguments of their own


def training_params(
    settings: Mapping[str, Any], source: Mapping[str, Any], folder: Path, seed: int, arguments: Iterable[str]
) -> Params:
    """Return the parameters of a training: the defaults, what suits the images, `settings` by name, `source` by path.

    `source` leads to the images, its paths being relative to `folder`; `arguments` are the other arguments of the
    function that gets the settings.

    Raises:
        InputError: a name is not a parameter, or a value does not fit.
    """
    defaults = default_params()
    paths = [path for path in defaults.flat() if path.split(".")[0] in TRAINING and path not in OWN]
    values = _by_path(settings, paths, arguments)
    chosen = defaults.override({**source, **values, "train.seeds": (seed,)}, "fit")
    suited = suggest_settings(folder, chosen.data, values.keys()) if chosen.has_own_images else {}
    if suited:
        print_note("settings that suit these images: " + ", ".join(f"{p}={format_value(v)}" for p, v in suited.items()))
    params = chosen.override({**suited, **values}, "fit")
    check_model(params.model, params.data, "fit: ")
    check_objective(params.model, params.train, "fit: ")
    return params


def evaluation_params(settings: Mapping[str, Any], arguments: Iterable[str]) -> EvaluateParams:
    """Return the parameters of an evaluation; without `k`, those of the defaults that divide the draws, and all draws.

    Raises:
        InputError: a name is not a parameter, or a value does not fit.
    """
    defaults = default_params()
    paths = [path for path in defaults.flat() if path.split(".")[0] == "evaluate" and path != "evaluate.outliers"]
    values = _by_path(settings, paths, arguments)
    draws = values.get("evaluate.draws")
    if isinstance(draws, int) and draws > 0 and "evaluate.k" not in values:
        smaller = [k for k in defaults.evaluate.k if draws % k == 0 and k < draws]
        values["evaluate.k"] = (*smaller, draws)
    return defaults.override(values, "evaluate").evaluate


def _by_path(settings: Mapping[str, Any], paths: Iterable[str], arguments: Iterable[str]) -> dict[str, Any]:
    """Return the settings by their dotted paths."""
    # Of `data.size` and `data.cave.size` the second is `cave_size`.
    names = {("_".join(path.split(".")[-2:]) if ".cave." in path else path.rpartition(".")[2]): path for path in paths}
    for name in settings:
        if name not in names:
            raise InputError(
                f"{name}: no such parameter{did_you_mean(name, [*names, *arguments])}; see docs/parameters.md"
            )
    return {names[name]: value for name, value in settings.items()}
