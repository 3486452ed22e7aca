"""All private attributes of Optuna that the sweep needs, in one place; each stands for a missing public one."""

from __future__ import annotations

import optuna
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, Trial

__all__ = ["FrozenStudy", "reopen", "reported_values", "storage_trial_id", "study_id"]


def reopen(study: optuna.Study, trial: FrozenTrial) -> Trial:
    """Return a running trial of another process as one that can be written to."""
    return Trial(study, trial._trial_id)


def storage_trial_id(trial: Trial) -> int:
    """Return the number by which the storage knows a trial, whatever its study."""
    return trial._trial_id


def study_id(study: FrozenStudy) -> int:
    """Return the number by which the storage knows a study."""
    return study._study_id


def reported_values(trial: Trial) -> dict[int, float]:
    """Return the values by epoch that the pruner sees; a change of them is seen too."""
    return trial._cached_frozen_trial.intermediate_values
