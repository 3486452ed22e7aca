"""Places where a process can be made to die: CAVE_FAULT=NAME:N:MARK kills it, with SIGKILL, at its N-th pass of NAME.

This is how the tests put `kill -9` between any two steps of the protocol by which a sweep, a training and the
tracking keep their promises. MARK is a file that is made at that moment: where it exists already, nothing happens, so
that what is started again, with the same environment, goes on. Without the variable a place costs a look-up.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from pathlib import Path

__all__ = ["POINTS", "VARIABLE", "reached"]

VARIABLE = "CAVE_FAULT"

POINTS: dict[str, str] = {
    "outbox-started": "a run's beginning is in its outbox, MLflow does not know of it",
    "run-created": "the run is found or made in MLflow, nothing else is sent",
    "state-before": "an epoch is trained, its state is not on the disk yet",
    "state-between": "its record is on the disk, its state is not",
    "state-after": "its state is on the disk, nobody else knows of it",
    "rows-logged": "rows, tags or files are in the outbox",
    "rows-sent": "rows are in MLflow",
    "end-logged": "the run's end is in the outbox",
    "end-sent": "MLflow has the end, the outbox is still there",
    "outbox-removed": "all is sent, Optuna or the stage does not know of it",
}
"""Every place by its name, and what has happened there, in the order of a trial's life."""

_passes: Counter[str] = Counter()


def reached(name: str) -> None:
    """Die here, if it is asked for."""
    asked = os.environ.get(VARIABLE)
    if asked is None:
        return
    wanted, passes, mark = asked.split(":", 2)
    assert {name, wanted} <= set(POINTS)
    _passes[name] += 1
    if name == wanted and _passes[name] == int(passes):
        try:
            Path(mark).touch(exist_ok=False)
        except FileExistsError:
            return
        os.kill(os.getpid(), signal.SIGKILL)
