"""Trained models from the disk or from MLflow."""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path

from pipeline import tracking
from pipeline.api.model import Model
from pipeline.api.place import study_here
from pipeline.data import image_shape
from pipeline.errors import InputError
from pipeline.files import read_csv, read_json
from pipeline.log import Record
from pipeline.models import checkpoint
from pipeline.params import ModelParams

__all__ = ["load"]

RUN_ID = re.compile(r"[0-9a-f]{32}")


def load(source: str | Path) -> Model:
    """Return a trained model, on the CPU: of a folder, an address in MLflow's registry, or the id of a run in MLflow.

        cave.load("experiments/default/train/mhvae/seed-0")
        cave.load("models:/default.mhvae@champion")

    The files are read from safetensors and JSON; loading runs no code of theirs. MLflow is the one of the project
    around the working directory, or the one that MLFLOW_TRACKING_URI names.

    Raises:
        InputError: there is no such model, or it is damaged.
    """
    text = str(source)
    if re.match(r"(models|runs):/", text) or (RUN_ID.fullmatch(text) and not Path(text).exists()):
        with tempfile.TemporaryDirectory() as folder:
            return _read(tracking.download_model(study_here(), text, Path(folder)), text if "/" not in text else None)
    if not Path(source).is_dir():
        raise InputError(
            f"{text}: no such folder; allowed: the folder of a trained model, models:/NAME@ALIAS, or the id of a run"
        )
    return _read(Path(source))


def _read(folder: Path, run_id: str | None = None) -> Model:
    """Return the model in a folder, with the records of its training where they lie beside it."""
    module = checkpoint.load(folder)
    described = read_json(folder / "model.json")
    shape = image_shape(described["data"]["shape"])
    params = ModelParams.model_validate_json(json.dumps(described["model"]))
    curve = folder / "curves.csv"
    records = [_record(row) for row in read_csv(curve)] if curve.is_file() else []
    levels = described["data"].get("dequantized_levels")
    return Model(module, params, shape, records, run_id=run_id, dequantized_levels=levels)


def _record(row: dict[str, str]) -> Record:
    own = {"epoch": int(row["epoch"]), "step": int(row["step"]), "timestamp": int(row["timestamp"])}
    metrics = {name: float(value) for name, value in row.items() if "/" in name}
    return Record(**own, seconds=float(row["seconds"]), metrics=metrics)
