"""A run as the store has it, for `cave reproduce` to compare with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import InputError, without_password
from pipeline.study import Study
from pipeline.tracking.runs import PROVENANCE
from pipeline.tracking.store import connect, telling, tracking_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = ["Past", "past"]


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
    with telling(study):
        client = connect(study)
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
