"""Images of [channels, height, width]: colour in splits, checkpoints, models applied to arrays, and pictures."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import save as save_arrays

from pipeline import data
from pipeline.data import Splits
from pipeline.data.splits import save
from pipeline.evaluation.application import apply_model
from pipeline.evaluation.pictures import compute_pictures
from pipeline.models import build
from pipeline.models.checkpoint import load, save_model
from pipeline.models.mosaics import mosaics
from pipeline.report import inputs
from pipeline.tracking.media import step_image
from tests.small import model_params, splits
from tests.test_report import fake

MEAN = torch.full((48,), 0.5)
COLOUR = (3, 4, 4)


def in_colour(count: int = 24) -> Splits:
    """Return images of 4 x 4 pixels in three colours."""
    pixels = np.random.default_rng(0).integers(0, 256, (3, count, 48), dtype=np.uint8)
    train, valid, test = pixels
    return replace(splits("none"), train=train, valid=valid, test=test, shape=COLOUR)


def test_splits_in_colour_come_back(tmp_path: Path) -> None:
    """Shape and pixels do; a record of two numbers is read as one channel, and the shape is part of the digest."""
    stored = save(in_colour(), tmp_path)
    assert data.load(tmp_path).shape == COLOUR
    assert save(replace(stored, shape=(3, 2, 8)), tmp_path / "other").digest != stored.digest
    grey = save(splits(), tmp_path / "grey")
    assert json.loads((tmp_path / "grey" / "data.json").read_text())["shape"] == [4, 4]
    assert data.load(tmp_path / "grey").shape == grey.shape == (1, 4, 4)


@pytest.mark.parametrize("network", ["mlp", "conv"])
def test_a_model_of_colour_images(network: str, tmp_path: Path) -> None:
    """Its checkpoint comes back, reconstructions have the shape of the images, and pictures their channels."""
    params, images = model_params(network=network, likelihood="gaussian"), in_colour()
    save_model(tmp_path, build(params, MEAN, COLOUR), params, images)
    model, x = load(tmp_path), torch.rand(5, *COLOUR)
    results = apply_model(model, x.numpy(), draws=2)
    assert results["reconstructions"].shape == (5, *COLOUR)
    assert (results["z1"] == apply_model(model, x.flatten(1).numpy(), draws=2)["z1"]).all()
    shapes = {picture.shape for picture in mosaics(model, x.flatten(1), COLOUR).values()}
    assert shapes == {(3, 10, 25), (3, 10, 40), (3, 20, 40)}


def test_pictures_for_the_report_have_three_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are [.., 3, h, w]; what is larger than shown is averaged over squares, channel by channel."""
    images = in_colour()
    model, test = build(model_params(likelihood="gaussian"), MEAN), torch.tensor(images.test)
    monkeypatch.setattr("pipeline.evaluation.pictures.MOST_PIXELS", 2)
    arrays = compute_pictures(model, images, test, torch.arange(24.0), columns=4, seed=0)
    assert arrays["redrawn"].shape == (2, 4, 4, 3, 2, 2)
    squares = images.test[0].reshape(3, 2, 2, 2, 2).mean((2, 4))
    np.testing.assert_allclose(arrays["best"][0], squares, atol=0.51)


def test_pictures_of_an_earlier_version_are_read(tmp_path: Path) -> None:
    """Arrays without channels, which an earlier version has written, are grey images of one channel."""
    study = fake(tmp_path)
    path = study.evaluate("vae") / "pictures.safetensors"
    arrays = inputs.pictures(study, "vae")
    path.write_bytes(save_arrays({name: a[..., 0, :, :] if a.dtype == np.uint8 else a for name, a in arrays.items()}))
    again = inputs.pictures(study, "vae")
    assert all(np.array_equal(again[name], array) for name, array in arrays.items())


def test_mlflow_gets_pictures_in_colour() -> None:
    """A picture of [3, h, w] is a PNG of these colours, each pixel enlarged; one of [1, h, w] stays grey."""
    picture = np.random.default_rng(0).integers(0, 256, (3, 2, 5), dtype=np.uint8)
    (content, _) = step_image("pictures/samples", 0, 0, picture / 255).values()
    decoded = np.asarray(Image.open(io.BytesIO(content)))
    assert (decoded[::56, ::56] == picture.transpose(1, 2, 0)).all()
    (content, _) = step_image("pictures/samples", 0, 0, picture[:1] / 255).values()
    assert Image.open(io.BytesIO(content)).mode == "L"
