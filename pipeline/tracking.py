"""The only door to MLflow: one experiment a study; runs found again by their key; one batch of rows an epoch.

MLflow is a window, never a source: nothing here is read back to compute with, but for `past`, which `cave reproduce`
compares with. A run's `key` tag names the
piece of work it belongs to, so that work that was killed and goes on continues its run instead of starting a
second one. Rows carry the time they were recorded at: sending a row again changes nothing.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from pipeline import launch, provenance
from pipeline.data import Splits
from pipeline.errors import InputError, redacted, without_password
from pipeline.files import locked, write_bytes, write_json
from pipeline.params import digest
from pipeline.study import Study
from pipeline.training import Record
from pipeline.work import Work

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = ["CHANGES", "SETTINGS", "Past", "Run", "Tracker", "past", "tracking_uri"]

BATCH = 1000  # rows that MLflow takes at once
PROVENANCE, SETTINGS, CHANGES = "provenance", "settings.json", "changes.patch"  # the folder of artifacts, files in it


def tracking_uri(study: Study) -> str:
    """Return MLFLOW_TRACKING_URI, or the database at the root."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{study.store / 'mlflow.db'}"


class Tracker:
    """A study's experiment in MLflow."""

    def __init__(self, study: Study) -> None:
        self.study = study
        # Processes that open a fresh database at once would both migrate it, and one would crash.
        with _telling(study), locked(study.cache / "locks" / "mlflow"):
            self.client = _client(study)
            self.experiment_id = self._experiment()

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
        work: Work,
        *,
        key: str,
        name: str,
        splits: Splits,
        about: str,
        inputs: Sequence[Path] = (),
        parent: str | None = None,
        goes_on: bool = False,
    ) -> Run:
        """Start the run of a piece of work; work that goes on where it was stopped goes on in its run.

        Work that starts anew, its state being gone, leaves no half run behind: one of its key that did not
        come to an end is deleted. `inputs` are the DVC outs whose hashes become tags.
        """
        code = provenance.code(self.study.root)
        origin = code.tags | provenance.machine(launch.device()) | {"data_digest": splits.digest}
        for found in self.client.search_runs([self.experiment_id], f"tags.key = '{key}'"):
            if goes_on:
                self.client.update_run(found.info.run_id, status="RUNNING")
                run_id = str(found.info.run_id)
                there = self.client.get_metric_history(run_id, "valid/elbo")
                run = Run(self, run_id, frozenset(row.step for row in there))
                # What began elsewhere, or with other versions, cannot be had again by one of them.
                then = found.data.tags
                run.set_tags({f"continued/{tag}": now for tag, now in origin.items() if then.get(tag, now) != now})
                if not self.client.list_artifacts(run.run_id, PROVENANCE):  # killed before they were kept
                    run._log_provenance(work, splits, code.patch)
                return run
            if found.info.status in ("RUNNING", "KILLED"):
                self.client.set_terminated(found.info.run_id, "KILLED")
                self.client.delete_run(found.info.run_id)
        widths = work.params.model.level_widths
        tags = {
            "key": key,
            "stage": work.stage,
            "study": self.study.name,
            "variant": work.variant,
            "depth": str(work.params.model.depth),
            "latent_dim": str(sum(widths)),
            "widths": "-".join(map(str, widths)),
            "seed": str(work.seed),
            "params_digest": digest(work.flat),
            "mlflow.note.content": about,
            "mlflow.source.name": f"cave: {work.stage} {work.variant}",
            "mlflow.source.type": "LOCAL",
            **origin,
            **provenance.dvc_hashes(self.study.folder, *inputs),
        }
        if parent is not None:
            tags["mlflow.parentRunId"] = parent
        run = Run(self, str(self.client.create_run(self.experiment_id, tags=tags, run_name=name).info.run_id))
        if work.stream is not None:
            run.set_tags({"mlflow.note.content": f"{about}\n\nRun again and compare: `cave reproduce {run.run_id}`."})
        run.log_params(work.flat)
        run._log_input(splits)
        run._log_provenance(work, splits, code.patch)
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
    logged: frozenset[int] = frozenset()  # epochs that were there when it was taken up

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
            if record.epoch not in self.logged
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

        rows = [RunTag(key, redacted(value)[:5000]) for key, value in tags.items()]
        self.tracker.client.log_batch(self.run_id, tags=rows)

    def tag(self, name: str) -> str | None:
        """Return a tag, to tell work that was logged from work that was not."""
        value = self.tracker.client.get_run(self.run_id).data.tags.get(name)
        return None if value is None else str(value)

    def log_files(self, folder: str, files: Iterable[Path]) -> None:
        """Keep files as artifacts under `folder`."""
        for file in files:
            self.tracker.client.log_artifact(self.run_id, str(file), folder or None)

    def _log_provenance(self, work: Work, splits: Splits, patch: bytes) -> None:
        """Keep what leads to the same numbers again: a trial's settings and patch, of others the study's files too."""
        study = self.tracker.study
        with TemporaryDirectory() as scratch:
            settings, changes = Path(scratch) / SETTINGS, Path(scratch) / CHANGES
            out = {"study": study.name, "out": os.path.relpath(study.out, study.root)}
            write_json(settings, work.settings(splits) | out)
            write_bytes(changes, patch)
            files = [settings, *([changes] if patch else [])]
            if work.stage != "trial":
                files += [study.folder / name for name in ("params.yaml", "dvc.yaml", "dvc.lock")]
            self.log_files(PROVENANCE, [file for file in files if file.is_file()])

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


