"""A run as MLflow has it, for `cave reproduce` to compare with."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.addresses import sqlite_file
from pipeline.errors import InputError
from pipeline.run_folders.provenance import CAP
from pipeline.study import Study
from pipeline.tracking.artifacts import local_folder
from pipeline.tracking.connection import connect, display_address, tracking_uri
from pipeline.tracking.failures import translate_mlflow_errors
from pipeline.tracking.tags import read_tags

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = ["LoggedRun"]

LARGEST = 2 * CAP  # bytes; a patch is cut at CAP, and a specification has a few thousand


@dataclass(frozen=True)
class LoggedRun:
    """A run as MLflow has it."""

    client: MlflowClient
    run_id: str
    status: str
    tags: dict[str, str]
    epochs: dict[int, dict[str, float]]  # the metrics of each epoch
    artifacts: Path | None = None  # their folder, where it is on this machine

    @classmethod
    def read(cls, study: Study, run_id: str) -> LoggedRun:
        """Read a run; nothing is written, not even an empty database.

        Raises:
            InputError: MLflow cannot be used, or does not have the run.
        """
        from mlflow.exceptions import MlflowException

        file = sqlite_file(tracking_uri(study), study.shared_root)
        if file is not None and not file.exists():
            raise InputError(f"run {run_id}: there are no runs yet in {file.parent}")
        with translate_mlflow_errors(study):
            client = connect(study, read_only=True)
            try:
                run = client.get_run(run_id)
            except MlflowException as error:
                if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                    raise
                run = None
            if run is None or run.info.lifecycle_stage != "active":
                gone = "not" if run is None else "deleted, and no longer"
                raise InputError(f"run {run_id}: {gone} in MLflow at {display_address(study)}")
            epochs: dict[int, dict[str, float]] = {}
            for key in sorted(run.data.metrics):
                if key.startswith(("train/", "valid/")):
                    for row in client.get_metric_history(run_id, key):
                        epochs.setdefault(row.step, {})[key] = row.value
        tags, artifacts = read_tags(run.data.tags), local_folder(str(run.info.artifact_uri))
        return cls(client, run_id, run.info.status, tags, dict(sorted(epochs.items())), artifacts)

    def download(self, folder: Path, *artifacts: str) -> Path:
        """Bring the first of some artifacts that the run has into `folder`.

        Raises:
            InputError: it has none of them, or one that is larger than any that this program writes.
        """
        from mlflow.exceptions import MlflowException

        if self.artifacts is not None:
            try:
                os.listdir(self.artifacts)
            except OSError as error:
                reason = (error.strerror or str(error)).lower()
                raise InputError(
                    f"run {self.run_id}: its artifacts are to lie in {self.artifacts}: {reason}; they were moved or"
                    " removed without MLflow's database, and `cave doctor` says more"
                ) from None
        try:
            sizes = {
                i.path: i.file_size for i in self.client.list_artifacts(self.run_id, os.path.dirname(artifacts[0]))
            }
            artifact = next(artifact for artifact in artifacts if artifact in sizes)
            self._check_size(artifact, sizes[artifact])
            path = Path(self.client.download_artifacts(self.run_id, artifact, str(folder)))
            self._check_size(artifact, path.stat().st_size)
            return path
        except (MlflowException, OSError, StopIteration):
            raise InputError(f"run {self.run_id}: has no {artifacts[0]}, so that it cannot be run again") from None

    def _check_size(self, artifact: str, size: int | None) -> None:
        """Raise `InputError` for a large file, and for a folder, which has no size."""
        if size is None or size > LARGEST:
            most = f"{LARGEST // 2**20} MiB"
            raise InputError(f"run {self.run_id}: its {artifact} is larger than {most}, which none is; it is not read")
