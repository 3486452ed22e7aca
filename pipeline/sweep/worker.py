"""A worker: it claims trials one by one and runs each to its end, writing to the disk, then MLflow, then Optuna.

It leaves when all trials are finished, and not when all are claimed: so one whose host dies at the very end is taken
over by whoever is still there. A worker that has lost its database stops as if killed, without a further write: its
trial may have another worker already.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from optuna.trial import FrozenTrial, Trial, TrialState

from pipeline import faults, processes, redaction
from pipeline.addresses import worker_lock
from pipeline.environment import WorkerRole
from pipeline.errors import DisconnectedError, InputError, external_fault
from pipeline.log import STATE, Record
from pipeline.metric import VALUE
from pipeline.params import digest
from pipeline.progress import reporting
from pipeline.runs import RunSpec
from pipeline.sweep.claims import claim, finished, trials_with_live_worker
from pipeline.sweep.compat import internal, set_internal
from pipeline.sweep.reports import Reports
from pipeline.sweep.search import IDENTITY, STORAGE_ERRORS, STORAGE_LOST, Sweep, started, terms
from pipeline.tracking import Run
from pipeline.training import best_record, fit, initial_model, report_epoch

__all__ = ["work"]

WAIT = 1.0  # seconds between two looks at the trials of others
BEHIND = 10.0  # seconds to send pending rows to MLflow when all trials are finished


def work(sweep: Sweep, tick: Callable[[], None] = lambda: None) -> None:
    """Run trials until all of the budget are finished, here or elsewhere."""
    token = uuid.uuid4().hex
    sweep.trials()  # Optuna keeps the finished ones: the first look, at thousands, takes seconds, and no lock
    with sweep.translate_storage_errors(), sweep.locks.announce(worker_lock(sweep.name, token)):
        while (trial := claim(sweep, token, _give_up)) is not None or not finished(sweep):
            if trial is None:
                time.sleep(WAIT)
                processes.raise_if_interrupted()
            else:
                _trial(sweep, trial, tick)
            tick()
    if sweep.tracker.backlog.behind:
        sweep.tracker.backlog.publish_all(seconds=BEHIND)


def _trial(sweep: Sweep, trial: Trial, tick: Callable[[], None]) -> None:
    """Run a trial to its end, and write that end to Optuna last."""
    run, reports = None, Reports(sweep, trial)
    folder = sweep.tracker.folder(f"{sweep.key}/{trial.number}")
    try:
        spec, reason = _spec(sweep, trial)
        equal = None if reason or (folder / STATE).exists() else _equal(sweep, reports, tick)
        run = started(lambda: _open(sweep, trial, spec))
        if reason:
            end = _End(TrialState.PRUNED, reason=reason)
        elif equal is not None:
            end = _repeat(equal, run, reports)
        else:
            end = _train(sweep, spec, run, reports, tick)
    except STORAGE_LOST as error:
        if sweep.database.file is not None and isinstance(error, STORAGE_ERRORS):
            with suppress(*STORAGE_LOST):  # the kernel keeps the lock: the trial is this worker's own
                _stop(reports, run)
        if run is not None:
            run.close()
        raise
    except (KeyboardInterrupt, InputError):
        _stop(reports, run)
        raise
    except Exception as error:  # a fault of one setting, whatever it is, ends that trial alone
        if cause := external_fault(error):  # a full disk, say, is none
            _stop(reports, run)
            raise InputError(f"trial {trial.number}: {cause}; `cave doctor` shows how to fix it") from None
        if run is None:
            raise
        reason = redaction.reason(error, 500)
        with run.closing():
            sweep.locks.check()
            run.finish("FAILED", reason)
            _fail(reports, run, reason)
    else:
        with run.closing():
            sweep.locks.check()
            value, pruned = end.metrics.get(sweep.metric), end.state == TrialState.PRUNED
            if value is not None:
                run.log_result("value", digest(value), {0: {VALUE: value}}, {})
            repeats = {} if end.repeats is None else {"repeats": str(end.repeats)}
            run.set_tags(repeats | ({"state": "pruned"} if pruned else {}))
            run.finish("KILLED" if pruned else "FINISHED", end.reason)
            _end_trial(reports, run, end.attributes, end.state, value)
    sweep.tracker.backlog.discard_states(folder)


@dataclass(frozen=True)
class _End:
    """How a trial has ended: the terms of its best epoch, and why it has none or has those of another.

    The best epoch is the one whose weights a final training would keep (`best_record`).
    """

    state: TrialState
    epoch: int | None = None  # the best
    metrics: Mapping[str, float] = field(default_factory=dict)
    repeats: int | None = None  # the number of an earlier trial whose record it takes
    reason: str = ""

    @property
    def attributes(self) -> dict[str, Any]:
        """What the trial keeps of it in Optuna."""
        attributes = {"best_epoch": self.epoch, "repeats": self.repeats, "reason": self.reason}
        return {**self.metrics, **{name: value for name, value in attributes.items() if value not in (None, "")}}


def _stop(reports: Reports, run: Run | None) -> None:
    """Leave a trial, and its run if it has one yet, to whoever goes on; this does not count as killed."""
    try:
        reports.flush()
    finally:
        if run is not None:
            with suppress(InputError), run.closing():  # a full disk may have no room for it
                run.finish("KILLED")


def _spec(sweep: Sweep, trial: Trial) -> tuple[RunSpec, str]:
    """Return what a trial trains and, where its settings do not go together, the reason."""
    params, reason = sweep.settings(trial)
    rng_seed = int(digest(["trial", sweep.seed], 7), 16)  # that no final training has
    return RunSpec(stage="trial", variant=sweep.variant, seed=sweep.seed, params=params, rng_seed=rng_seed), reason


def _equal(sweep: Sweep, reports: Reports, tick: Callable[[], None]) -> FrozenTrial | None:
    """Return an earlier trial that has ended with the same training; one that runs is waited for.

    A trial whose own training has begun, and one whose equals have failed or lost their workers, trains by itself.
    """
    trial = reports.trial
    while not reports.values:
        identity = internal(trial, IDENTITY)
        earlier = [t for t in sweep.trials() if t.number < trial.number]
        for equal in earlier:
            if equal.state in (TrialState.COMPLETE, TrialState.PRUNED) and internal(equal, IDENTITY) == identity:
                return equal
        # One whose settings are still being drawn may turn out to be equal.
        pending = [t for t in earlier if internal(t, IDENTITY, identity) == identity]
        if not trials_with_live_worker(sweep, [t for t in pending if t.state == TrialState.RUNNING]):
            break
        reports.flush_once()  # waiting does not count as an attempt
        time.sleep(WAIT)
        processes.raise_if_interrupted()
        sweep.locks.check()
        tick()
    return None


def _repeat(equal: FrozenTrial, run: Run, reports: Reports) -> _End:
    """Take the record of an earlier trial with the same settings, and log its best epoch."""
    reports.copy(equal.intermediate_values)
    metrics: dict[str, float] = terms(equal)
    epoch = int(equal.user_attrs["best_epoch"])
    assert equal.datetime_complete is not None
    # The same whenever it is logged, so that logging it again after a kill changes nothing.
    timestamp = int(equal.datetime_complete.timestamp() * 1000)
    run.log_record(Record(epoch, step=0, seconds=0.0, timestamp=timestamp, metrics=metrics))
    return _End(equal.state, epoch, metrics, repeats=equal.number)


def _give_up(sweep: Sweep, trial: Trial, reason: str) -> None:
    """Fail a trial that nobody has finished, in MLflow too."""
    spec, _ = _spec(sweep, trial)
    run = started(lambda: _open(sweep, trial, spec))
    with run.closing():
        run.finish("FAILED", reason)
        _fail(Reports(sweep, trial), run, reason)


def _end_trial(
    reports: Reports, run: Run, attributes: Mapping[str, Any], state: TrialState, value: float | None = None
) -> None:
    """End a trial in Optuna, which takes one end alone, and it from the trial's own worker; and all that waits."""
    sweep, trial = reports.sweep, reports.trial
    sweep.locks.check()
    with sweep.transaction():
        _identify(trial, run)
        reports.write()
        for name, attribute in attributes.items():
            trial.set_user_attr(name, attribute)
        try:
            sweep.optuna.tell(trial, value if state == TrialState.COMPLETE else None, state)
        except ValueError as error:
            raise DisconnectedError(f"trial {trial.number} was ended by another worker: {error}") from None
    faults.crash_point("trial-ended")