def _client(study: Study) -> MlflowClient:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "true")
    os.environ.setdefault("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    from mlflow import MlflowClient

    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return MlflowClient(tracking_uri(study))


@contextmanager
def _telling(study: Study) -> Iterator[None]:
    """Turn what MLflow raises into one line."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, OSError) as error:
        reason = redacted(" ".join(str(error).split()))[:200]
        address = without_password(tracking_uri(study))
        raise InputError(f"MLflow at {address} cannot be used: {reason}") from None


@dataclass(frozen=True)
class Past:
    """A run as the store has it, to be compared with."""

    client: MlflowClient
    run_id: str
    status: str
    tags: dict[str, str]
    epochs: dict[int, dict[str, float]]  # by epoch, what `log_records` has logged

    def file(self, name: str, folder: Path) -> Path:
        """Bring one of the run's files of provenance into `folder`."""
        from mlflow.exceptions import MlflowException

        try:
            return Path(self.client.download_artifacts(self.run_id, f"{PROVENANCE}/{name}", str(folder)))
        except (MlflowException, OSError):
            raise InputError(f"run {self.run_id}: has no {PROVENANCE}/{name}, so that it cannot be run again") from None


def past(study: Study, run_id: str) -> Past:
    """Read a run; nothing is written, not even an empty store."""
    from mlflow.exceptions import MlflowException

    uri = tracking_uri(study)
    if uri == f"sqlite:///{study.store / 'mlflow.db'}" and not (study.store / "mlflow.db").exists():
        raise InputError(f"run {run_id}: there are no runs yet in {study.store}")
    with _telling(study):
        client = _client(study)
        try:
            found = client.get_run(run_id)
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise
            found = None
        if found is None or found.info.lifecycle_stage != "active":
            gone = "not" if found is None else "deleted, and no longer"
            raise InputError(f"run {run_id}: {gone} in MLflow at {without_password(uri)}")
        epochs: dict[int, dict[str, float]] = {}
        for key in sorted(found.data.metrics):
            if key.startswith(("train/", "valid/")):
                for row in client.get_metric_history(run_id, key):
                    epochs.setdefault(row.step, {})[key] = row.value
    return Past(client, run_id, found.info.status, dict(found.data.tags), dict(sorted(epochs.items())))
