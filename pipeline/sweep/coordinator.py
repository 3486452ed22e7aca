"""The coordinator: one a search; it starts workers, says how they get on, and writes down what they found."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from pipeline import launch
from pipeline.errors import InputError
from pipeline.files import locked
from pipeline.sweep.outputs import write, write_nothing
from pipeline.sweep.search import FINISHED, OBJECTIVE, Sweep, short
from pipeline.sweep.worker import LIVES, work
from pipeline.tracking import Run
from pipeline.work import Work

__all__ = ["run"]

QUIET = 20.0  # seconds without a word, after which the running trials are told


def run(sweep: Sweep, workers: int) -> dict[str, Any]:
    """Bring the study to its number of trials, write the outputs, and return the best trial.

    Where the space is empty there is nothing to search, and the variant's own settings are the best.
    """
    sweep.tracker.require()
    if not sweep.study.params.space(sweep.variant):
        return write_nothing(sweep)
    trials = sweep.study.params.sweep.trials
    with _only(sweep):
        parent = _parent(sweep)
        try:
            progress = _Progress(sweep)
            if progress.told:
                print(f"{sweep.variant}: {len(progress.told)} of {trials} trials were finished before", flush=True)
            if len(progress.told) < trials:
                _search(sweep, workers, progress)
            best = write(sweep, parent)
        except BaseException as error:
            parent.finish("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
            if sweep.tracker.store.up:
                sweep.tracker.deliver(seconds=2.0)  # of workers that did not end by themselves
            raise
        parent.finish()
        sweep.tracker.last_word()
    return best


def _search(sweep: Sweep, workers: int, progress: _Progress) -> None:
    if launch.here(workers):
        launch.become_worker()
        work(sweep, progress)
        return
    command = ["pipeline.stages.sweep", sweep.variant, "--worker"]
    retries = LIVES * sweep.study.params.sweep.trials
    launch.run([command] * workers, sweep.study.folder, retries=retries, tick=progress)


@contextmanager
def _only(sweep: Sweep) -> Iterator[None]:
    lock = sweep.scratch / "coordinator"
    try:
        with locked(lock, wait=False):
            lock.write_text(f"process {os.getpid()}")
            yield
    except BlockingIOError:
        holder = lock.read_text() or "another process"
        raise InputError(f"sweep {sweep.name}: {holder} is running it already") from None


def _parent(sweep: Sweep) -> Run:
    params = sweep.study.params.variant(sweep.variant)
    about = (
        f"Search of **{sweep.variant}** over {', '.join(params.space(sweep.variant))}:"
        f" {params.sweep.trials} trials of at most {params.sweep.epochs} epochs, by {params.sweep.sampler}."
        " Its metrics and its tags `best/*` are the best trial's; the trials are its children."
        f"\n\nOptuna study `{sweep.name}`. {sweep.study.how(f'sweep@{sweep.variant}')}"
    )
    run = sweep.tracker.start(
        Work(stage="sweep", variant=sweep.variant, seed=params.sweep.seed, params=params),
        key=sweep.key,
        goes_on=True,
        name=f"sweep {sweep.variant}",
        splits=sweep.splits,
        about=about,
        inputs=[sweep.study.data],
    )
    if run.run_id is None:  # its trials need it
        run.finish("KILLED")
        raise InputError(f"MLflow at {sweep.tracker.store.address} cannot be used: it did not make a run")
    sweep.optuna.set_user_attr("mlflow_run_id", run.run_id)
    return run


class _Progress:
    """Called again and again, it says which trials have finished, and now and then how the others stand."""

    def __init__(self, sweep: Sweep) -> None:
        self.sweep = sweep
        self.told = {trial.number for trial in sweep.trials() if trial.state in FINISHED}
        self.last = time.monotonic()

    def __call__(self) -> None:
        trials = self.sweep.trials()
        values = [trial.value for trial in trials if trial.state == TrialState.COMPLETE and trial.value is not None]
        best = f", best {max(values):.3f}" if values else ""
        for trial in trials:
            if trial.state in FINISHED and trial.number not in self.told:
                self.told.add(trial.number)
                end = f"{trial.state.name.lower():8s}"
                self._say(
                    trial, end, trial.value, f"  ({len(self.told)} of {self.sweep.study.params.sweep.trials}{best})"
                )
        if time.monotonic() - self.last > QUIET:
            for trial in trials:
                if trial.state == TrialState.RUNNING and trial.intermediate_values:
                    epoch = max(trial.intermediate_values)
                    self._say(trial, f"at epoch {epoch:<3d}", trial.intermediate_values[epoch], "")

    def _say(self, trial: FrozenTrial, state: str, value: float | None, more: str) -> None:
        self.last = time.monotonic()
        bound = f"{value:8.3f}" if value is not None else "    none"
        settings = ", ".join(f"{path.split('.')[-1]} {short(value)}" for path, value in trial.params.items())
        print(
            f"{self.sweep.variant}: trial {trial.number:<3d} {OBJECTIVE} {bound} {state} {settings}{more}", flush=True
        )
