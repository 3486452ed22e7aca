"""Stored pixels as a model sees them: shares of white, or fresh bits of that probability."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipeline import data
from pipeline.data.images import TrainingImages, dequantized, frozen, to_unit_interval
from pipeline.distributions import DiagGaussian
from pipeline.evaluation import Estimate, bits_per_dimension
from pipeline.models import build
from pipeline.params import Params
from pipeline.training import fit
from tests.small import ROOT, model_params, splits, train_params


def test_extremes_never_flip_and_others_have_their_mean() -> None:
    """Binarized anew 40,000 times, 0 stays 0, `scale` stays 1, and each grey is 1 in its share, within 5 errors."""
    shown = TrainingImages(torch.arange(256, dtype=torch.uint8)[None], 255, binarize=True)
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
    thresholds = TrainingImages(pixels[None], scale, binarize=True).pixels[0].double()
    numbers = torch.arange(-(2**15), 2**15).clamp(max=2**15 - 2).double()
    share = torch.tensor([(numbers < threshold).double().mean().item() for threshold in thresholds])
    assert ((share - pixels / scale).abs() <= 2**-17 + 1e-12).all()
    assert (share[0], share[-1]) == (0, 1)


def test_pixels_of_an_image_are_drawn_by_themselves() -> None:
    """Grey pixels that share a random number, or a place in it, are uncorrelated, within 5 standard errors."""
    x = TrainingImages(torch.full((1, 8), 128, dtype=torch.uint8), 255, binarize=True).batch(torch.zeros(40_000).long())
    correlation = torch.corrcoef(x.t()) - torch.eye(8)
    assert correlation.abs().max() < 5 / 40_000**0.5


@pytest.mark.usefixtures("float64")
def test_without_binarization_pixels_are_their_share_of_the_scale() -> None:
    """Stored pixels become pixel / scale in the default dtype, the positions asked for in their order."""
    pixels = torch.tensor([[0, 3, 16], [16, 0, 1]], dtype=torch.uint8)
    assert to_unit_interval(pixels, 16).tolist() == [[0.0, 3 / 16, 1.0], [1.0, 0.0, 1 / 16]]
    shown = TrainingImages(pixels, 16, binarize=False)
    assert shown.batch(torch.tensor([1, 0])).tolist() == to_unit_interval(pixels[[1, 0]], 16).tolist()
    assert shown.batch(torch.tensor([1, 0])).dtype == torch.float64


def test_dequantized_pixels_are_uniform_within_their_level() -> None:
    """Shown 20,000 times, grey level i of L fills [i / L, (i + 1) / L] with the moments of a uniform number."""
    shown = TrainingImages(torch.arange(17, dtype=torch.uint8)[None], 16, binarize=False, dequantize=True)
    u = shown.batch(torch.zeros(20_000, dtype=torch.int64)) * 17 - torch.arange(17)
    assert (u > -1e-5).all()
    assert (u < 1 + 1e-5).all()
    assert ((u.mean(0) - 1 / 2).abs() < 5 * (1 / 12 / 20_000) ** 0.5).all()
    assert ((u.var(0) - 1 / 12).abs() < 5 * (1 / 180 / 20_000) ** 0.5).all()


def test_frozen_noise_is_determined_by_its_name_alone() -> None:
    """One name gives one noise whatever was drawn before, another name another; `images` leaves the result alone."""
    pixels = torch.arange(12, dtype=torch.uint8).view(3, 4)
    first = frozen(pixels, 16, "a")
    torch.rand(3)
    assert torch.equal(first, frozen(pixels, 16, "a"))
    assert not torch.equal(first, frozen(pixels, 16, "b"))
    assert torch.equal(to_unit_interval(first, 16), first)


def test_bits_of_dequantized_pixels_bound_those_of_the_levels() -> None:
    """A uniform density has log2 L bits exactly; a Gaussian's mean is above the bits of its levels by Jensen."""
    flat = bits_per_dimension(Estimate(0.0, 0.5), 64, 17)
    assert flat.value == pytest.approx(math.log2(17))
    assert flat.se == pytest.approx(0.5 / (64 * math.log(2)))
    levels, p = 17, torch.distributions.Normal(torch.tensor(0.4, dtype=torch.float64), 0.2)
    edges = torch.arange(levels + 1, dtype=torch.float64) / levels
    mass = p.cdf(edges).diff()[4:10]
    x = (torch.arange(4, 10)[:, None] + (torch.arange(1000) + 0.5) / 1000) / levels
    nll = -p.log_prob(x).mean(1)
    bits = torch.tensor([bits_per_dimension(Estimate(value, 0.0), 1, levels).value for value in nll.tolist()])
    assert (bits > -mass.log2()).all()
    assert (bits + mass.log2()).max() < 0.2


def test_density_of_dequantized_pixels_is_bounded_and_that_of_stored_ones_is_not() -> None:
    """Of black pixels a narrow Gaussian has a density without limit; with noise at most D log L nats are left."""
    black = torch.zeros(2000, 4, dtype=torch.uint8)
    noisy = dequantized(black, 255)
    for sigma in (1e-2, 1e-3, 1e-4):
        at_zero = DiagGaussian(torch.zeros(4), torch.full((4,), sigma)).log_prob(to_unit_interval(black, 255)).mean()
        assert at_zero > 4 * -math.log(sigma * 3)
        best = DiagGaussian(torch.full((4,), 0.5 / 256), torch.full((4,), sigma)).log_prob(noisy).mean()
        assert best < 4 * math.log(256)


def test_training_sees_fresh_noise_and_validation_frozen_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training on dequantized pixels differs from that on stored ones, runs again bit for bit, and starts at 1/2 L."""
    stored = splits("none", scale=16)
    noisy = replace(stored, dequantization="uniform")
    assert (noisy.mean * 17 - stored.mean * 16 - 0.5).tolist() == pytest.approx([0] * 16, abs=1e-9)

    def curve(data: object) -> list[dict[str, float]]:
        torch.manual_seed(0)
        model = build(model_params(likelihood="gaussian"), torch.as_tensor(data.mean, dtype=torch.float32))
        return [record.metrics for record in fit(model, data, train_params(epochs=2), seed=0)]

    assert curve(noisy) == curve(noisy) != curve(stored)


def test_splits_keep_their_dequantization_and_others_their_digest(tmp_path: Path) -> None:
    """`prepare` records it, another digest follows from it, and pixels are stored as grey levels."""
    grey = Params.read(ROOT / "params.yaml").data.model_copy(update={"binarization": "none"})
    plain = data.prepare(grey, tmp_path, tmp_path / "plain")
    noisy = data.prepare(grey.model_copy(update={"dequantization": "uniform"}), tmp_path, tmp_path / "noisy")
    assert data.load(tmp_path / "noisy").dequantized
    assert not data.load(tmp_path / "plain").dequantized
    assert plain.digest != noisy.digest
    assert (plain.test == noisy.test).all()
