"""Check that `sweep.metric` compares the trials of a search, and that trials are long enough for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.errors import InputError
from pipeline.text import plural

if TYPE_CHECKING:
    from pipeline.params.parameters import Params

__all__ = ["check_metric"]

WARMUP = ("train.warmup", "train.warmup_stagger", "model.depth")  # on which the length of the warm-up depends


def check_metric(params: Params) -> None:
    """Raise `InputError` where trials would be ranked by values of different quantities, or by no epoch that counts."""
    searched = [name for name in params.variants if params.space(name)]
    for name in searched:
        _check_paths(params, name)
        _check_warmup(params, name)
        one = params.variant(name)
        if params.sweep.metric == "valid/iwae" and one.model.inference == "diffusion" and one.train.objective != "iwae":
            raise InputError(
                f"sweep.metric: valid/iwae given, which the diffusion '{name}' has with train.objective iwae alone;"
                " allowed: valid/objective or valid/elbo"
            )
    draws = {name: params.variant(name).train.draws_behind_valid for name in searched}
    if params.sweep.metric == "valid/iwae" and len(set(draws.values())) > 1:
        words = ", ".join(f"{count} for variant '{name}'" for name, count in draws.items())
        raise InputError(
            f"sweep.metric: valid/iwae is L_k with k the draws of validation, which are {words}; allowed: one k"
            " (train.draws of objectives iwae and dreg, else train.valid_draws), or sweep.metric valid/objective"
            " or valid/elbo"
        )


def _check_paths(params: Params, name: str) -> None:
    """Check that no searched path changes what the metric is."""
    metric, space = params.sweep.metric, params.space(name)
    objectives = _values(params, name, "train.objective")
    weighted = bool(objectives & {"iwae", "dreg"})
    changing: dict[str, dict[str, bool]] = {
        "valid/objective": {
            "train.objective": True,
            "train.beta": True,
            "train.free_bits": True,
            "train.draws": weighted,
            **dict.fromkeys(  # they are granted to every level
                ("model.depth", "model.prior", "model.prior_levels"), max(_values(params, name, "train.free_bits")) > 0
            ),
        },
        "valid/iwae": {"train.objective": weighted, "train.draws": weighted},
        "valid/elbo": {},
    }
    for path in space:
        if changing[metric].get(path):
            allowed = [other for other in changing if other != metric and not changing[other].get(path)]
            raise InputError(
                f"sweep.space.{path}: searched for variant '{name}', but {metric}, by which sweep.metric ranks the"
                f" trials, is another quantity at each of its values; allowed: sweep.metric {' or '.join(allowed)}"
            )


def _check_warmup(params: Params, name: str) -> None:
    """Check that every trial has an epoch after its warm-up: only those can be its best."""
    warmup, warmup_stagger = (max(_values(params, name, path)) for path in WARMUP[:2])
    train = params.variant(name).train.model_copy(update={"warmup": warmup, "warmup_stagger": warmup_stagger})
    more = (
        max(_values(params, name, "model.prior_levels")) if "diffusion" in _values(params, name, "model.prior") else 0
    )
    end = max(
        train.warmup_end(depth if depth == "continuous" else depth + more) for depth in _values(params, name, WARMUP[2])
    )
    if params.sweep.epochs <= end:
        raise InputError(
            f"sweep.epochs: {params.sweep.epochs} given, but the warm-up of variant '{name}' can last"
            f" {plural(end, 'epoch')} (train.warmup, train.warmup_stagger), and only later epochs count; allowed:"
            f" {end + 1} or more"
        )


def _values(params: Params, name: str, path: str) -> set[Any]:
    """Return the values of a path in the trials of a variant; of an interval, its ends."""
    kind = params.space(name).get(path)
    return {params.variant(name).flat()[path]} if kind is None else set(kind.boundary_values)