def _fail(reports: Reports, run: Run, reason: str) -> None:
    _end_trial(reports, run, {"reason": reason}, TrialState.FAIL)


def _open(sweep: Sweep, trial: Trial, spec: RunSpec) -> Run:
    widths = " - ".join(map(str, spec.params.model.level_units(sweep.splits.shape)))
    run = sweep.tracker.start(
        spec,
        key=f"{sweep.key}/{trial.number}",
        name=f"{sweep.label} trial {trial.number}",
        splits=sweep.splits,
        about=f"Trial {trial.number} of Optuna study `{sweep.name}`: **{sweep.variant}** with levels {widths}.",
        inputs=[sweep.study.data],
        parent=internal(sweep.optuna, "mlflow_run_id"),
    )
    with run.closing():
        if sweep.study.params.sweep.searches > 1:
            run.set_tags({"search": str(sweep.search)})
        _identify(trial, run)
    return run


def _identify(trial: Trial, run: Run) -> None:
    """Store the id of the trial's run once MLflow has assigned it."""
    if run.run_id is not None and internal(trial, "mlflow_run_id") != run.run_id:
        set_internal(trial, "mlflow_run_id", run.run_id)


def _train(sweep: Sweep, spec: RunSpec, run: Run, reports: Reports, tick: Callable[[], None]) -> _End:
    """Train one setting."""
    assert spec.rng_seed is not None
    train, seed, folder = spec.params.train, spec.rng_seed, run.folder.path
    model = initial_model(spec.params.model, sweep.splits, seed)
    before, pruned = max(run.folder.last_epoch, *reports.values, 0), False
    records: list[Record] = []
    alone = WorkerRole.read() is None  # no coordinator prints how far its workers are
    device = processes.device(sweep.resources.device)
    with reporting(f"{sweep.label} trial {reports.trial.number}", counted=False, beats=alone) as reporter:
        for record in fit(model, sweep.splits, train, seed=seed, device=device, folder=folder):
            sweep.locks.check()
            run.publish()
            records.append(record)
            report_epoch(reporter, record, train.epochs, len(sweep.splits.train), sweep.metric)
            if record.epoch > train.warmup_end(model.depth):
                # What a training that ended here would have kept: trials are compared by nothing else.
                reports.add(record.epoch, best_record(records, train, model.depth).metrics[sweep.metric])
                # Of the epochs before the last that another life has come to, none has pruned it.
                if pruned := record.epoch >= before and reports.pruned():
                    break
            else:
                reports.flush_once()
            tick()
            processes.raise_if_interrupted()
    reports.flush_once()
    best = best_record(records, train, model.depth)
    return _End(TrialState.PRUNED if pruned else TrialState.COMPLETE, best.epoch, best.metrics)
