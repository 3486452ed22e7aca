"""Which trial a worker runs next: an orphan, whose worker has died, or a new one; and when none is left.

A trial is alive as long as its worker's lock is held, which the kernel or the database drops with the process. Trials
are claimed under one lock of the search.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from optuna.trial import FrozenTrial, Trial, TrialState

from pipeline import faults
from pipeline.addresses import worker_lock
from pipeline.errors import RunError
from pipeline.sweep.compat import internal, reopen, set_internal
from pipeline.sweep.search import BEGUN, FINISHED, Sweep
from pipeline.text import plural

__all__ = ["MAX_ATTEMPTS", "check_failure_limit", "claim", "finished", "trials_with_live_worker"]

MAX_ATTEMPTS = 3  # workers that a trial may kill one after the other without finishing an epoch


def finished(sweep: Sweep) -> bool:
    """Return whether all trials of the budget are finished."""
    trials = sweep.trials()
    return sum(trial.state in FINISHED for trial in trials) >= sweep.budget(trials)


def trials_with_live_worker(sweep: Sweep, running: Sequence[FrozenTrial]) -> set[int]:
    """Return the numbers of the trials whose worker holds its lock."""
    locks = {trial.number: worker_lock(sweep.name, internal(trial, "worker", "none")) for trial in running}
    living = sweep.locks.held(list(locks.values()))
    return {number for number, lock in locks.items() if lock in living}


def check_failure_limit(sweep: Sweep, trials: Sequence[FrozenTrial]) -> None:
    """Raise `RunError` if more trials have failed than `sweep.max_failures` allows."""
    failed, most = sum(trial.state == TrialState.FAIL for trial in trials), sweep.study.params.sweep.max_failures
    if failed > most:
        count = plural(failed, "trial")
        raise RunError(f"sweep {sweep.name}: {count} failed (sweep.max_failures is {most}); see their runs")


def claim(sweep: Sweep, token: str, give_up: Callable[[Sweep, Trial, str], None]) -> Trial | None:
    """Take over an orphaned trial or ask for a new one, or return nothing where none is left to claim.

    `give_up(sweep, trial, reason)` fails an orphan that has killed `MAX_ATTEMPTS` workers.
    """
    with sweep.locks.hold(f"{sweep.name}/admission"):
        trials = sweep.trials()
        check_failure_limit(sweep, trials)
        running = [trial for trial in trials if trial.state == TrialState.RUNNING]
        living = trials_with_live_worker(sweep, running)
        for orphan in (trial for trial in running if trial.number not in living):
            attempts = internal(orphan, "attempts", 0)
            adopted = reopen(sweep.optuna, orphan)
            if attempts < MAX_ATTEMPTS:
                with sweep.transaction():
                    _assign_worker(adopted, token, attempts + 1)
                return _assigned(adopted)
            give_up(sweep, adopted, f"killed {attempts} workers without finishing an epoch")
        begun = [trial for trial in trials if trial.state in BEGUN]
        if len(begun) >= sweep.budget(begun):
            return None
        sweep.locks.check()
        with sweep.transaction():
            trial = sweep.ask(begun)
            faults.crash_point("transaction-open")
            _assign_worker(trial, token, 1)
        return _assigned(trial)


def _assign_worker(trial: Trial, token: str, attempts: int) -> None:
    """Store the owning worker's token and the number of attempts since the last finished epoch."""
    set_internal(trial, "attempts", attempts)
    set_internal(trial, "worker", token)


def _assigned(trial: Trial) -> Trial:
    faults.crash_point("trial-admitted")
    return trial
