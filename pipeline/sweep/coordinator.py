"""The coordinator: one a search; it starts workers, says how they get on, and writes down what they found.

The searches of a variant are run to their end one after the other; the files are written when all of them are finished.

A second process that is to run the same sweep shares it: its workers help, and when all trials are finished it is the
coordinator in its turn and writes the outputs into its own folder. Other hosts `join` with workers of their own. Where
they are left alone, the first of them that sees all trials finished is the coordinator in the end. A coordinator that
has lost its database stops as a worker does, ends its workers, and starts again when the database is back.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from typing import Any, TypeVar

from optuna.trial import TrialState

from pipeline import processes
from pipeline.addresses import coordinator_lock
from pipeline.errors import DisconnectedError, InputError
from pipeline.progress import reporting
from pipeline.runs import RunSpec, study_folders
from pipeline.sweep.claims import MAX_ATTEMPTS, check_failure_limit, finished, trials_with_live_worker
from pipeline.sweep.compat import internal, set_internal
from pipeline.sweep.outputs import publish, write, write_nothing
from pipeline.sweep.progress import LOOK, Progress
from pipeline.sweep.search import Sweep, started
from pipeline.sweep.worker import work
from pipeline.text import plural
from pipeline.tracking import Run

__all__ = ["RECONNECT_TIMEOUT", "join", "run"]

T = TypeVar("T")

RETRY_PAUSE = 1.0  # seconds before a database that was lost is looked for
RECONNECT_TIMEOUT = 300.0  # seconds for which a database that was there is waited for


def run(sweep: Sweep, workers: int) -> list[dict[str, Any]]:
    """Bring each search to its number of trials, write the outputs, and return the best trial of each.

    Where the space is empty there is nothing to search, and the variant's own settings are the best.
    """
    sweep.tracker.require()
    if not sweep.space:
        return write_nothing(sweep)
    return [_retry_on_disconnect(search, lambda search: _run(search, workers)) for search in sweep.searches()]


def _retry_on_disconnect(sweep: Sweep, work: Callable[[Sweep], T]) -> T:
    """Call `work`, and call it again after the database was lost and is back."""
    retries = _retries(sweep)
    while True:
        try:
            with sweep.translate_storage_errors():
                return work(sweep)
        except DisconnectedError as error:
            processes.raise_if_interrupted()
            if retries == 0:
                raise
            retries -= 1
            print(f"{sweep.label}: {error}; goes on when it is back", flush=True)
            sweep.locks.close()
            sweep = replace(sweep, reconnect_timeout=RECONNECT_TIMEOUT)
            time.sleep(RETRY_PAUSE)  # one that answers, and cannot be used yet


def _run(sweep: Sweep, workers: int) -> dict[str, Any]:
    with ExitStack() as held:
        try:
            # One that has lost its database waits until that has given up what the process held in it.
            held.enter_context(_held(sweep, wait=sweep.reconnect_timeout > 0))
        except BlockingIOError:
            _share(sweep, workers, held)
        else:
            progress = Progress(sweep)
            if progress.printed:
                count = f"{len(progress.printed)} of {plural(progress.budget, 'trial')}"
                print(f"{sweep.label}: {count} were finished before", flush=True)
        return _coordinate(sweep, workers)


def _share(sweep: Sweep, workers: int, held: ExitStack) -> None:
    """Help the coordinator until all trials are finished and it has written its outputs; then be the coordinator."""
    count = plural(workers, "worker")
    print(f"{sweep.label}: {_holder(sweep)} works on this sweep already; shares it with {count}", flush=True)
    _make_parent(sweep)
    progress = Progress(sweep)
    with _abandoning(sweep), sweep.translate_storage_errors():
        if not finished(sweep):
            _search(sweep, workers, progress)
        while True:
            try:
                held.enter_context(_held(sweep))
                return
            except BlockingIOError:
                progress()
                time.sleep(LOOK)
                processes.raise_if_interrupted()


def _coordinate(sweep: Sweep, workers: int) -> dict[str, Any]:
    with sweep.locks.hold(f"{sweep.name}/parent"):
        parent = started(lambda: _parent(sweep))
    try:
        with sweep.translate_storage_errors():
            if not finished(sweep):
                _search(sweep, workers, Progress(sweep))
            trials = sweep.trials()
            check_failure_limit(sweep, trials)
            most = sweep.study.params.trials(sweep.variant)
            if sweep.every is not None and sweep.budget(trials) < most:
                count = plural(len(sweep.every), "setting")
                grid = sweep.study.params.sweep.sampler == "grid"
                rest = f"the grid has {plural(most, 'combination')}" if grid else f"sweep.trials is {most}"
                print(f"{sweep.label}: the space has {count}: all were tried; {rest}", flush=True)
            return _write(sweep, parent)
    except DisconnectedError:
        parent.close()
        raise
    except BaseException as error:
        parent.finish(_status(sweep, error))
        if sweep.tracker.server.reachable:
            sweep.tracker.backlog.publish_all(seconds=2.0)  # of workers that did not end by themselves
        raise


def join(sweep: Sweep, workers: int) -> None:
    """Help with the searches, whoever began them, until all trials are finished; write the outputs if nobody else does.

    Searches that are finished already take no time but that of a look.
    """
    sweep.tracker.require()
    if not sweep.space:
        print(f"{sweep.variant}: its space is empty, so that there is nothing to join")
        return
    trials, count = plural(sweep.study.params.trials(sweep.variant), "trial"), plural(workers, "worker")
    for search in sweep.searches():
        print(f"{search.label}: joins sweep {search.name} of {trials} at {search.database} with {count}", flush=True)
        _retry_on_disconnect(search, lambda search: _join(search, workers))


def _join(sweep: Sweep, workers: int) -> None:
    _make_parent(sweep)
    progress, before = Progress(sweep), sweep.reconnect_timeout > 0

    def report_progress(*, now: bool = False) -> None:
        with suppress(DisconnectedError):  # the workers see to it
            progress(now=now)

    with _abandoning(sweep):
        if not finished(sweep):
            _start_workers(sweep, workers, report_progress)
            report_progress(now=True)
        sweep = replace(sweep, reconnect_timeout=RECONNECT_TIMEOUT)  # on a connection of its own, the other may be lost
        try:
            # A connection that was lost may hold what this process held, until the database gives it up.
            with sweep.translate_storage_errors(), _held(sweep, wait=before):
                parent = started(lambda: _parent(sweep))
                with parent.closing():
                    best = _write(sweep, parent)
                where = f"; results: {sweep.study.sweep(sweep.variant)}" if sweep.is_last else ""
                print(f"{sweep.label}: best trial {best['trial']}{where}")
        except BlockingIOError:
            print(f"{sweep.label}: all trials are finished; {_holder(sweep)} writes the results")
            sweep.tracker.backlog.flush_at_exit()
            _clear(sweep)


@contextmanager
def _abandoning(sweep: Sweep) -> Iterator[None]:
    """Where this is left by an error, end the sweep's run if nobody works on it any more."""
    try:
        yield
    except DisconnectedError:
        raise
    except BaseException as error:
        with suppress(Exception, KeyboardInterrupt):
            fresh = replace(sweep)  # on a connection of its own
            with _held(fresh):
                run = fresh.tracker.reopen(fresh.key, internal(fresh.optuna, "mlflow_run_id"))
                run.finish(_status(fresh, error))
        raise


