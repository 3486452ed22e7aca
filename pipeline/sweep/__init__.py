"""The only door to Optuna: a search over a variant's space whose finished trials are never lost or run twice.

A trial's life. Under the admission lock a worker counts the budget and either takes over a trial whose
worker has died or asks for a new one, and writes its own token into it; a trial without a token, seen under
the lock, has no worker. Then, epoch by epoch, the training's state goes to disk, and from there, those of
fast epochs together, its rows to MLflow and its bounds to Optuna. A trial that is taken over goes on from
that state, in the same MLflow run, under the same number. A worker is alive as long as the kernel, or the
database, holds its lock (`locks`).
"""

from pipeline.sweep.coordinator import RECONNECT_TIMEOUT, join, run
from pipeline.sweep.removal import Searches
from pipeline.sweep.samplers import PRUNERS, SAMPLERS
from pipeline.sweep.search import Sweep
from pipeline.sweep.worker import work

__all__ = ["PRUNERS", "RECONNECT_TIMEOUT", "SAMPLERS", "Searches", "Sweep", "join", "run", "work"]
