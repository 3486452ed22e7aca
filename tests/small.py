"""Small settings and data for tests that take a moment."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.data import Splits
from pipeline.params import CaveParams, DataParams, ModelParams, TrainParams

ROOT = Path(__file__).resolve().parents[1]

MODEL: dict[str, Any] = {
    "depth": 2,
    "z_dim": 4,
    "z_ratio": 0.5,
    "widths": None,
    "parents": "nearest",
    "inference": "bottom_up",
    "parametrization": "plain",
    "denoising": "mixture",
    "log_snr": (4.0, -10.0),
    "log_snr_ends": "fixed",
    "log_snr_grid": "log_linear",
    "prior": "normal",
    "pseudo_inputs": 3,
    "posterior": "gaussian",
    "flow_transforms": 2,
    "flow_hidden": (8,),
    "prior_levels": 3,
    "prior_log_snr": (3.0, -3.0),
    "likelihood": "bernoulli",
    "sigma": "learned",
    "grey_levels": 256,
    "components": 1,
    "blocks": 1,
    "latents": "vectors",
    "levels_per_size": 1,
    "network": "mlp",
    "batch_norm": False,
    "hidden": ((8,),),
    "activation": "tanh",
}
DATA: dict[str, Any] = {
    "name": "digits",
    "path": None,
    "layout": "auto",
    "channels": "auto",
    "size": None,
    "fit": "refuse",
    "labels": True,
    "fractions": (0.7, 0.15, 0.15),
    "limit": None,
    "skip": False,
    "protocol": "auto",
    "binarization": "dynamic",
    "dequantization": "none",
    "seed": 0,
    "cave": CaveParams(images=300, size=28, grey=False),
}
TRAIN: dict[str, Any] = {
    "objective": "elbo",
    "draws": 1,
    "beta": 1.0,
    "warmup": 0,
    "warmup_stagger": 0,
    "free_bits": 0.0,
    "epochs": 5,
    "batch_size": 16,
    "learning_rate": 0.01,
    "schedule": "constant",
    "schedule_epochs": None,
    "adam_beta1": 0.9,
    "adam_beta2": 0.999,
    "adam_eps": 1e-8,
    "adam_initial_second_moment": 0.0,
    "reduction": "mean",
    "clip": 10.0,
    "precision": "float32",
    "compile": False,
    "shuffle": True,
    "ema": None,
    "patience": None,
    "keep": "best",
    "milestones": (),
    "valid_draws": 2,
    "seeds": (0,),
}


def covering(names: str, *axes: Sequence[Any], ids: Any = None) -> pytest.MarkDecorator:
    """Parametrize a test over the product of `axes`, of which all but a few members are `nightly`.

    The members that stay hold every value of every axis; where the axes allow it they also hold every pair of values of
    the shorter ones.
    """
    count, stride, columns = max(map(len, axes)), 1, []
    for axis in axes:
        stride = stride if stride * len(axis) <= count else 1
        columns.append([row // stride % len(axis) for row in range(count)])
        stride *= len(axis)
    always = set(zip(*columns, strict=True))
    members = itertools.product(*(range(len(axis)) for axis in axes))
    return pytest.mark.parametrize(
        names,
        [
            pytest.param(
                *(axis[index] for axis, index in zip(axes, member, strict=True)),
                marks=() if member in always else pytest.mark.nightly,
            )
            for member in members
        ],
        ids=ids,
    )


def model_params(**changes: Any) -> ModelParams:
    """Return the parameters of a two-level model with a few units."""
    return ModelParams(**MODEL | changes)


def data_params(**changes: Any) -> DataParams:
    """Return the parameters of the data set digits, or of another with the defaults of the project."""
    return DataParams(**DATA | changes)


def train_params(**changes: Any) -> TrainParams:
    """Return the parameters of a training of five short epochs."""
    return TrainParams(**TRAIN | changes)


def splits(binarization: str = "dynamic", scale: int = 255, rows: int = 56) -> Splits:
    """Return images of 4 x 4 pixels, bright on the left or on the right, with `rows` of them to train on."""
    random = np.random.default_rng(0)

    def draw(count: int) -> np.ndarray:
        leftwards = random.random(count) < 0.5
        bright = np.where(leftwards[:, None], np.arange(4) < 2, np.arange(4) >= 2).repeat(4, axis=0).reshape(count, 16)
        pixels = scale * np.where(bright, 0.85, 0.15) * random.uniform(0.6, 1.0, (count, 16))
        return np.rint(pixels).astype(np.uint8)

    return Splits(
        name="digits",
        protocol="stratified",
        binarization=binarization,
        train=draw(rows),
        valid=draw(24),
        test=draw(24),
        labels={},
        factors={},
        factor_names=(),
        shape=(1, 4, 4),
        scale=scale,
        binary=binarization != "none",
        digest="0" * 12,
    )