def _status(sweep: Sweep, error: BaseException) -> str | None:
    """Return what a process that is stopped by an error leaves the sweep's run as: unended where others go on."""
    with suppress(InputError, DisconnectedError):
        if trials_with_live_worker(sweep, [trial for trial in sweep.trials() if trial.state == TrialState.RUNNING]):
            return None
    return "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"


def _write(sweep: Sweep, parent: Run) -> dict[str, Any]:
    with reporting(f"{sweep.label} results", counted=False):
        outcome = publish(sweep, parent)
        _store_run_id(sweep, parent)  # that MLflow had not assigned when the run was started, say
        if sweep.is_last:
            write(outcome)
    sweep.locks.check()
    parent.finish()
    sweep.tracker.backlog.flush_at_exit()
    _clear(sweep)
    return outcome.best


def _clear(sweep: Sweep) -> None:
    """Remove the states of trials that others have finished, unless a trial is unfinished."""
    with sweep.locks.hold(f"{sweep.name}/admission"):
        if all(trial.state != TrialState.RUNNING for trial in sweep.trials()):
            sweep.tracker.backlog.discard_states(*study_folders(sweep.study, f"{sweep.key}/"))


def _search(sweep: Sweep, workers: int, progress: Progress) -> None:
    def tick() -> None:
        sweep.locks.check()
        progress()

    if processes.runs_inline(workers, sweep.resources):
        processes.become_worker(sweep.resources)
        work(sweep, tick)
    else:
        _start_workers(sweep, workers, tick)
    progress(now=True)


