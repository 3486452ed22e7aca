"""What the pipeline adds to a trial: a sweep against a bare Optuna loop over the same trainings.

The sweep has one worker, in this process, MLflow and Optuna on SQLite, and every epoch's state on disk; the bare loop
has Optuna's memory, no MLflow and no files. Both train the same model for ten epochs of some twenty metrics.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path

import optuna
import torch

from experiments.speed.ratio import Row, alternate, row
from pipeline.params import Params, dump_yaml
from pipeline.stages import fetch, prepare
from pipeline.study import Study
from pipeline.sweep import PRUNERS, SAMPLERS, Sweep
from pipeline.sweep.claims import finished
from pipeline.sweep.coordinator import _parent
from pipeline.sweep.worker import work
from pipeline.training import fit, initial_model

__all__ = ["Bare", "Piped", "measure"]

ROOT = Path(__file__).resolve().parents[2]
VARIANT = "mhvae"
SETTINGS = {
    "data.name": "cave",
    "data.cave.images": 1000,
    "model.depth": 6,  # 3 + 6 terms of training, as many of validation, and the objective
    "model.z_dim": 8,
    "model.z_ratio": 1.0,
    "model.hidden": [[32]],
    "sweep.epochs": 10,
    "sweep.pruner": "none",
    "sweep.trials": 1,
    "sweep.space": {"train.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}},
}


@dataclass
class Piped:
    """The sweep."""

    sweep: Sweep
    trials: int
    done: int = 0

    @classmethod
    def at(cls, folder: Path, trials: int) -> Piped:
        """Make a study in a folder, its data prepared and its sweep's run begun."""
        (folder / "params.yaml").write_text(dump_yaml(Params.read(ROOT / "params.yaml", SETTINGS)))
        study = Study.at(folder)
        with redirect_stdout(StringIO()):
            fetch.run(study)
            prepare.run(study)
        sweep = Sweep(study, VARIANT)
        sweep.tracker.require()
        _parent(sweep).finish(None)
        return cls(sweep, trials)

    def __call__(self) -> float:
        """Bring it to so many more finished trials; return milliseconds a trial."""
        self.done += self.trials
        params = self.sweep.study.params.override({"sweep.trials": self.done})
        more = replace(self.sweep, study=replace(self.sweep.study, params=params))
        more.trials(), more.tracker, more.splits  # a worker's start is no cost of a trial
        with redirect_stdout(StringIO()):
            start = time.perf_counter()
            work(more)
            spent = time.perf_counter() - start
        if not finished(more) or more.tracker.backlog.publish_all().remaining:
            raise SystemExit("overhead: the sweep did not finish its trials, or MLflow does not know all of them")
        return 1000 * spent / self.trials


class Bare:
    """The bare loop."""

    def __init__(self, sweep: Sweep, trials: int) -> None:
        self.sweep, self.trials = sweep, trials
        settings = sweep.study.params.sweep
        self.study = optuna.create_study(
            direction="maximize",
            sampler=SAMPLERS[settings.sampler](settings.seed, settings.startup_trials),
            pruner=PRUNERS[settings.pruner](settings.startup_trials),
        )

    def __call__(self) -> float:
        """Run so many trials; return milliseconds a trial."""
        start = time.perf_counter()
        self.study.optimize(self._trial, n_trials=self.trials)
        return 1000 * (time.perf_counter() - start) / self.trials

    def _trial(self, trial: optuna.Trial) -> float:
        chosen = {"train.learning_rate": trial.suggest_float("train.learning_rate", 1e-4, 1e-2, log=True)}
        params = self.sweep.study.params.variant(VARIANT)
        params = params.override({"train.epochs": params.sweep.epochs} | chosen)
        model = initial_model(params.model, self.sweep.splits, 0)
        best = -float("inf")
        for record in fit(model, self.sweep.splits, params.train, seed=0, device=torch.device("cpu")):
            best = max(best, record.metrics["valid/elbo"])
            trial.report(best, record.epoch)
            if trial.should_prune():
                raise optuna.TrialPruned
        return best


def measure(trials: int, repetitions: int) -> Iterator[Row]:
    """Yield the ratio of a trial's time in the sweep to its time in the bare loop."""
    os.environ |= {"CAVE_DEVICE": "cpu", "CAVE_THREADS": "1"}
    for name in ("MLFLOW_TRACKING_URI", "CAVE_OPTUNA_URL"):
        os.environ.pop(name, None)
    with tempfile.TemporaryDirectory() as scratch:
        piped = Piped.at(Path(scratch), trials)
        taken = alternate({"sweep": piped, "bare": Bare(piped.sweep, trials)}, repetitions)
    found = row("pipeline", "a trial in a sweep / in a bare loop", taken, ("sweep", "bare"), "ms a trial", "less")
    found.figures["added"] = found.figures["sweep"] - found.figures["bare"]
    yield found
