"""A training from Python in MLflow: a run in an experiment of its own, published as those of the stages are."""

from __future__ import annotations

import tempfile
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from pipeline.api.place import EXPERIMENT, study_here
from pipeline.data import Splits
from pipeline.environment import Resources
from pipeline.files import write_csv
from pipeline.models.checkpoint import save_model
from pipeline.params import Params, digest
from pipeline.redaction import reason
from pipeline.run_folders import RunSpec
from pipeline.run_folders.source import code_digest
from pipeline.tracking import Tracker

if TYPE_CHECKING:
    from pipeline.api.model import Model

__all__ = ["LoggedTraining"]

FILES = ("model.safetensors", "model.json", "curves.csv")


class LoggedTraining:
    """The run of a training: it is ended with the block, as killed unless `finish` was called."""

    def __init__(self, params: Params, splits: Splits, seed: int, name: str) -> None:
        study = study_here(name, params)
        spec = RunSpec(stage="train", variant=EXPERIMENT, seed=seed, params=study.params, rng_seed=seed)
        state = digest([spec.flat, splits.digest, code_digest("pipeline.training")])
        widths = " - ".join(map(str, params.model.level_units(splits.shape)))
        self.tracker = Tracker(study, Resources.read()).require()
        self.run = self.tracker.start(
            spec,
            key=f"{study.unique_name}/{EXPERIMENT}/{seed}/{state}",
            name=f"{splits.name} seed {seed}",
            splits=splits,
            about=f"A model with levels {widths} on `{splits.name}`, seed {seed}, trained by `cave.fit`.",
            reproducible=False,
        )

    @property
    def folder(self) -> Path:
        """Where the state of the training is written: the same call goes on from there after a kill."""
        return self.run.folder.path

    def publish(self) -> None:
        """Send what MLflow lacks, if it is time to."""
        self.run.publish()

    def finish(self, model: Model) -> str | None:
        """Log the model and end the run; return its id, None where MLflow is away."""
        with tempfile.TemporaryDirectory() as folder:
            assert model.splits is not None
            weights = save_model(Path(folder), model.module, model.params, model.splits)
            write_csv(Path(folder) / "curves.csv", [record.row for record in model.records])
            numbers = {"training/seconds": model.records[-1].seconds}
            self.run.log_result("weights_digest", weights, {0: numbers}, {"model": [Path(folder) / f for f in FILES]})
        self.run.finish()
        self.tracker.backlog.discard_states(self.folder)
        return self.run.run_id

    def __enter__(self) -> LoggedTraining:
        """Return it."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End a run that was not finished: one that was broken off goes on when the same training is begun again."""
        failed = isinstance(error, Exception)
        self.run.finish("FAILED" if failed else "KILLED", reason(error, 500) if failed and error else "")
