"""The samplers and pruners that params.yaml may name, and how a trial's setting is drawn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.search_space import IntersectionSearchSpace
from optuna.trial import FrozenTrial, Trial

from pipeline.params import Choices, Range

__all__ = ["PRUNERS", "SAMPLERS", "Tpe", "suggest"]


class Tpe(optuna.samplers.TPESampler):
    """TPE; it may be given what a sampler of an earlier trial has found, and looks at the trials since then alone."""

    common_space: IntersectionSearchSpace | None = None

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return what can be drawn together: what all finished trials have."""
        if self.common_space is None:
            return super().infer_relative_search_space(study, trial)
        common = self.common_space.calculate(study, use_cache=True)
        return {path: kind for path, kind in common.items() if not kind.single()}


SAMPLERS: dict[str, Callable[[int, int], optuna.samplers.BaseSampler]] = {
    "tpe": lambda seed, startup: Tpe(seed=seed, n_startup_trials=startup, constant_liar=True),
    "random": lambda seed, _: optuna.samplers.RandomSampler(seed=seed),
    "grid": lambda seed, _: optuna.samplers.RandomSampler(seed=seed),  # of trials whose values `ask` has set
}
PRUNERS: dict[str, Callable[[int], optuna.pruners.BasePruner]] = {
    "median": lambda startup: optuna.pruners.MedianPruner(n_startup_trials=startup, n_warmup_steps=5),
    "none": lambda _: optuna.pruners.NopPruner(),
}


def suggest(trial: Trial, path: str, kind: Range | Choices) -> Any:
    """Return a trial's value at a dotted path, which is drawn where it has none yet."""
    if isinstance(kind, Choices):
        return trial.suggest_categorical(path, kind.choices)
    if kind.is_integer:
        return trial.suggest_int(path, int(kind.low), int(kind.high), log=kind.log, step=int(kind.step or 1))
    return trial.suggest_float(path, kind.low, kind.high, log=kind.log, step=kind.step)
