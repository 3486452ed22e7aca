"""The only door to MLflow: one experiment a study; runs found again by their key; one batch of rows an epoch.

MLflow is a window, never a source: nothing here is read back to compute with. A run's `key` tag names the
piece of work it belongs to, so that work that was killed and goes on continues its run instead of starting a
second one. Rows carry the time they were recorded at: sending a row again changes nothing.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.data import Splits
from pipeline.errors import InputError, redacted, without_password
from pipeline.files import locked
from pipeline.params import Params, digest
from pipeline.provenance import dvc_hashes, git_state
from pipeline.study import Study
from pipeline.training import Record

__all__ = ["Run", "Tracker", "tracking_uri"]

BATCH = 1000  # rows that MLflow takes at once


def tracking_uri(study: Study) -> str:
    """Return MLFLOW_TRACKING_URI, or the database at the root."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{study.store / 'mlflow.db'}"


class Tracker:
    """A study's experiment in MLflow."""

    def __init__(self, study: Study) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("DO_NOT_TRACK", "true")
        os.environ.setdefault("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        for name in ("alembic", "mlflow"):
            logging.getLogger(name).setLevel(logging.WARNING)
        self.study = study
        uri = tracking_uri(study)
        try:
            # Processes that open a fresh database at once would both migrate it, and one would crash.
            with locked(study.cache / "locks" / "mlflow"):
                self.client = MlflowClient(uri)
                self.experiment_id = self._experiment()
        except (MlflowException, OSError) as error:
            reason = redacted(" ".join(str(error).split()))[:200]
            raise InputError(f"MLflow at {without_password(uri)} cannot be used: {reason}") from None

    def _experiment(self) -> str:
        name = f"platos-cave/{self.study.name}"
        found = self.client.get_experiment_by_name(name)
        if found is not None:
            if found.lifecycle_stage == "deleted":
                self.client.restore_experiment(found.experiment_id)
            return str(found.experiment_id)
        local = not self.client.tracking_uri.startswith("http")
        location = (self.study.store / "mlartifacts" / self.study.name).as_uri() if local else None
        note = (
            f"Study **{self.study.name}** of platos-cave on `{self.study.params.data.name}`.\n\n"
            "Runs with `stage = train` are the final models, one a seed, with their test results; a run with"
            " `stage = sweep` carries its best trial's settings and holds the trials as children. To compare"
            " variants, group by the tag `variant`. `rate/z*` are the log-ratio rates of each level: their sum is"
            " `kl`, a single one may be negative. All bounds are in nats per example."
        )
        return str(self.client.create_experiment(name, location, tags={"mlflow.note.content": note}))

    def start(
        self,
        *,
        stage: str,
        key: str,
        name: str,
        params: Params,
        splits: Splits,
        about: str,
        variant: str,
        seed: int,
        inputs: Sequence[Path] = (),
        parent: str | None = None,
        goes_on: bool = False,
    ) -> Run:
        """Start the run of a piece of work; work that goes on where it was stopped goes on in its run.

        Work that starts anew, its state being gone, leaves no half run behind: one of its key that did not
        come to an end is deleted. `inputs` are the DVC outs whose hashes become tags.
        """
        for run in self.client.search_runs([self.experiment_id], f"tags.key = '{key}'"):
            if goes_on:
                self.client.update_run(run.info.run_id, status="RUNNING")
                return Run(self, str(run.info.run_id))
            if run.info.status in ("RUNNING", "KILLED"):
                self.client.set_terminated(run.info.run_id, "KILLED")
                self.client.delete_run(run.info.run_id)
        flat = {
            path: value for path, value in params.flat().items() if path.split(".")[0] in ("data", "model", "train")
        }
        tags = {
            "key": key,
            "stage": stage,
            "study": self.study.name,
            "variant": variant,
            "depth": str(params.model.depth),
            "latent_dim": str(sum(params.model.level_widths)),
            "widths": "-".join(map(str, params.model.level_widths)),
            "seed": str(seed),
            "data_digest": splits.digest,
            "params_digest": digest(flat),
            "mlflow.note.content": about,
            "mlflow.source.name": f"cave: {stage} {variant}",
            "mlflow.source.type": "LOCAL",
            **git_state(self.study.root),
            **dvc_hashes(self.study.folder, *inputs),
        }
        if parent is not None:
            tags["mlflow.parentRunId"] = parent
        run = Run(self, str(self.client.create_run(self.experiment_id, tags=tags, run_name=name).info.run_id))
        run.log_params(flat)
        run._log_input(splits)
        return run

    def find(self, run_id: str) -> Run | None:
        """Return the run of that id, or nothing where this store has none."""
        from mlflow.exceptions import MlflowException

        try:
            found = self.client.get_run(run_id)
        except MlflowException:
            return None
        return Run(self, run_id) if found.info.lifecycle_stage == "active" else None


@dataclass(frozen=True)
class Run:
    """One run: rows, parameters, artifacts, an end."""

    tracker: Tracker
    run_id: str

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log parameters under their dotted paths, lists as JSON."""
        from mlflow.entities import Param

        rows = [Param(path, value if isinstance(value, str) else json.dumps(value)) for path, value in params.items()]
        self.tracker.client.log_batch(self.run_id, params=rows)

    def log_records(self, records: Iterable[Record]) -> None:
        """Log records, the step being the epoch; a record sent before is not doubled."""
        from mlflow.entities import Metric

        rows = [
            Metric(key, value, record.timestamp, record.epoch)
            for record in records
            for key, value in record.metrics.items()
        ]
        for start in range(0, len(rows), BATCH):
            self.tracker.client.log_batch(self.run_id, metrics=rows[start : start + BATCH])

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Log single numbers in one batch."""
        from mlflow.entities import Metric

        now = time.time_ns() // 1_000_000
        self.tracker.client.log_batch(
            self.run_id, metrics=[Metric(key, value, now, step) for key, value in metrics.items()]
        )

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags."""
        from mlflow.entities import RunTag

        self.tracker.client.log_batch(self.run_id, tags=[RunTag(key, redacted(value)[:5000]) for key, value in tags.items()])

    def log_files(self, folder: str, files: Iterable[Path]) -> None:
        """Keep files as artifacts under `folder`."""
        for file in files:
            self.tracker.client.log_artifact(self.run_id, str(file), folder or None)

    def _log_input(self, splits: Splits) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        counts = {name: len(getattr(splits, name)) for name in ("train", "valid", "test")}
        profile = {
            "images": counts,
            "shape": splits.shape,
            "protocol": splits.protocol,
            "binarization": splits.binarization,
        }
        dataset = Dataset(
            name=splits.name,
            digest=splits.digest[:36],
            source_type="local",
            source=json.dumps({"stage": "prepare"}),
            profile=json.dumps(profile),
        )
        tag = InputTag("mlflow.data.context", "training")
        self.tracker.client.log_inputs(self.run_id, datasets=[DatasetInput(dataset, [tag])])

    def finish(self, status: str = "FINISHED", reason: str = "") -> None:
        """End the run as FINISHED, FAILED or KILLED, with the reason as a tag."""
        if reason:
            self.set_tags({"reason": reason})
        self.tracker.client.set_terminated(self.run_id, status)
