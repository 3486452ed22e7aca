"""The only door to MLflow: what is logged goes to an outbox on the disk first, and from there, in its time, to MLflow.

MLflow is a window, never a source: nothing is read back to compute with, but for `past`, which `cave reproduce`
compares with. Which runs are those of the present results, `mark_current` derives from files. A run's `key` tag names
the piece of work it belongs to, so that work that was killed and goes on, wherever it does, continues its run
instead of starting a second one. Whatever an outbox holds may be sent twice
and is there once: rows carry the time they were recorded at, and a run the mark of the outbox that made it. So a
server that is down, slow, or lost its answer costs nothing but its view of the work until the outbox is sent.
"""

from pipeline.tracking.current import mark_current
from pipeline.tracking.past import Past, past
from pipeline.tracking.removal import experiments, has_results, remove_experiments, remove_outboxes
from pipeline.tracking.run import Run
from pipeline.tracking.store import database, ready, tracking_uri
from pipeline.tracking.tracker import CHANGES, PROVENANCE, SETTINGS, Delivered, Tracker

__all__ = [
    "CHANGES",
    "PROVENANCE",
    "SETTINGS",
    "Delivered",
    "Past",
    "Run",
    "Tracker",
    "database",
    "experiments",
    "has_results",
    "mark_current",
    "past",
    "ready",
    "remove_experiments",
    "remove_outboxes",
    "tracking_uri",
]
