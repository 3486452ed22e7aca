"""All private attributes of Optuna that the sweep needs, in one place; each stands for a missing public one."""

from __future__ import annotations

import warnings
from typing import Any

import optuna
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, Trial

__all__ = [
    "FrozenStudy",
    "internal",
    "name_objective",
    "reopen",
    "reported_values",
    "set_internal",
    "storage_trial_id",
    "study_id",
]

PREFIX = "cave:"  # of attributes that are for this program alone, and that Optuna's dashboard does not show


def name_objective(study: optuna.Study, name: str) -> None:
    """Name what a study maximizes; Optuna's warning that this is experimental is nothing for a user."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names([name])


def reopen(study: optuna.Study, trial: FrozenTrial) -> Trial:
    """Return a running trial of another process as one that can be written to."""
    return Trial(study, trial._trial_id)


def storage_trial_id(trial: Trial | FrozenTrial) -> int:
    """Return the number by which the storage knows a trial, whatever its study."""
    return trial._trial_id


def study_id(study: FrozenStudy) -> int:
    """Return the number by which the storage knows a study."""
    return study._study_id


def reported_values(trial: Trial) -> dict[int, float]:
    """Return the values by epoch that the pruner sees; a change of them is seen too."""
    return trial._cached_frozen_trial.intermediate_values


def internal(owner: optuna.Study | FrozenTrial | Trial, name: str, default: Any = None) -> Any:
    """Return an attribute that `set_internal` has set; earlier versions kept it among the user's."""
    if isinstance(owner, optuna.Study):
        attributes = owner._storage.get_study_system_attrs(owner._study_id)
    else:
        attributes = (owner._cached_frozen_trial if isinstance(owner, Trial) else owner).system_attrs
    return attributes[PREFIX + name] if PREFIX + name in attributes else owner.user_attrs.get(name, default)


def set_internal(owner: optuna.Study | Trial, name: str, value: Any) -> None:
    """Set an attribute that is for this program alone."""
    if isinstance(owner, optuna.Study):
        owner._storage.set_study_system_attr(owner._study_id, PREFIX + name, value)
    else:
        owner.storage.set_trial_system_attr(owner._trial_id, PREFIX + name, value)
        owner._cached_frozen_trial.system_attrs[PREFIX + name] = value
