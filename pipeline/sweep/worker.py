"""A worker: it claims trials one by one and runs each to its end, telling the disk, then MLflow, then Optuna."""

from __future__ import annotations

import platform
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

from optuna.trial import FrozenTrial, Trial, TrialState

from pipeline import launch
from pipeline.errors import InputError, RunError, redacted
from pipeline.files import locked
from pipeline.params import digest
from pipeline.sweep.search import FINISHED, OBJECTIVE, SAMPLERS, Sweep
from pipeline.tracking import Run
from pipeline.training import Record, fit
from pipeline.work import Work

__all__ = ["LIVES", "work"]

LIVES = 3  # workers that a trial may kill one after the other without finishing an epoch


def work(sweep: Sweep, tick: Callable[[], None] = lambda: None) -> None:
    """Run trials until the budget is spent."""
    token = uuid.uuid4().hex
    with locked(sweep.scratch / "workers" / token):
        while (trial := _claim(sweep, token)) is not None:
            _trial(sweep, trial, tick)
            tick()
    (sweep.scratch / "workers" / token).unlink(missing_ok=True)


def _claim(sweep: Sweep, token: str) -> Trial | None:
    """Take over an orphaned trial or ask for a new one, or return nothing when the budget is spent."""
    settings = sweep.study.params.sweep
    with locked(sweep.scratch / "admission"):
        trials = sweep.trials()
        failed = sum(trial.state == TrialState.FAIL for trial in trials)
        if failed > settings.failures:
            raise RunError(
                f"sweep {sweep.name}: {failed} trials failed (sweep.failures is {settings.failures}); see their runs"
            )

        def sampler(number: int) -> None:
            # Seeded by the trial's number: the same trials whatever the number of workers or restarts, as far as
            # they do not depend on the results of others.
            stream = int(digest([settings.seed, number], 8), 16)
            sweep.optuna.sampler = SAMPLERS[settings.sampler](stream, settings.startup)

        for orphan in (trial for trial in trials if trial.state == TrialState.RUNNING and not _alive(sweep, trial)):
            epochs, killed = len(orphan.intermediate_values), orphan.user_attrs.get("killed", 0)
            killed = killed + 1 if epochs == orphan.user_attrs.get("epochs_before", 0) else 0
            sampler(orphan.number)
            adopted = Trial(sweep.optuna, orphan._trial_id)
            if killed < LIVES:
                return _admit(sweep, adopted, token, epochs, killed)
            _fail(sweep, adopted, f"killed {killed} workers without finishing an epoch")
        if sum(trial.state in (*FINISHED, TrialState.RUNNING) for trial in trials) >= settings.trials:
            return None
        sampler(len(trials))
        return _admit(sweep, sweep.optuna.ask(), token, 0, 0)


def _admit(sweep: Sweep, trial: Trial, token: str, epochs: int, killed: int) -> Trial:
    trial.set_user_attr("epochs_before", epochs)
    trial.set_user_attr("killed", killed)
    trial.set_user_attr("place", _place(sweep))
    trial.set_user_attr("worker", token)
    return trial


def _place(sweep: Sweep) -> str:
    """Name the machine and the folder whose locks tell whether a worker is alive."""
    return f"{platform.node()}:{sweep.scratch}"


def _alive(sweep: Sweep, trial: FrozenTrial) -> bool:
    """Tell whether the trial's worker lives; of one elsewhere nothing is known, and it is left alone."""
    if trial.user_attrs.get("place", _place(sweep)) != _place(sweep):
        return True
    lock = sweep.scratch / "workers" / trial.user_attrs.get("worker", "none")
    try:
        with locked(lock, wait=False):
            lock.unlink(missing_ok=True)
            return False
    except BlockingIOError:
        return True


def _trial(sweep: Sweep, trial: Trial, tick: Callable[[], None]) -> None:
    """Run a trial to its end, whichever that is, and tell Optuna last."""
    params = sweep.settings(trial)
    stream = int(digest(["trial", params.sweep.seed], 7), 16)  # that no final training draws from
    piece = Work(stage="trial", variant=sweep.variant, seed=params.sweep.seed, params=params, stream=stream)
    folder = sweep.scratch / "trials" / str(trial.number)
    run = _open(sweep, trial, piece, anew=not folder.exists())
    try:
        best, pruned = _train(sweep, trial, piece, run, folder, tick)
    except (KeyboardInterrupt, InputError):  # a full disk, say, is no fault of this setting
        trial.set_user_attr("epochs_before", -1)  # asked to stop: this does not count as killed
        run.finish("KILLED")
        raise
    except Exception as error:  # a fault of one setting, whatever it is, ends that trial alone
        reason = redacted(" ".join(str(error).split()))[:500] or type(error).__name__
        run.finish("FAILED", reason)
        _identify(trial, run)
        _fail(sweep, trial, reason)
    else:
        run.set_tags({"trial_state": "pruned" if pruned else "complete"})
        run.finish()
        _identify(trial, run)
        trial.set_user_attr("metrics", best.metrics)
        if pruned:
            sweep.optuna.tell(trial, state=TrialState.PRUNED)
        else:
            sweep.optuna.tell(trial, best.metrics[OBJECTIVE])
    shutil.rmtree(folder, ignore_errors=True)


def _fail(sweep: Sweep, trial: Trial, reason: str) -> None:
    trial.set_user_attr("reason", reason)
    sweep.optuna.tell(trial, state=TrialState.FAIL)


def _open(sweep: Sweep, trial: Trial, piece: Work, *, anew: bool) -> Run:
    widths = " - ".join(map(str, piece.params.model.level_widths))
    run = sweep.tracker.start(
        piece,
        key=f"{sweep.key}/{trial.number}",
        goes_on=True,  # the key is this trial's alone
        anew=anew,
        name=f"{sweep.variant} trial {trial.number}",
        splits=sweep.splits,
        about=f"Trial {trial.number} of Optuna study `{sweep.name}`: **{sweep.variant}** with levels {widths}.",
        inputs=[sweep.study.data],
        parent=sweep.optuna.user_attrs["mlflow_run_id"],
    )
    _identify(trial, run)
    return run


def _identify(trial: Trial, run: Run) -> None:
    """Write the run's id into the trial, as soon as MLflow has told it."""
    if run.run_id is not None and trial.user_attrs.get("mlflow_run_id") != run.run_id:
        trial.set_user_attr("mlflow_run_id", run.run_id)


def _train(
    sweep: Sweep, trial: Trial, piece: Work, run: Run, folder: Path, tick: Callable[[], None]
) -> tuple[Record, bool]:
    """Train one setting; return the record of its best epoch, and whether the trial was pruned."""
    assert piece.stream is not None
    model, train = piece.model(sweep.splits), piece.params.train
    reported = sweep.trials()[trial.number].intermediate_values
    records: list[Record] = []
    for record in fit(model, sweep.splits, train, seed=piece.stream, device=launch.device(), folder=folder):
        run.log_records([record])
        records.append(record)
        if record.epoch not in reported:
            trial.report(record.metrics[OBJECTIVE], record.epoch)
        if pruned := trial.should_prune():
            break
        tick()
        launch.heed()
    return max(records, key=lambda record: record.metrics[OBJECTIVE]), pruned
