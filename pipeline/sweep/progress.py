"""What a sweep prints: a line for each trial that finishes, and after a silence one for each that runs."""

from __future__ import annotations

import time
from collections.abc import Callable

from optuna.trial import FrozenTrial, TrialState

from pipeline import display
from pipeline.progress import line_printed, time_left
from pipeline.sweep.search import FINISHED, Sweep, short

__all__ = ["LOOK", "Progress"]

LOOK = 0.5  # seconds between two looks at the trials
QUIET = 20.0  # seconds without a line, after which the running trials get one


class Progress:
    """Prints the lines of a sweep when it is called, again and again."""

    def __init__(self, sweep: Sweep, clock: Callable[[], float] = time.monotonic) -> None:
        self.sweep, self.clock = sweep, clock
        trials = sweep.trials()
        self.printed = {trial.number for trial in trials if trial.state in FINISHED}
        self.budget = sweep.budget(trials)
        # The searches before this one are finished, those after it are not begun; all have as many trials.
        self.earlier = sweep.search * self.budget
        self.all = sweep.study.params.sweep.searches * self.budget
        self.before = len(self.printed)
        self.start = self.last = self.looked = clock()
        display.count(self.all, self.earlier + self.before)

    def __call__(self, *, now: bool = False) -> None:
        """Look at the trials, unless that was done a moment ago, and print what is new."""
        if not now and self.clock() < self.looked + LOOK:  # it is called after every epoch
            return
        self.looked = self.clock()
        trials = self.sweep.trials()
        values = [trial.value for trial in trials if trial.state == TrialState.COMPLETE and trial.value is not None]
        best = f", best {max(values):.3f}" if values else ""
        if picture := display.current():
            picture.best = f"{max(values):.3f}" if values else ""
        for trial in trials:
            if trial.state in FINISHED and trial.number not in self.printed:
                self.printed.add(trial.number)
                words = [f"repeats trial {trial.user_attrs['repeats']}"] if "repeats" in trial.user_attrs else []
                words += [trial.user_attrs["reason"]] if "reason" in trial.user_attrs else []
                done = self.earlier + len(self.printed)
                words.append(f"({done} of {max(self.all, done)}{best}{self._time_left()})")
                self._print(trial, f"{trial.state.name.lower():8s}", trial.value, f"  {', '.join(words)}")
        if picture:
            picture.finish(self.earlier + len(self.printed))
        elif self.clock() - self.last > QUIET:
            running = [trial for trial in trials if trial.state == TrialState.RUNNING]
            epochs = [max(trial.intermediate_values, default=0) for trial in running]
            rest = self._time_left(sum(epochs) / self.sweep.study.params.sweep.epochs)
            for trial, epoch in zip(running, epochs, strict=True):
                self._print(trial, f"at epoch {epoch:<3d}", trial.intermediate_values.get(epoch), rest)

    def _time_left(self, begun: float = 0.0) -> str:
        """Return the time left, with so many trials' worth of epochs done in trials that run."""
        done = len(self.printed) - self.before + begun
        return time_left(done, max(self.all - self.earlier - self.before, done), self.looked - self.start)

    def _print(self, trial: FrozenTrial, state: str, value: float | None, more: str) -> None:
        self.last = self.clock()
        line_printed()
        bound = f"{value:8.3f}" if value is not None else "    none"
        settings = ", ".join(f"{path.split('.')[-1]} {short(value)}" for path, value in trial.params.items())
        print(
            f"{self.sweep.label}: trial {trial.number:<3d} {self.sweep.metric} {bound} {state} {settings}{more}",
            flush=True,
        )
