"""The tables of an evaluated model in MLflow: `terms`, all numbers; `images`, which compares runs image by image."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.data import DATASETS, Splits
from pipeline.data.images import to_unit_interval
from pipeline.evaluation.application import apply_model
from pipeline.files import read_parquet
from pipeline.metric import Metric
from pipeline.models import checkpoint
from pipeline.tracking.media import table

__all__ = ["IMAGE_TABLE", "TERM_TABLE", "model_tables"]

TERM_TABLE, IMAGE_TABLE = "terms", "test_images"
SHOWN = 16  # images
FAMILIES = ("elbo", "nll", "reconstruction", "kl", "rate")


def model_tables(
    folder: Path, values: Path, splits: Splits, test: torch.Tensor, final: Mapping[str, Mapping[str, Any]]
) -> dict[str, bytes]:
    """Return the files of both tables by artifact.

    Args:
        folder: of the model.
        values: the Parquet file of what was measured of every test image.
        splits: the data set.
        test: the stored pixels [images, units] of its test set.
        final: the results, each with its `value` and `se`, by metric.
    """
    terms: dict[str, Any] = {
        "term": list(final),
        "value": [_rounded(estimate["value"]) for estimate in final.values()],
        "standard error": [_rounded(estimate["se"]) for estimate in final.values()],
        "unit": [Metric.parse(name).unit for name in final],
    }
    x = to_unit_interval(test[:SHOWN].cpu(), splits.scale).unflatten(-1, splits.shape).numpy()
    means = apply_model(checkpoint.load(folder), x, draws=1)["reconstructions"]
    columns = read_parquet(values)
    images: dict[str, Any] = {
        "image": list(range(len(x))),
        "test image": _shown(x, splits),
        "reconstruction": _shown(means, splits),
    }
    images |= {
        f"{name} (nats)": [round(float(value), 3) for value in column[:SHOWN]]
        for name, column in columns.items()
        if Metric.parse(name).family in FAMILIES and np.isfinite(column).all()
    }
    return table(IMAGE_TABLE, images) | table(TERM_TABLE, terms)


def _rounded(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else float(f"{value:.6g}")


def _shown(images: np.ndarray, splits: Splits) -> list[np.ndarray]:
    return list(1 - images if DATASETS[splits.name].dark_on_light else images)
