"""What Optuna is told of a trial's epochs, and whether its pruner ends the trial.

The first report of a life goes at once: it proves that the trial does not kill those who run it. What comes fast after
it waits for a second at most, or for the trial's end, and goes in one transaction. A report that was lost with its
process is made once more: its epoch is on the disk.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from optuna.trial import Trial

from pipeline import faults
from pipeline.sweep.search import Sweep

__all__ = ["Reports"]

PAUSE = 1.0  # seconds between two transactions


class Reports:
    """The reports of a trial, of which Optuna has some."""

    def __init__(self, sweep: Sweep, trial: Trial) -> None:
        self.sweep, self.trial = sweep, trial
        self.values = trial._cached_frozen_trial.intermediate_values  # which the pruner is shown
        self._waiting: list[int] = []
        self._proven = False  # does Optuna know that this life, or the one before, has finished an epoch?
        self._next = 0.0

    def add(self, epoch: int, value: float) -> None:
        """Report an epoch that was not reported before, at once or later."""
        if epoch not in self.values:
            self.values[epoch] = value
            self._waiting.append(epoch)
        if self._waiting and (not self._proven or time.monotonic() >= self._next):
            self.send()

    def pruned(self) -> bool:
        """Ask the pruner."""
        return self.trial.should_prune()

    def prove(self) -> None:
        """Tell Optuna that the trial has come to its end, if it knows of no epoch in this life."""
        if not self._proven:
            self.send()

    def send(self) -> None:
        """Tell Optuna what waits, and that the trial has killed nobody."""
        with self.sweep.together():
            self.trial.set_user_attr("begun", 0)
            self.write()
        self._proven = True
        faults.reached("epoch-reported")

    def copy(self, values: Mapping[int, float]) -> None:
        """Take over the epochs of another trial; they go with what is written next."""
        self._waiting += [epoch for epoch in values if epoch not in self.values]
        self.values |= values

    def write(self) -> None:
        """Write what waits, in the transaction that there is."""
        waiting, self._waiting = self._waiting, []
        self._next = time.monotonic() + PAUSE
        for epoch in waiting:
            self.trial.storage.set_trial_intermediate_value(self.trial._trial_id, epoch, self.values[epoch])
