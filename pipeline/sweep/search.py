"""A search: its space, its name, its trials in Optuna and its experiment in MLflow.

The name ends in a fingerprint of everything a trial's number depends on (space, parameters, data, code) except the
number of trials: more trials extend a study, any other change starts a new one. The variant's own settings are the
first trial of a search; of a space that has no more settings than the search has trials, each is tried once.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.search_space import IntersectionSearchSpace
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import InterfaceError, OperationalError, SQLAlchemyError

from pipeline import data, faults
from pipeline.errors import DisconnectedError, InputError
from pipeline.params import Choices, Params, Range, digest
from pipeline.redaction import redacted
from pipeline.runs.provenance import code_digest
from pipeline.study import Study
from pipeline.sweep import space
from pipeline.sweep.locks import Locks, locks
from pipeline.sweep.store import Storage, Store
from pipeline.tracking import Run, Tracker
from pipeline.training.matching import match_weights

__all__ = [
    "BEGUN",
    "DATABASE",
    "FINISHED",
    "IDENTITY",
    "LOST",
    "PRUNERS",
    "SAMPLERS",
    "Sweep",
    "short",
    "started",
]

IDENTITY = "training"  # the attribute of a trial that is equal where settings lead to the same training
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
BEGUN = (*FINISHED, TrialState.RUNNING)
DATABASE = (StorageInternalError, SQLAlchemyError)  # what a database that does not do its work raises
LOST = (DisconnectedError, UpdateFinishedTrialError, *DATABASE)  # of the store, not of a trial


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

    @property
    def metric(self) -> str:
        """The metric that the search maximizes."""
        return self.study.params.sweep.metric

    @cached_property
    def name(self) -> str:
        """The name in Optuna: study, variant, fingerprint."""
        settings = self.study.params.variant(self.variant).flat()
        # What every trial replaces, or what changes no trial, is left out; the first trial has the own swept values.
        ignored = {"sweep.trials", "sweep.failures", "sweep.space", "train.seeds", "train.epochs", "train.milestones"}
        kept = {
            path: value
            for path, value in settings.items()
            if path not in ignored and path.split(".")[0] in ("data", "model", "train", "sweep")
        }
        if self.study.params.compare.match == "parameters":
            kept["compare.parameters"] = self.study.params.compare.parameters
        kinds = {path: kind.model_dump() for path, kind in self.space.items()}
        fingerprint = digest([kept, kinds, self.splits.digest, code_digest("pipeline.training")], 10)
        return f"{self.study.name}/{self.variant}-{fingerprint}"

    @cached_property
    def space(self) -> dict[str, Range | Choices]:
        """What is searched."""
        return self.study.params.space(self.variant)

    @cached_property
    def base(self) -> Params:
        """The variant's parameters, with the epochs of a trial."""
        params = self.study.params
        budget = {"train.epochs": params.sweep.epochs, "train.milestones": ()}
        return params.variant(self.variant).override(budget, "sweep.epochs")

    @cached_property
    def own(self) -> dict[str, Any]:
        """The variant's own values of what is searched; one that is not in the space is an `InputError`."""
        return space.own(self.base, self.space)

    @cached_property
    def every(self) -> dict[str, dict[str, Any]] | None:
        """All settings of the space by their identity, or None where there are more than trials."""
        return space.every(self.base, self.space, self.study.params.sweep.trials)

    def untried(self, trials: Sequence[FrozenTrial]) -> dict[str, dict[str, Any]]:
        """Return those of all settings of a small space that no trial has; of a larger one, nothing."""
        tried = {trial.user_attrs.get(IDENTITY) for trial in trials}
        return {key: values for key, values in (self.every or {}).items() if key not in tried}

    def budget(self, trials: Sequence[FrozenTrial]) -> int:
        """Return how many trials the search has: `sweep.trials`, or those that try every setting of a small space."""
        most = self.study.params.sweep.trials
        begun = [trial for trial in trials if trial.state in BEGUN]
        return most if self.every is None else min(most, len(begun) + len(self.untried(begun)))

    @cached_property
    def _found(self) -> IntersectionSearchSpace:
        return IntersectionSearchSpace(include_pruned=True)

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
                kind = DisconnectedError if gone and self.store.file is None else InputError
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
        except DisconnectedError:
            raise
        except LOST as error:
            kind = DisconnectedError if self.store.file is None else InputError
            raise kind(f"Optuna at {self.store}: {_reason(error)}") from None

    def trials(self) -> list[FrozenTrial]:
        """Return all trials in the order of their numbers; they are not to be changed."""
        with self.reaching():
            return self.optuna.get_trials(deepcopy=False)

    def ask(self, trials: Sequence[FrozenTrial]) -> Trial:
        """Ask for a new trial, in a transaction of the caller: the own settings first, then every untried one."""
        key, values = next(iter(self.untried(trials).items()), (None, None))
        if not trials:
            key, values = space.key(self.base, self.own), self.own
        if values is not None:
            self.optuna.enqueue_trial(values)  # is what `ask` returns
        trial = self.optuna.ask()
        if key is not None:
            trial.set_user_attr(IDENTITY, key)
        return trial

    def settings(self, trial: Trial) -> tuple[Params, str]:
        """Return the parameters of a trial and, where its values do not go together, the reason.

        The values are drawn where the trial has none yet. The parameters of those that do not go together have as many
        of them as do.
        """
        reason = ""
        with self.together():
            values = self._draw(trial)
            try:
                params = space.apply(self.base, values)
                key = space.identity(params)
                params = match_weights(params, self.splits)
            except InputError as error:
                params, key, reason = space.closest(self.base, values), digest(values), str(error)
            if IDENTITY not in trial.user_attrs:
                trial.set_user_attr(IDENTITY, key)
        return params, reason

    def _draw(self, trial: Trial) -> dict[str, Any]:
        settings, values = self.study.params.sweep, dict[str, Any]()
        for path, kind in self.space.items():
            # Each is drawn from a stream of its own: the same trials whatever the number of workers, and wherever
            # one was stopped, as far as they do not depend on the results of others.
            stream = int(digest([settings.seed, trial.number, path], 8), 16)
            sampler = SAMPLERS[settings.sampler](stream, settings.startup)
            if isinstance(sampler, _Tpe):
                sampler.found = self._found
            self.optuna.sampler = sampler
            values[path] = _suggest(trial, path, kind)
            faults.reached("transaction-open")
        return values


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
    if kind.whole:
        return trial.suggest_int(path, int(kind.low), int(kind.high), log=kind.log, step=int(kind.step or 1))
    return trial.suggest_float(path, kind.low, kind.high, log=kind.log, step=kind.step)


def short(value: Any) -> str:
    """Write a value for a reader, floats to three digits."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
