"""Places where a process can be made to die: CAVE_FAULT=NAME:N:MARK kills it, with SIGKILL, at its N-th pass of NAME.

NAME may be `any`, which counts the passes of all of them. Several faults are separated by `;`. CAVE_FAULT_SIGNAL names
another signal: SIGSTOP holds the process at that place until the test lets it go on.

This is how the tests put `kill -9` between any two steps of the protocol by which a sweep, a training and the
tracking keep their promises. MARK is a file that is made at that moment: where it exists already, nothing happens, so
that what is started again, with the same environment, goes on. Without the variable a place costs a look-up.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from pathlib import Path

from pipeline.environment import CRASH, CRASH_SIGNAL, crash_request

__all__ = ["ANY", "POINTS", "SIGNAL", "VARIABLE", "reached"]

VARIABLE, SIGNAL, ANY = CRASH, CRASH_SIGNAL, "any"

POINTS: dict[str, str] = {
    "coordinator-locked": "the sweep is this process's, its run is not in MLflow yet",
    "parent-started": "the sweep's run is in MLflow, no worker is started",
    "worker-locked": "a worker holds its lock and has claimed nothing",
    "trial-asked": "a trial is asked for, and not in the database before its worker is written into it",
    "trial-admitted": "the worker is written into it, it has no run",
    "suggested": "one of its settings is drawn, and not in the database before all are",
    "outbox-started": "a run's beginning is in its outbox, MLflow does not know of it",
    "run-created": "the run is found or made in MLflow, nothing else is sent",
    "run-opened": "the trial's run is begun, Optuna does not know of it",
    "state-before": "an epoch is trained, its state is not on the disk yet",
    "state-between": "its record is on the disk, its state is not",
    "state-after": "its state is on the disk, nobody else knows of it",
    "rows-logged": "rows, tags or files are in the outbox",
    "rows-sent": "rows are in MLflow",
    "reported": "Optuna has the report of an epoch, or of several that came fast",
    "end-logged": "the run's end is in the outbox",
    "end-sent": "MLflow has the end, the outbox is still there",
    "outbox-removed": "all is sent, the outbox is gone",
    "run-ended": "the trial's run is ended, Optuna has not been told",
    "told": "Optuna has been told, the trial's folder is still there",
    "folder-removed": "nothing is left of the trial but its results",
    "outputs-written": "the sweep's outputs are written, its run is not ended",
}
"""Every place by its name, and what has happened there, in the order of a trial's life."""

_passes: Counter[str] = Counter()


def reached(name: str) -> None:
    """Die here, if it is asked for."""
    asked, signal_name = crash_request()
    if asked is None:
        return
    assert name in POINTS
    _passes.update((name, ANY))
    for fault in asked.split(";"):
        wanted, passes, mark = fault.split(":", 2)
        assert wanted in (ANY, *POINTS)
        if wanted in (ANY, name) and _passes[wanted] == int(passes):
            try:
                Path(mark).touch(exist_ok=False)
            except FileExistsError:
                continue
            os.kill(os.getpid(), signal.Signals[signal_name])
            return
