"""A search: its space, its name, its trials in Optuna and its experiment in MLflow.

The name ends in a fingerprint of everything a trial's number depends on (space, parameters, data, code) except the
number of trials: more trials extend a study, any other change starts a new one.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.search_space import IntersectionSearchSpace
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import InterfaceError, OperationalError, SQLAlchemyError

from pipeline import data, faults
from pipeline.errors import InputError, LostError, redacted
from pipeline.params import Choices, Params, Range, digest
from pipeline.provenance import code_digest
from pipeline.study import Study
from pipeline.sweep.locks import Locks, locks
from pipeline.sweep.store import Storage, Store
from pipeline.tracking import Run, Tracker

__all__ = ["DATABASE", "FINISHED", "LOST", "OBJECTIVE", "PRUNERS", "SAMPLERS", "Sweep", "short", "started"]

OBJECTIVE = "valid/elbo"
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
DATABASE = (StorageInternalError, SQLAlchemyError)  # what a database that does not do its work raises
LOST = (LostError, UpdateFinishedTrialError, *DATABASE)  # of the store, not of a trial


class _Tpe(optuna.samplers.TPESampler):
    """TPE; it may be given what a sampler of an earlier trial has found, and looks at the trials since then alone."""

    found: IntersectionSearchSpace | None = None

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return what can be drawn together: what all finished trials have."""
        if self.found is None:
            return super().infer_relative_search_space(study, trial)
        common = self.found.calculate(study, use_cache=True)
        return {path: kind for path, kind in common.items() if not kind.single()}


SAMPLERS: dict[str, Callable[[int, int], optuna.samplers.BaseSampler]] = {
    "tpe": lambda seed, startup: _Tpe(seed=seed, n_startup_trials=startup, constant_liar=True),
    "random": lambda seed, _: optuna.samplers.RandomSampler(seed=seed),
}
PRUNERS: dict[str, Callable[[int], optuna.pruners.BasePruner]] = {
    "median": lambda startup: optuna.pruners.MedianPruner(n_startup_trials=startup, n_warmup_steps=5),
    "none": lambda _: optuna.pruners.NopPruner(),
}

optuna.logging.set_verbosity(optuna.logging.WARNING)
logging.getLogger("sqlalchemy").setLevel(logging.CRITICAL)  # a connection that breaks is told in a line


@dataclass(frozen=True)
class Sweep:
    """The search of one variant of one study."""

    study: Study
    variant: str
    patience: float = 0.0  # seconds for which a database that is away is waited for

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

    @cached_property
    def _found(self) -> IntersectionSearchSpace:
        return IntersectionSearchSpace(include_pruned=True)

    @property
    def scratch(self) -> Path:
        """The states of trials that are not finished."""
        return self.study.cache / "sweeps" / self.key

    @cached_property
    def store(self) -> Store:
        """The database."""
        return Store.of(self.study)

    @cached_property
    def locks(self) -> Locks:
        """The locks that all who share the database share."""
        return locks(self.store, self.patience)

    @cached_property
    def optuna(self) -> optuna.Study:
        """The study in its database; it is made where it is not there."""
        sweep = self.study.params.sweep
        # Processes that open a fresh database at once would both make its tables.
        with self.locks.hold(".tables"):  # no study has such a name
            try:
                study = optuna.create_study(
                    storage=self._storage,
                    study_name=self.name,
                    direction="maximize",
                    sampler=SAMPLERS["random"](0, 0),  # `settings` gives each draw its own
                    pruner=PRUNERS[sweep.pruner](sweep.startup),
                    load_if_exists=True,
                )
                if "id" not in study.user_attrs:
                    study.set_user_attr("id", uuid.uuid4().hex)
            except InputError:
                raise
            except Exception as error:  # whatever the database's driver raises
                # The locks' connection was there a moment ago.
                gone = any(isinstance(e, OperationalError | InterfaceError) for e in (error, error.__cause__))
                kind = LostError if gone and self.store.file is None else InputError
                raise kind(f"Optuna at {self.store} cannot be used: {_reason(error)}") from None
        return study

    @cached_property
    def _storage(self) -> Storage:
        return self.store.storage()

    @contextmanager
    def together(self) -> Iterator[None]:
        """Write all that Optuna is told in here in one transaction."""
        assert self.optuna  # is opened, and its study made, before that
        with self._storage.together():
            yield

    @cached_property
    def key(self) -> str:
        """The name with the study's own number: a second study of this name, in another database, has another."""
        return f"{self.name}/{self.optuna.user_attrs['id']}"

    @cached_property
    def tracker(self) -> Tracker:
        """The experiment in MLflow."""
        return Tracker(self.study)

    @contextmanager
    def reaching(self) -> Iterator[None]:
        """Tell what a database raises that does not do its work as what it is."""
        try:
            yield
        except LostError:
            raise
        except LOST as error:
            kind = LostError if self.store.file is None else InputError
            raise kind(f"Optuna at {self.store}: {_reason(error)}") from None

    def trials(self) -> list[FrozenTrial]:
        """Return all trials in the order of their numbers; they are not to be changed."""
        with self.reaching():
            return self.optuna.get_trials(deepcopy=False)

    def settings(self, trial: Trial) -> Params:
        """Return the parameters of a trial: the variant's, with the suggested values in place."""
        params, chosen = self.study.params, dict[str, Any]()
        with self.together():
            for path, kind in params.space(self.variant).items():
                # Each is drawn from a stream of its own: the same trials whatever the number of workers, and wherever
                # one was stopped, as far as they do not depend on the results of others.
                stream = int(digest([params.sweep.seed, trial.number, path], 8), 16)
                sampler = SAMPLERS[params.sweep.sampler](stream, params.sweep.startup)
                if isinstance(sampler, _Tpe):
                    sampler.found = self._found
                self.optuna.sampler = sampler
                chosen[path] = _suggest(trial, path, kind)
                faults.reached("suggested")
        budget = {"train.epochs": params.sweep.epochs, "train.milestones": ()}
        return params.variant(self.variant).override(budget | chosen, "sweep.space")


def started(start: Callable[[], Run]) -> Run:
    """Start a run; stopped in the middle of it, leave none that seems to run."""
    try:
        return start()
    except KeyboardInterrupt:
        start().finish("KILLED")
        raise


def _reason(error: Exception) -> str:
    return redacted(" ".join(str(error.__cause__ or error).split()))[:200]


def _suggest(trial: Trial, path: str, kind: Range | Choices) -> Any:
    if isinstance(kind, Choices):
        return trial.suggest_categorical(path, kind.choices)
    if isinstance(kind.low, int) and isinstance(kind.high, int) and isinstance(kind.step or 1, int):
        return trial.suggest_int(path, kind.low, kind.high, log=kind.log, step=int(kind.step or 1))
    return trial.suggest_float(path, kind.low, kind.high, log=kind.log, step=kind.step)


def short(value: Any) -> str:
    """Write a value for a reader, floats to three digits."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
