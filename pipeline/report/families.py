"""Variants that differ in the weight of the rate alone: points of one curve of rate and distortion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline.metric import Metric
from pipeline.report.comparison import Result
from pipeline.study import Study

if TYPE_CHECKING:
    import pandas as pd

    from pipeline.figures import TradeOff

__all__ = ["families", "level_term"]

BETA = ("train.beta", "train.objective")
BOUNDS = ("elbo", "stl", "beta")  # objectives that are the elbo but for the weight of the rate
FEWEST = 3  # betas that make a curve


def families(study: Study, results: Sequence[Result], seeds: pd.DataFrame) -> dict[str, list[TradeOff]]:
    """Return the models that differ in beta alone, where there are at least `FEWEST`, by what their names share.

    `seeds` is the table of all numbers, in which levels that a seed's model lacks have 0 nats (`Comparison.summed`).
    """
    groups: dict[tuple[object, ...], list[tuple[float, Result]]] = {}
    for result in results:
        train, overrides = study.params.variant(result.variant).train, study.params.variants[result.variant]
        rest = tuple(sorted((path, repr(value)) for path, value in overrides.items() if path not in BETA))
        if train.objective in BOUNDS:
            groups.setdefault(rest, []).append((train.beta, result))
    families = [models for models in groups.values() if len({beta for beta, _ in models}) >= FEWEST]
    return {_shared([result.variant for _, result in models]): _curve(models, seeds) for models in families}


def _curve(models: list[tuple[float, Result]], seeds: pd.DataFrame) -> list[TradeOff]:
    from pipeline.figures import TradeOff

    means = seeds.groupby(["variant", "metric"])["value"].mean()

    return [
        TradeOff(
            beta,
            result.metrics["kl"].mean,
            -result.metrics["reconstruction"].mean,
            tuple(
                float(means[result.variant, name])
                for level in range(1, result.depth + 1)
                if (name := str(Metric(level_term(result), level))) in result.metrics  # a diffusion has none
            ),
        )
        for beta, result in sorted(models, key=lambda model: model[0])
    ]


def level_term(result: Result) -> str:
    """Return the term that splits the rate by level: a true divergence where there is one, else the rates."""
    levels = range(1, result.depth + 1)
    return next(
        (term for term in ("kl", "chain_kl") if all(str(Metric(term, level)) in result.metrics for level in levels)),
        "rate",
    )


def _shared(names: list[str]) -> str:
    """Return what names begin with, less what separates it from the rest.

    >>> _shared(["hvae-0.5", "hvae-1"])
    'hvae'
    """
    start = names[0]
    while start and not all(name.startswith(start) for name in names):
        start = start[:-1]
    return start.rstrip("-_. ") or " and ".join(names)
