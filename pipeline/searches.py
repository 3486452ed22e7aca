"""What the searches of a variant have left for later stages: `best.json` and `mlflow.json`, with an entry for each.

`sweep.searches` independent searches differ in their sampler seed alone. The j-th of `train.seeds` is trained with the
best settings of search j mod `sweep.searches`, so that the spread over seeds contains the luck of the search.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.errors import InputError
from pipeline.files import read_json
from pipeline.params import Params
from pipeline.study import Study
from pipeline.text import plural

__all__ = ["best_trials", "describe_source", "entries", "search_index", "settings", "was_searched"]


def entries(path: Path, *keys: str) -> list[dict[str, Any]]:
    """Return the entries of a `best.json` or `mlflow.json`; a file of an older version has that of one search.

    Raises:
        InputError: the file is missing or damaged, or an entry lacks one of `keys`.
    """
    content = read_json(path)
    searches = content.get("searches", [content]) if isinstance(content, dict) else content
    if not isinstance(searches, list) or not searches:
        raise InputError(f"{path}: damaged, it has no searches")
    for entry in searches:
        for key in keys:
            if not isinstance(entry, dict) or key not in entry:
                raise InputError(f"{path}: damaged, it has no {key}")
    return searches


def search_index(study: Study, seed: int) -> int:
    """Return the number of the search by whose best settings a seed is trained."""
    return study.params.train.seeds.index(seed) % study.params.sweep.searches


def was_searched(study: Study, variant: str) -> bool:
    """Return whether the variant's sweep found best settings; that of an empty space finds none."""
    best = study.sweep(variant) / "best.json"
    return best.exists() and entries(best, "trial")[0]["trial"] is not None


def best_trials(study: Study, variant: str) -> list[dict[str, Any]]:
    """Return the best trial of each search of a variant that was searched.

    Raises:
        InputError: the file is missing or damaged, or it has another number of searches than `sweep.searches`.
    """
    best, count = study.sweep(variant) / "best.json", study.params.sweep.searches
    trials = entries(best, "trial", "params")
    if len(trials) != count:
        raise InputError(
            f"{best}: it has the results of {plural(len(trials), 'search')}, and sweep.searches is {count};"
            f" run stage sweep again: `{study.command(f'sweep@{variant}')}`"
        )
    return trials


def settings(study: Study, variant: str, seed: int) -> Params:
    """Return the variant's parameters with the values that the seed's search found best, if there was a search."""
    params = study.params.variant(variant)
    if not was_searched(study, variant):
        return params
    best = study.sweep(variant) / "best.json"
    content = best_trials(study, variant)[search_index(study, seed)]
    values, measure = content["params"], content.get("measure")
    if not isinstance(values, dict):
        raise InputError(f"{best}: damaged, its params are no mapping")
    params = study.params.with_settings(variant, values, str(best))
    if measure not in (None, params.measure):
        raise InputError(
            f"{best}: its trials were compared by a {measure}, but likelihood {params.model.likelihood} is a"
            f" {params.measure}; search again"
        )
    return params


def describe_source(study: Study, variant: str, seed: int) -> str:
    """Say where a seed's settings come from."""
    if not was_searched(study, variant):
        return "settings as given"
    several = study.params.sweep.searches > 1
    return f"the best settings of {f'search {search_index(study, seed)}' if several else 'its sweep'}"