def _start_workers(sweep: Sweep, count: int, tick: Callable[[], None]) -> None:
    command = ["pipeline.stages", "sweep", sweep.variant, f"--search={sweep.search}", "--worker"]
    folder, retries = sweep.study.folder, _retries(sweep)
    processes.run([command] * count, folder, sweep.resources, retries=retries, tick=tick)


def _retries(sweep: Sweep) -> int:
    return MAX_ATTEMPTS * sweep.study.params.trials(sweep.variant)


@contextmanager
def _held(sweep: Sweep, wait: bool = False) -> Iterator[None]:
    """Be the coordinator, and let others read who that is."""
    with sweep.locks.hold(coordinator_lock(sweep.name), wait):
        set_internal(sweep.optuna, "coordinator", f"process {os.getpid()} on host {platform.node()}")
        yield


def _holder(sweep: Sweep) -> str:
    return str(internal(sweep.optuna, "coordinator", "another process"))


def _make_parent(sweep: Sweep) -> None:
    """Make the sweep's run in MLflow unless it is there; nobody holds it afterwards."""
    with sweep.locks.hold(f"{sweep.name}/parent"):
        if internal(sweep.optuna, "mlflow_run_id") is None:
            _parent(sweep).finish(None)


def _parent(sweep: Sweep) -> Run:
    params = sweep.study.params.variant(sweep.variant)
    count = params.sweep.searches
    several = f" {sweep.search} (of {count}, from 0 on)" if count > 1 else ""
    trials = plural(params.trials(sweep.variant), "trial")
    about = (
        f"Search{several} of **{sweep.variant}** over {', '.join(sweep.space)}, by {params.sweep.sampler}:"
        f" {trials} of at most {plural(params.sweep.epochs, 'epoch')}, of which the"
        f" highest `{sweep.metric}` is the best."
        " Its metrics and its tags `best/*` are the best trial's; the trials are its children."
        f"\n\nOptuna study `{sweep.name}`. {sweep.study.how(f'sweep@{sweep.variant}')}"
    )
    run = sweep.tracker.start(
        RunSpec(stage="sweep", variant=sweep.variant, seed=sweep.seed, params=params),
        key=sweep.key,
        name=f"sweep {sweep.label}",
        splits=sweep.splits,
        about=about,
        inputs=[sweep.study.data],
    )
    with run.closing():
        _store_run_id(sweep, run)
        if internal(sweep.optuna, "mlflow_run_id") is None:  # its trials need it
            run.finish("KILLED")
            raise InputError(f"MLflow at {sweep.tracker.server.address} cannot be used: it did not make a run")
        if count > 1:
            run.set_tags({"search": str(sweep.search)})
    return run


def _store_run_id(sweep: Sweep, run: Run) -> None:
    """Store the id of the sweep's run, as far as MLflow has assigned it."""
    if run.run_id is not None and internal(sweep.optuna, "mlflow_run_id") != run.run_id:
        set_internal(sweep.optuna, "mlflow_run_id", run.run_id)
