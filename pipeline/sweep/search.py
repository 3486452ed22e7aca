"""A search: its space, its name, its trials in Optuna and its experiment in MLflow.

The name ends in a fingerprint of everything a trial's number depends on (space, parameters, data, code) except the
number of trials: more trials extend a study, any other change starts a new one.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from pipeline import data
from pipeline.errors import InputError, redacted, without_password
from pipeline.files import locked
from pipeline.params import Choices, Params, Range, digest
from pipeline.provenance import code_digest
from pipeline.study import Study
from pipeline.tracking import Tracker

__all__ = ["FINISHED", "OBJECTIVE", "PRUNERS", "SAMPLERS", "Sweep", "short"]

OBJECTIVE = "valid/elbo"
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)

SAMPLERS: dict[str, Callable[[int, int], optuna.samplers.BaseSampler]] = {
    "tpe": lambda seed, startup: optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup, constant_liar=True),
    "random": lambda seed, _: optuna.samplers.RandomSampler(seed=seed),
}
PRUNERS: dict[str, Callable[[int], optuna.pruners.BasePruner]] = {
    "median": lambda startup: optuna.pruners.MedianPruner(n_startup_trials=startup, n_warmup_steps=5),
    "none": lambda _: optuna.pruners.NopPruner(),
}

optuna.logging.set_verbosity(optuna.logging.WARNING)


@dataclass(frozen=True)
class Sweep:
    """The search of one variant of one study."""

    study: Study
    variant: str

    @cached_property
    def splits(self) -> data.Splits:
        """The data that trials train on."""
        return data.load(self.study.data)

    @cached_property
    def name(self) -> str:
        """The name in Optuna: study, variant, fingerprint."""
        params = self.study.params
        space = params.space(self.variant)
        settings = params.variant(self.variant).flat()
        # What a trial replaces, or what changes no trial, is left out.
        ignored = {"sweep.trials", "sweep.failures", "sweep.space", "train.seeds", "train.epochs", "train.milestones"}
        ignored |= set(space)
        kept = {
            path: value
            for path, value in settings.items()
            if path not in ignored and path.split(".")[0] in ("data", "model", "train", "sweep")
        }
        kinds = {path: kind.model_dump() for path, kind in space.items()}
        fingerprint = digest([kept, kinds, self.splits.digest, code_digest("pipeline.training")], 10)
        return f"{self.study.name}/{self.variant}-{fingerprint}"

    @property
    def scratch(self) -> Path:
        """Locks, and the states of trials that are not finished."""
        return self.study.cache / "sweeps" / self.name

    @cached_property
    def optuna(self) -> optuna.Study:
        """The study in its store: CAVE_OPTUNA_URL, or the database at the root."""
        url = os.environ.get("CAVE_OPTUNA_URL") or f"sqlite:///{self.study.store / 'optuna.db'}"
        options = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {}
        sweep = self.study.params.sweep
        # Processes that open a fresh database at once would both make its tables.
        with locked(self.study.cache / "locks" / "optuna"):
            try:
                study = optuna.create_study(
                    storage=optuna.storages.RDBStorage(url, engine_kwargs=options),
                    study_name=self.name,
                    direction="maximize",
                    pruner=PRUNERS[sweep.pruner](sweep.startup),
                    load_if_exists=True,
                )
                if "id" not in study.user_attrs:
                    study.set_user_attr("id", uuid.uuid4().hex)
            except Exception as error:  # whatever the database's driver raises
                reason = redacted(" ".join(str(error).split()))[:200]
                raise InputError(f"Optuna at {without_password(url)} cannot be used: {reason}") from None
        return study

    @property
    def key(self) -> str:
        """The name with the study's own number: a second study of this name, in another database, has another."""
        return f"{self.name}/{self.optuna.user_attrs['id']}"

    @cached_property
    def tracker(self) -> Tracker:
        """The experiment in MLflow."""
        return Tracker(self.study)

    def trials(self) -> list[FrozenTrial]:
        """Return all trials in the order of their numbers; they are not to be changed."""
        return self.optuna.get_trials(deepcopy=False)

    def settings(self, trial: Trial) -> Params:
        """Return the parameters of a trial: the variant's, with the suggested values in place."""
        params = self.study.params
        chosen = {path: _suggest(trial, path, kind) for path, kind in params.space(self.variant).items()}
        budget = {"train.epochs": params.sweep.epochs, "train.milestones": ()}
        return params.variant(self.variant).override(budget | chosen, "sweep.space")


def _suggest(trial: Trial, path: str, kind: Range | Choices) -> Any:
    if isinstance(kind, Choices):
        return trial.suggest_categorical(path, kind.choices)
    if isinstance(kind.low, int) and isinstance(kind.high, int) and isinstance(kind.step or 1, int):
        return trial.suggest_int(path, kind.low, kind.high, log=kind.log, step=int(kind.step or 1))
    return trial.suggest_float(path, kind.low, kind.high, log=kind.log, step=kind.step)


def short(value: Any) -> str:
    """Write a value for a reader, floats to three digits."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
