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
from typing import NamedTuple

from pipeline.environment import CRASH, CRASH_SIGNAL, crash_request
from pipeline.errors import InputError
from pipeline.text import did_you_mean

__all__ = ["ANY", "POINTS", "SIGNAL", "VARIABLE", "crash_point", "requested_faults"]

VARIABLE, SIGNAL, ANY = CRASH, CRASH_SIGNAL, "any"

POINTS: dict[str, str] = {
    "transaction-open": "a trial is asked for, or one of its settings is drawn, and the database does not have it yet",
    "trial-admitted": "the worker is written into the trial, which has no run",
    "run-opened": "a run's folder is begun, MLflow does not know of it",
    "run-created": "the run is found or created in MLflow, nothing else is sent",
    "state-written": "an epoch's state is on the disk, the run's log does not have the epoch",
    "line-appended": "lines are in the run's log, nobody else knows of them",
    "rows-sent": "rows are in MLflow",
    "epoch-reported": "Optuna has the report of an epoch, or of several that came fast",
    "end-sent": "MLflow has the end of a run, Optuna does not have that of its trial",
    "trial-ended": "Optuna has the end of a trial, its folder is still there",
}
"""Every place by its name, and what has happened there, in the order of a trial's life."""

_passes: Counter[str] = Counter()


class Fault(NamedTuple):
    """A crash that is asked for."""

    point: str
    passes: int  # of the point, the one that dies among them
    mark: Path


def requested_faults() -> tuple[list[Fault], signal.Signals]:
    """Return the crashes that CAVE_FAULT asks for, and the signal that they are made by.

    Raises:
        InputError: a name is not one of `POINTS`, or the form is another.
    """
    text, signal_name = crash_request()
    if signal_name not in signal.Signals.__members__:
        raise InputError(f"{SIGNAL}: '{signal_name}' given; allowed: the name of a signal, as SIGKILL")
    faults = []
    for request in text.split(";") if text else ():
        point, _, rest = request.partition(":")
        passes, _, mark = rest.partition(":")
        if point not in (ANY, *POINTS):
            hint = did_you_mean(point, [ANY, *POINTS])
            raise InputError(f"{VARIABLE}: '{point}' given{hint}; allowed: {', '.join([ANY, *POINTS])}")
        if not passes.isdecimal() or int(passes) < 1 or not mark:
            raise InputError(f"{VARIABLE}: '{request}' given; allowed: NAME:N:MARK, where N is a whole number from 1")
        faults.append(Fault(point, int(passes), Path(mark)))
    return faults, signal.Signals[signal_name]


def crash_point(name: str) -> None:
    """Die here, if it is asked for."""
    faults, number = requested_faults()
    if not faults:
        return
    assert name in POINTS
    _passes.update((name, ANY))
    for fault in faults:
        if fault.point in (ANY, name) and _passes[fault.point] == fault.passes:
            try:
                fault.mark.touch(exist_ok=False)
            except FileExistsError:
                continue
            os.kill(os.getpid(), number)
            return
