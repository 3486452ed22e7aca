"""A run as the store has it, for `cave reproduce` to compare with."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.addresses import sqlite_file
from pipeline.artifacts import local_folder
from pipeline.errors import InputError
from pipeline.provenance import CAP
from pipeline.study import Study
from pipeline.tracking.store import connect, telling, told, tracking_uri
from pipeline.tracking.tracker import PROVENANCE

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = ["Past", "past"]

LARGEST = 2 * CAP  # bytes; a patch is cut at CAP, and settings are a few thousand


@dataclass(frozen=True)
class Past:
    """A run as the store has it, to be compared with."""

    client: MlflowClient
    run_id: str
    status: str
    tags: dict[str, str]
    epochs: dict[int, dict[str, float]]  # by epoch, what `log_records` has logged
    artifacts: Path | None = None  # their folder, where it is on this machine

    def file(self, name: str, folder: Path) -> Path:
        """Bring one of the run's files of provenance into `folder`; a large one, which none is, is not brought."""
        from mlflow.exceptions import MlflowException

        place = f"{PROVENANCE}/{name}"
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
            listed = next(info for info in self.client.list_artifacts(self.run_id, PROVENANCE) if info.path == place)
            self._fits(place, listed.file_size)
            path = Path(self.client.download_artifacts(self.run_id, place, str(folder)))
            self._fits(place, path.stat().st_size)
            return path
        except (MlflowException, OSError, StopIteration):
            raise InputError(f"run {self.run_id}: has no {place}, so that it cannot be run again") from None

    def _fits(self, place: str, size: int | None) -> None:
        """Raise `InputError` for a large file; of a folder, whose size nobody tells, too."""
        if size is None or size > LARGEST:
            most = f"{LARGEST // 2**20} MiB"
            raise InputError(f"run {self.run_id}: its {place} is larger than {most}, which none is; it is not read")


def past(study: Study, run_id: str) -> Past:
    """Read a run; nothing is written, not even an empty store."""
    from mlflow.exceptions import MlflowException

    file = sqlite_file(tracking_uri(study), study.shared_root)
    if file is not None and not file.exists():
        raise InputError(f"run {run_id}: there are no runs yet in {file.parent}")
    with telling(study):
        client = connect(study, read_only=True)
        try:
            found = client.get_run(run_id)
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise
            found = None
        if found is None or found.info.lifecycle_stage != "active":
            gone = "not" if found is None else "deleted, and no longer"
            raise InputError(f"run {run_id}: {gone} in MLflow at {told(study)}")
        epochs: dict[int, dict[str, float]] = {}
        for key in sorted(found.data.metrics):
            if key.startswith(("train/", "valid/")):
                for row in client.get_metric_history(run_id, key):
                    epochs.setdefault(row.step, {})[key] = row.value
    tags, artifacts = dict(found.data.tags), local_folder(str(found.info.artifact_uri))
    return Past(client, run_id, found.info.status, tags, dict(sorted(epochs.items())), artifacts)
