"""A search: its space, its name, its trials in Optuna and its experiment in MLflow.

The name ends in a fingerprint of everything a trial's number depends on (space, parameters, data, code) except the
number of trials: more trials extend a study, any other change starts a new one. The variant's own settings are the
first trial of a search; of a space that has no more settings than the search has trials, each is tried once.

A variant has `sweep.searches` searches, each an Optuna study of its own, whose sampler seed is `sweep.seed` plus the
number of the search. The first has the name that a single search has, so that more searches leave it as it is.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.search_space import IntersectionSearchSpace
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import InterfaceError, OperationalError, SQLAlchemyError

from pipeline import data, faults
from pipeline.environment import Resources
from pipeline.errors import DisconnectedError, InputError
from pipeline.params import Choices, Params, Range, digest
from pipeline.redaction import reason
from pipeline.runs.source import code_digest
from pipeline.study import Study
from pipeline.sweep import space
from pipeline.sweep.compat import internal, name_objective, set_internal
from pipeline.sweep.database import Database, Storage
from pipeline.sweep.locks import Locks, locks
from pipeline.sweep.samplers import PRUNERS, SAMPLERS, Tpe, suggest
from pipeline.tracking import Run, Tracker
from pipeline.training.matching import match_weights

__all__ = [
    "BEGUN",
    "FINISHED",
    "IDENTITY",
    "STORAGE_ERRORS",
    "STORAGE_LOST",
    "Sweep",
    "short",
    "started",
    "terms",
]

IDENTITY = "training"  # the attribute of a trial that is equal where settings lead to the same training
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
BEGUN = (*FINISHED, TrialState.RUNNING)
STORAGE_ERRORS = (StorageInternalError, SQLAlchemyError)  # what a database that does not do its work raises
STORAGE_LOST = (DisconnectedError, UpdateFinishedTrialError, *STORAGE_ERRORS)  # of the store, not of a trial


@dataclass(frozen=True)
class Sweep:
    """One search of one variant of one study."""

    study: Study
    variant: str
    reconnect_timeout: float = 0.0  # seconds for which a database that is away is waited for
    search: int = 0  # its number, below `sweep.searches`
    resources: Resources = field(default_factory=Resources)  # that trials are run on

    def searches(self) -> Iterator[Sweep]:
        """Give all searches of the variant, this one among them; each of the others opens its own connections."""
        for number in range(self.study.params.sweep.searches):
            yield self if number == self.search else replace(self, search=number)

    @property
    def is_last(self) -> bool:
        """Whether the variant has no further search."""
        return self.search == self.study.params.sweep.searches - 1

    @property
    def label(self) -> str:
        """What lines for the user call the search: the variant and, where there are several, the number."""
        return self.variant if self.study.params.sweep.searches == 1 else f"{self.variant} search {self.search}"

    @property
    def seed(self) -> int:
        """The seed of the sampler and of the trials' trainings."""
        return self.study.params.sweep.seed + self.search

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
        """The name in Optuna: study, variant, number of the search unless it is the first, fingerprint."""
        settings = self.study.params.variant(self.variant).flat()
        # What every trial replaces, or what changes no trial, is left out; the first trial has the own swept values.
        ignored = {"sweep.searches", "sweep.trials", "sweep.max_failures", "sweep.space"}
        ignored |= {"train.seeds", "train.epochs", "train.milestones"}
        relevant = {
            path: value
            for path, value in settings.items()
            if path not in ignored and path.split(".")[0] in ("data", "model", "train", "sweep")
        }
        relevant["sweep.seed"] = self.seed
        if self.study.params.compare.match == "parameters":
            relevant["compare.parameters"] = self.study.params.compare.parameters
        kinds = {path: kind.model_dump() for path, kind in self.space.items()}
        fingerprint = digest([relevant, kinds, self.splits.digest, code_digest("pipeline.training")], 10)
        number = f"-search-{self.search}" if self.search else ""
        return f"{self.study.name}/{self.variant}{number}-{fingerprint}"

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
        return space.every(self.base, self.space, self.study.params.trials(self.variant))

    def untried(self, trials: Sequence[FrozenTrial]) -> dict[str, dict[str, Any]]:
        """Return those of all settings of a small space that no trial has; of a larger one, nothing."""
        tried = {internal(trial, IDENTITY) for trial in trials}
        return {key: values for key, values in (self.every or {}).items() if key not in tried}

    def budget(self, trials: Sequence[FrozenTrial]) -> int:
        """Return how many trials the search has: `sweep.trials`, or those that try every setting of a small space."""
        most = self.study.params.trials(self.variant)
        begun = [trial for trial in trials if trial.state in BEGUN]
        return most if self.every is None else min(most, len(begun) + len(self.untried(begun)))

    @cached_property
    def _common_space(self) -> IntersectionSearchSpace:
        return IntersectionSearchSpace(include_pruned=True)

    @cached_property
    def database(self) -> Database:
        """The database."""
        return Database.of(self.study)

    @cached_property
    def locks(self) -> Locks:
        """The locks that all who share the database share."""
        return locks(self.database, self.reconnect_timeout)

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
                    pruner=PRUNERS[sweep.pruner](sweep.startup_trials),
                    load_if_exists=True,
                )
                if internal(study, "id") is None:
                    set_internal(study, "id", uuid.uuid4().hex)
                    name_objective(study, self.metric)
            except InputError:
                raise
            except Exception as error:  # whatever the database's driver raises
                # The locks' connection was there a moment ago.
                gone = any(isinstance(e, OperationalError | InterfaceError) for e in (error, error.__cause__))
                kind = DisconnectedError if gone and self.database.file is None else InputError
                raise kind(f"Optuna at {self.database} cannot be used: {reason(error.__cause__ or error)}") from None
        return study

    @cached_property
    def _storage(self) -> Storage:
        return self.database.storage()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Make one transaction of everything that is written to Optuna inside this block."""
        assert self.optuna  # is opened, and its study made, before that
        with self._storage.transaction():
            yield

    @cached_property
    def key(self) -> str:
        """The name with the study's own number: a second study of this name, in another database, has another."""
        return f"{self.name}/{internal(self.optuna, 'id')}"

    @cached_property
    def tracker(self) -> Tracker:
        """The experiment in MLflow."""
        return Tracker(self.study, self.resources)

    @contextmanager
    def translate_storage_errors(self) -> Iterator[None]:
        """Translate errors of the database: to `DisconnectedError` if it is remote, else to `InputError`."""
        try:
            yield
        except DisconnectedError:
            raise
        except STORAGE_LOST as error:
            kind = DisconnectedError if self.database.file is None else InputError
            raise kind(f"Optuna at {self.database}: {reason(error.__cause__ or error)}") from None

    def trials(self) -> list[FrozenTrial]:
        """Return all trials in the order of their numbers; they are not to be changed."""
        with self.translate_storage_errors():
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
            set_internal(trial, IDENTITY, key)
        return trial

    def settings(self, trial: Trial) -> tuple[Params, str]:
        """Return the parameters of a trial and, where its values do not go together, the reason.

        The values are drawn where the trial has none yet. The parameters of those that do not go together have as many
        of them as do.
        """
        reason = ""
        with self.transaction():
            values = self._draw(trial)
            try:
                params = space.apply(self.base, values)
                key = space.identity(params)
                params = match_weights(params, self.splits)
            except InputError as error:
                params, key, reason = space.closest(self.base, values), digest(values), str(error)
            if internal(trial, IDENTITY) is None:
                set_internal(trial, IDENTITY, key)
        return params, reason

    def _draw(self, trial: Trial) -> dict[str, Any]:
        settings, values = self.study.params.sweep, dict[str, Any]()
        for path, kind in self.space.items():
            # Each is drawn from a stream of its own: the same trials whatever the number of workers, and wherever
            # one was stopped, as far as they do not depend on the results of others.
            stream = int(digest([self.seed, trial.number, path], 8), 16)
            sampler = SAMPLERS[settings.sampler](stream, settings.startup_trials)
            if isinstance(sampler, Tpe):
                sampler.common_space = self._common_space
            self.optuna.sampler = sampler
            values[path] = suggest(trial, path, kind)
            faults.crash_point("transaction-open")
        return values


def terms(trial: FrozenTrial) -> dict[str, float]:
    """Return the metrics of a finished trial's best epoch, each an attribute of its own."""
    return {name: float(value) for name, value in trial.user_attrs.items() if "/" in name}


def started(start: Callable[[], Run]) -> Run:
    """Start a run; stopped in the middle of it, leave none that seems to run."""
    try:
        return start()
    except KeyboardInterrupt:
        start().finish("KILLED")
        raise


def short(value: Any) -> str:
    """Write a value for a reader, floats to three digits."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
