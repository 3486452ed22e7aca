"""An MLflow model from a file of code, without pickles: the files that make a run's folder of weights one.

Everything in the folder can be read as text: `MLmodel`, the code, the requirements and an example of the input. The
weights lie beside them already; the code gets their paths as `context.artifacts`.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.tracking.connection import import_mlflow

__all__ = ["ModelCode", "model_files"]

CODE = "model.py"  # beside `MLmodel`


@dataclass(frozen=True)
class ModelCode:
    """What MLflow needs to know of a model."""

    text: str  # a module that calls `mlflow.models.set_model`
    requirements: Sequence[str]  # as pip reads them
    example: np.ndarray  # an input, of two or more
    results: Mapping[str, np.ndarray]  # of the example
    params: Mapping[str, int]  # of a prediction, with their defaults


@contextmanager
def model_files(code: ModelCode, weights: Sequence[Path]) -> Iterator[list[Path]]:
    """Yield the files that make a folder with `weights` an MLflow model, until the block ends."""
    import_mlflow()
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as temporary:
        warnings.simplefilter("ignore")  # of MLflow's own classes, when they are imported
        source, folder = Path(temporary) / CODE, Path(temporary) / "model"
        source.write_text(code.text, encoding="utf-8")
        _save(code, source, weights, folder)
        yield sorted(path for path in folder.iterdir() if path.is_file())


def _save(code: ModelCode, source: Path, weights: Sequence[Path], folder: Path) -> None:
    """Save a model into a new folder, and let its `MLmodel` name code and weights by their places beside it."""
    from mlflow.models import Model, ModelSignature
    from mlflow.pyfunc import save_model
    from mlflow.types import DataType, ParamSchema, ParamSpec, Schema, TensorSpec

    def spec(values: np.ndarray, name: str | None = None) -> TensorSpec:
        return TensorSpec(values.dtype, (-1, *values.shape[1:]), name)

    signature = ModelSignature(
        Schema([spec(code.example)]),
        Schema([spec(values, name) for name, values in code.results.items()]),
        ParamSchema([ParamSpec(name, DataType.long, default) for name, default in code.params.items()]),
    )
    model = Model()
    save_model(
        folder,
        python_model=str(source),
        artifacts={path.name: str(path) for path in weights},
        signature=signature,
        input_example=code.example,
        pip_requirements=list(code.requirements),
        mlflow_model=model,
    )
    function = model.flavors["python_function"]
    function["model_code_path"] = CODE
    function["artifacts"] = {path.name: {"path": path.name, "uri": path.name} for path in weights}
    model.save(str(folder / "MLmodel"))
