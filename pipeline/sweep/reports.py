"""The reports of a trial's epochs to Optuna, whose pruner may end the trial.

The first report of an attempt is written at once and resets the count of attempts: the trial does not kill its workers.
Later ones wait for a second at most, or for the trial's end, and are written in one transaction. A report that was lost
with its process is written again, because its epoch is on the disk.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from optuna.trial import Trial

from pipeline import faults
from pipeline.sweep.compat import reported_values, set_internal, storage_trial_id
from pipeline.sweep.search import Sweep

__all__ = ["Reports"]

PAUSE = 1.0  # seconds between two transactions


class Reports:
    """The reports of a trial, of which Optuna has some."""

    def __init__(self, sweep: Sweep, trial: Trial) -> None:
        self.sweep, self.trial = sweep, trial
        self.values = reported_values(trial)
        self._waiting: list[int] = []
        self._flushed = False  # whether the count of attempts was reset
        self._next = 0.0

    def add(self, epoch: int, value: float) -> None:
        """Report an epoch that was not reported before, at once or later."""
        if epoch not in self.values:
            self.values[epoch] = value
            self._waiting.append(epoch)
        if self._waiting and (not self._flushed or time.monotonic() >= self._next):
            self.flush()

    def pruned(self) -> bool:
        """Return whether Optuna's pruner ends the trial."""
        return self.trial.should_prune()

    def flush_once(self) -> None:
        """Flush unless this attempt has flushed before, so that Optuna counts it as successful."""
        if not self._flushed:
            self.flush()

    def flush(self) -> None:
        """Write the pending reports and reset the count of attempts, in one transaction."""
        with self.sweep.transaction():
            set_internal(self.trial, "attempts", 0)
            self.write()
        self._flushed = True
        faults.crash_point("epoch-reported")

    def copy(self, values: Mapping[int, float]) -> None:
        """Take over the epochs of another trial; they go with what is written next."""
        self._waiting += [epoch for epoch in values if epoch not in self.values]
        self.values |= values

    def write(self) -> None:
        """Write what waits, in the transaction that there is."""
        waiting, self._waiting = self._waiting, []
        self._next = time.monotonic() + PAUSE
        for epoch in waiting:
            self.trial.storage.set_trial_intermediate_value(storage_trial_id(self.trial), epoch, self.values[epoch])
