"""A trained model as MLflow loads it: `mlflow.pyfunc.load_model(address).predict(images)`.

Its code is a few lines that call this package. Nothing is pickled: weights are read from safetensors, and what the
model is from JSON.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import torch
from packaging.version import Version

import pipeline
from pipeline.data import Splits
from pipeline.data.images import to_unit_interval
from pipeline.evaluation.application import DRAWS, apply_model
from pipeline.models import checkpoint
from pipeline.tracking import ModelCode, model_files

__all__ = ["mlflow_model_files"]

WEIGHTS = ("model.safetensors", "model.json")
EXAMPLES = 2  # images
TEXT = '''"""Apply a trained model to images; needs the package platos-cave."""

from pathlib import Path

import numpy as np
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

from pipeline.evaluation.application import apply_model
from pipeline.models import checkpoint


class TrainedModel(PythonModel):
    """A model whose weights lie beside this file."""

    def load_context(self, context):
        """Read the weights, and what the model is, from safetensors and JSON."""
        self.model = checkpoint.load(Path(context.artifacts["model.safetensors"]).parent)

    def predict(self, context, model_input: np.ndarray, params=None):
        """Return reconstructions, latents and bounds of images [n, (channels,) height, width] in [0, 1]."""
        return apply_model(self.model, model_input, **(params or {}))


set_model(TrainedModel())
'''


@contextmanager
def mlflow_model_files(folder: Path, splits: Splits, test: torch.Tensor) -> Iterator[list[Path]]:
    """Yield the files that MLflow needs beside the weights in `folder`; `test` holds the stored test images."""
    example = to_unit_interval(test[:EXAMPLES].cpu(), splits.scale).unflatten(-1, splits.array_shape).numpy()
    results = apply_model(checkpoint.load(folder), example, draws=1)
    packages = [f"{name}=={Version(version(name)).public}" for name in ("torch", "mlflow")]
    code = ModelCode(
        text=TEXT,
        requirements=[f"platos-cave=={pipeline.__version__}", *packages],
        example=example,
        results=results,
        params={"draws": DRAWS, "seed": 0},
    )
    with model_files(code, [folder / name for name in WEIGHTS]) as files:
        yield files
