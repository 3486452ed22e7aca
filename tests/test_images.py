"""Stored pixels as a model sees them: shares of white, or fresh bits of that probability."""

from __future__ import annotations

import pytest
import torch

from pipeline.images import Presented, images


def test_extremes_never_flip_and_others_have_their_mean() -> None:
    """Binarized anew 40,000 times, 0 stays 0, `scale` stays 1, and each grey is 1 in its share, within 5 errors."""
    shown = Presented(torch.arange(256, dtype=torch.uint8)[None], 255, binarize=True)
    x = shown.batch(torch.zeros(40_000, dtype=torch.int64))
    assert set(x.unique().tolist()) == {0.0, 1.0}
    assert not x[:, 0].any()
    assert x[:, 255].all()
    p = torch.arange(1, 255) / 255
    assert ((x[:, 1:255].mean(0) - p).abs() < 5 * (p * (1 - p) / len(x)).sqrt()).all()


@pytest.mark.parametrize("scale", [1, 16, 255])
def test_every_grey_is_white_below_its_own_threshold(scale: int) -> None:
    """Of all 2^16 random numbers, the share below a pixel's threshold is pixel / scale to 2^-17, the ends exactly."""
    pixels = torch.arange(scale + 1, dtype=torch.uint8)
    thresholds = Presented(pixels[None], scale, binarize=True).pixels[0].double()
    numbers = torch.arange(-(2**15), 2**15).clamp(max=2**15 - 2).double()
    share = torch.tensor([(numbers < threshold).double().mean().item() for threshold in thresholds])
    assert ((share - pixels / scale).abs() <= 2**-17 + 1e-12).all()
    assert (share[0], share[-1]) == (0, 1)


def test_pixels_of_an_image_are_drawn_by_themselves() -> None:
    """Grey pixels that share a random number, or a place in it, are uncorrelated, within 5 standard errors."""
    x = Presented(torch.full((1, 8), 128, dtype=torch.uint8), 255, binarize=True).batch(torch.zeros(40_000).long())
    correlation = torch.corrcoef(x.t()) - torch.eye(8)
    assert correlation.abs().max() < 5 / 40_000**0.5


@pytest.mark.usefixtures("float64")
def test_without_binarization_pixels_are_their_share_of_the_scale() -> None:
    """Stored pixels become pixel / scale in the default dtype, the positions asked for in their order."""
    pixels = torch.tensor([[0, 3, 16], [16, 0, 1]], dtype=torch.uint8)
    assert images(pixels, 16).tolist() == [[0.0, 3 / 16, 1.0], [1.0, 0.0, 1 / 16]]
    shown = Presented(pixels, 16, binarize=False)
    assert shown.batch(torch.tensor([1, 0])).tolist() == images(pixels[[1, 0]], 16).tolist()
    assert shown.batch(torch.tensor([1, 0])).dtype == torch.float64
