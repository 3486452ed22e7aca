"""Trained models from MLflow: of a run, or of an address in its registry."""

from __future__ import annotations

from pathlib import Path

from pipeline.addresses import sqlite_file
from pipeline.errors import InputError
from pipeline.study import Study
from pipeline.tracking.connection import open_database, tracking_uri
from pipeline.tracking.failures import reason_of
from pipeline.tracking.registry import FOLDER

__all__ = ["download_model"]


def download_model(study: Study, source: str, folder: Path) -> Path:
    """Copy a model's files from MLflow into `folder` and return where they lie.

    `source` is an address as `models:/default.vae@champion`, or the id of a run that has a model.

    Raises:
        InputError: MLflow cannot be reached, or has no such model.
    """
    file = sqlite_file(tracking_uri(study), study.shared_root)
    if file is not None and not file.exists():
        raise InputError(f"{source}: no MLflow database at {file}; work in the project, or set MLFLOW_TRACKING_URI")
    uri = open_database(study, read_only=True)
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    address = source if ":/" in source else f"runs:/{source}/{FOLDER}"
    try:
        return Path(download_artifacts(address, dst_path=str(folder), tracking_uri=uri))
    except (MlflowException, OSError) as error:
        raise InputError(f"{source}: MLflow has no such model: {reason_of(error)}") from None
