"""Grey likelihoods: they sum to one, agree with torch where torch is exact, and are asked of grey pixels alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import ContinuousBernoulli as Published

from pipeline.distributions import LIKELIHOODS, likelihood
from pipeline.distributions.grey import ContinuousBernoulli, DiscretizedLogistic
from pipeline.distributions.logistic_mixture import LogisticMixture
from pipeline.errors import InputError
from pipeline.models import build
from pipeline.objectives import elbo
from pipeline.params import Params
from pipeline.training import fit
from tests.small import ROOT, model_params, splits, train_params

GREY = {
    "gaussian": model_params(likelihood="gaussian", sigma=0.2),
    "continuous_bernoulli": model_params(likelihood="continuous_bernoulli"),
    "discretized_logistic": model_params(likelihood="discretized_logistic"),
}
float64 = pytest.mark.usefixtures("float64")
grey = pytest.mark.parametrize("name", list(GREY))


# --- Continuous Bernoulli


@float64
def test_the_continuous_bernoulli_is_that_of_torch() -> None:
    """Density, mean and deviation are torch's for logits from -12 to 12, where torch has no trouble."""
    eta = torch.cat([torch.linspace(-12, 12, 481), torch.tensor([1e-6, -1e-6, 0.299, 0.301])])
    x = torch.linspace(0, 1, 11)[:, None]
    ours, published = ContinuousBernoulli(eta), Published(logits=eta)
    torch.testing.assert_close(ours.log_prob(x), published.log_prob(x), rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(ours.mean, published.mean, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(ours.variance, published.variance, rtol=1e-4, atol=1e-6)


@float64
@pytest.mark.parametrize("eta", [0.0, 1e-9, 0.2999, -0.3001, 3.0, -40.0, 900.0, -900.0])
def test_the_continuous_bernoulli_integrates_to_one(eta: float) -> None:
    """By Gauss-Legendre in cells that grow away from the ends, density, mean and variance integrate as they say."""
    import numpy as np

    nodes, weights = np.polynomial.legendre.leggauss(40)
    ends = np.concatenate([[0], np.geomspace(1e-5, 0.5, 30)])
    ends = np.concatenate([ends, 1 - ends[-2::-1]])
    low, high = ends[:-1, None], ends[1:, None]
    x = torch.tensor((low + (high - low) * (nodes + 1) / 2).ravel())
    w = torch.tensor(((high - low) / 2 * weights).ravel())
    p = ContinuousBernoulli(torch.tensor(eta))
    mass = w * p.log_prob(x).exp()
    torch.testing.assert_close(mass.sum(), torch.tensor(1.0), rtol=0, atol=1e-9)
    torch.testing.assert_close((mass * x).sum(), p.mean, rtol=0, atol=1e-8)
    torch.testing.assert_close((mass * (x - p.mean) ** 2).sum(), p.variance, rtol=0, atol=1e-7)


def test_the_density_by_probability_loses_its_mass_in_single_precision() -> None:
    """At a logit of 60 torch's density integrates to less than 0.3; the one by logit still integrates to 1."""
    x = torch.linspace(0, 1, 20_001)
    eta = torch.tensor(60.0)
    wrong = torch.trapezoid(Published(logits=eta, validate_args=False).log_prob(x).exp(), x)
    ours = torch.trapezoid(ContinuousBernoulli(eta).log_prob(x).exp(), x)
    assert wrong < 0.3
    assert abs(ours - 1) < 1e-3


@float64
@pytest.mark.parametrize("eta", [0.0, 1e-5, 0.1, -0.29, 5.0, -5.0, 80.0])
def test_draws_of_the_continuous_bernoulli_are_its_own(eta: float) -> None:
    """The first two moments of 100,000 draws lie within 5 standard errors, all of them in [0, 1]."""
    p = ContinuousBernoulli(torch.tensor(eta))
    x = p.sample((100_000,))
    assert ((x >= 0) & (x <= 1)).all()
    for moment, expected in ((x, p.mean), (x**2, p.variance + p.mean**2)):
        assert (moment.mean() - expected).abs() < 5 * moment.std() / 100_000**0.5


# --- Discretized logistic


def points(levels: int) -> Tensor:
    """Return the grey levels as the data have them: pixel / scale in single precision, as any dtype."""
    return (torch.arange(levels, dtype=torch.get_default_dtype()) / (levels - 1))[:, None]


@float64
@pytest.mark.parametrize("levels", [2, 17, 256])
def test_the_bins_of_the_discretized_logistic_sum_to_one(levels: int) -> None:
    """Over all grey levels the masses are 1 in all, for means within and outside of [0, 1], narrow and wide."""
    mu, scale = torch.tensor([-2.0, 0.0, 0.31, 0.5, 1.0, 4.0]), torch.tensor([1e-4, 1e-3, 0.05, 1.0, 30.0])[:, None]
    p = DiscretizedLogistic(mu.expand(5, 6), scale.expand(5, 6), levels)
    mass = p.log_prob(points(levels)[..., None]).exp()
    torch.testing.assert_close(mass.sum(0), torch.ones(5, 6), rtol=0, atol=1e-12)
    torch.testing.assert_close((mass * points(levels)[..., None]).sum(0), p.mean, rtol=0, atol=1e-12)
    second = (mass * points(levels)[..., None] ** 2).sum(0)
    torch.testing.assert_close(second - p.mean**2, p.variance, rtol=0, atol=1e-9)


@float64
def test_a_bin_is_the_difference_of_two_sigmoids() -> None:
    """Where nothing cancels, the mass is sigmoid(b) - sigmoid(a); far out its logarithm is still finite."""
    p = DiscretizedLogistic(torch.tensor(0.4), torch.tensor(0.1), 17)
    x = points(17)[1:-1, 0]
    plain = torch.sigmoid((x + 1 / 32 - 0.4) / 0.1) - torch.sigmoid((x - 1 / 32 - 0.4) / 0.1)
    torch.testing.assert_close(p.log_prob(x).exp(), plain)
    far = DiscretizedLogistic(torch.tensor(0.0), torch.tensor(1e-4), 256)
    assert far.log_prob(torch.tensor(0.5)).item() == pytest.approx(-(0.5 - 0.5 / 255) / 1e-4, rel=1e-6)


@float64
def test_draws_of_the_discretized_logistic_have_its_masses() -> None:
    """Frequencies of 200,000 draws lie within 5 standard errors of the masses, and no other value is drawn."""
    p = DiscretizedLogistic(torch.tensor(0.8), torch.tensor(0.2), 17)
    x = p.sample((200_000,))
    counts = torch.bincount((x * 16).round().long(), minlength=17)
    assert set(x.unique().tolist()) <= set(points(17)[:, 0].tolist())
    mass = p.log_prob(points(17)[:, 0]).exp()
    assert ((counts / 200_000 - mass).abs() < 5 * (mass * (1 - mass) / 200_000).sqrt() + 1e-9).all()


# --- Mixtures, in colour


def colours(components: int, pixels: int = 2, levels: int = 256) -> LogisticMixture:
    """Return pixels of three channels with means in and around [0, 1], narrow and wide scales and any dependence."""
    family = likelihood(model_params(likelihood="discretized_logistic", grey_levels=levels, components=components), 3)
    return family.distribution(2 * torch.randn(family.raw_numbers(3 * pixels)) - 1)


def first(p: LogisticMixture, channels: int, pixel: int = 0) -> LogisticMixture:
    """Return the distribution of a pixel's first channels."""
    at = slice(pixel, pixel + 1)
    logits, slopes = None if p.logits is None else p.logits[:, at], p.slopes[:, : channels * (channels - 1) // 2, at]
    return LogisticMixture(logits, p.mu[:, :channels, at], p.scale[:, :channels, at], slopes, p.levels)


@float64
@pytest.mark.parametrize("components", [1, 2, 10])
def test_each_channel_sums_to_one_given_those_before_it(components: int) -> None:
    """Red's 256 masses, those of green at any red and those of blue at any red and green sum to the mass of these."""
    p, levels = colours(components, pixels=1), points(256)
    torch.testing.assert_close(first(p, 1).log_prob(levels).exp().sum(), torch.tensor(1.0))
    for channels, before in ((2, [0.0]), (2, [200 / 255]), (3, [1.0, 0.0]), (3, [0.2, 1.0]), (3, [7 / 255, 0.6])):
        start = torch.tensor(before)
        mass = first(p, channels).log_prob(torch.cat([start.expand(256, -1), levels], -1)).exp()
        torch.testing.assert_close(mass.sum(), first(p, channels - 1).log_prob(start).exp())


@float64
def test_a_component_of_a_pixel_is_a_product_of_differences_of_sigmoids() -> None:
    """Written out for one pixel and two components, by the formula of PixelCNN++ with outer bins that are open."""
    p = colours(2, pixels=1, levels=17)
    x = torch.tensor([5 / 16, 0.0, 1.0])
    (a, b, c), half = p.slopes[..., 0].unbind(-1), 1 / 32
    shifts = [0 * a, a * (x[0] - 0.5), b * (x[0] - 0.5) + c * (x[1] - 0.5)]
    mass = torch.softmax(p.logits[:, 0], 0)
    for channel, shift in enumerate(shifts):
        mu, scale = p.mu[:, channel, 0] + shift, p.scale[:, channel, 0]
        upper = torch.sigmoid((x[channel] + half - mu) / scale) if x[channel] < 1 else 1
        lower = torch.sigmoid((x[channel] - half - mu) / scale) if x[channel] > 0 else 0
        mass = mass * (upper - lower)
    torch.testing.assert_close(p.log_prob(x), mass.sum().log())


@float64
def test_gradients_of_colours_are_those_of_differences() -> None:
    """By the raw numbers of a pixel of three components, at an outer level, an inner one and one far off the means."""
    family = likelihood(model_params(likelihood="discretized_logistic", components=3), 3)
    raw, x = (
        torch.randn(family.raw_numbers(3), requires_grad=True),
        torch.tensor([[0.0, 90 / 255, 1.0], [1.0, 1.0, 0.0]]),
    )
    assert torch.autograd.gradcheck(lambda numbers: family.distribution(numbers).log_prob(x), raw)


@float64
def test_one_component_without_dependence_is_the_product_of_the_channels() -> None:
    """With slopes of 0 a colour has the probability that the grey family gives to its three numbers."""
    p = colours(1, pixels=4)
    plain = LogisticMixture(None, p.mu, p.scale, 0 * p.slopes, 256)
    x = torch.rand(5, 12).mul(255).round() / 255
    grey = likelihood(GREY["discretized_logistic"]).distribution(
        torch.cat([p.mu.flatten(), torch.log(torch.expm1(p.scale - 1e-4)).flatten()])
    )
    torch.testing.assert_close(plain.log_prob(x), grey.log_prob(x))
    torch.testing.assert_close(plain.mean[:4], grey.mean[:4])
    torch.testing.assert_close(plain.mean, grey.mean, rtol=0, atol=0.5 / 255)


@float64
def test_draws_of_colours_have_their_masses() -> None:
    """Frequencies of 27 colours in 200,000 draws lie within 5 standard errors of the masses."""
    p = colours(3, pixels=1, levels=3)
    x = p.sample((200_000,))
    every = torch.cartesian_prod(*[torch.arange(3) / 2] * 3)
    mass = p.log_prob(every).exp()
    counts = torch.bincount((2 * x @ torch.tensor([9.0, 3.0, 1.0])).round().long(), minlength=27)
    assert ((counts / 200_000 - mass).abs() < 5 * (mass * (1 - mass) / 200_000).sqrt() + 1e-9).all()


@float64
def test_the_mean_of_green_and_blue_is_within_half_a_level() -> None:
    """At 256 levels the integrated means differ from those of the masses by less than 1/510."""
    p, levels = colours(2, pixels=3), points(256)
    pairs = torch.cartesian_prod(levels[:, 0], levels[:, 0])
    green = torch.stack([(first(p, 2, pixel).log_prob(pairs).exp() * pairs[:, 1]).sum() for pixel in range(3)])
    assert (p.mean[3:6] - green).abs().max() < 0.5 / 255
    drawn = p.sample((100_000,))
    assert ((drawn.mean(0) - p.mean).abs() < 0.5 / 255 + 5 * p.stddev / 100_000**0.5).all()


@grey
@pytest.mark.parametrize("channels", [1, 3])
def test_a_family_of_one_channel_and_component_is_what_it_was(name: str, channels: int) -> None:
    """Grey pixels of one component have the plain logistic, bit for bit; other families take colours as vectors."""
    family = likelihood(GREY[name], channels)
    mixed = name == "discretized_logistic" and channels == 3
    assert isinstance(family.distribution(torch.randn(family.raw_numbers(12))), LogisticMixture) == mixed
    assert family.raw_numbers(12) == {"gaussian": 12, "continuous_bernoulli": 12}.get(name, 36 if mixed else 24)


# --- All of them


@float64
@grey
def test_the_bias_gives_the_mean_of_the_data(name: str) -> None:
    """At its `bias` a family has the data's mean; the continuous Bernoulli keeps 0.01 off the ends."""
    family = likelihood(GREY[name])
    mean = torch.tensor([0.0, 0.005, 0.2, 0.5, 0.9, 1.0])
    actual = family.distribution(family.bias(mean)).mean
    if name == "continuous_bernoulli":
        torch.testing.assert_close(actual, mean.clamp(0.01, 0.99), rtol=0, atol=1e-9)
    elif name == "gaussian":
        torch.testing.assert_close(actual, mean)
    else:
        assert ((actual - mean).abs() < 0.08).all()
        torch.testing.assert_close(actual[3], mean[3])


@float64
def test_a_fixed_sigma_is_one_for_all_pixels() -> None:
    """`model.sigma: 0.2` is the deviation everywhere, with one raw number a pixel; `learned` has two."""
    fixed, learned = likelihood(GREY["gaussian"]), likelihood(model_params(likelihood="gaussian"))
    assert (fixed.per_unit, learned.per_unit) == (1, 2)
    assert (fixed.distribution(torch.randn(3)).stddev == 0.2).all()
    assert learned is LIKELIHOODS["gaussian"]


@grey
def test_a_model_of_grey_pixels_trains(name: str) -> None:
    """Eight epochs on grey images raise the validation bound, samples are pixels in [0, 1] but for the Gaussian."""
    data = splits("none")
    built = build(GREY[name], torch.tensor(data.mean, dtype=torch.float32))
    records = list(fit(built, data, train_params(epochs=8), seed=0))
    assert records[-1].metrics["valid/elbo"] > records[0].metrics["valid/elbo"]
    x = built.sample(20)[0]
    assert name == "gaussian" or ((x >= 0) & (x <= 1)).all()
    assert elbo(built, x.clamp(0, 1)).elbo.isfinite().all()


# --- What params refuse


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"model.likelihood": "gaussian"}, "'gaussian' needs grey pixels, but those of digits are binary"),
        ({"model.likelihood": "gaussian", "data.binarization": "static"}, "'gaussian' needs grey pixels"),
        ({"model.likelihood": "gaussian", "data.name": "cave", "data.binarization": "none"}, "those of cave are"),
        ({"model.likelihood": "continuous_bernoulli"}, "needs grey pixels"),
        ({"model.likelihood": "discretized_logistic"}, "needs grey pixels"),
        (
            {"model.likelihood": "discretized_logistic", "data.binarization": "none"},
            "model.grey_levels: 256 given; allowed",
        ),
        ({"data.binarization": "none"}, "'bernoulli' needs binary pixels"),
        ({"data.dequantization": "uniform"}, "data.dequantization: 'uniform' needs grey pixels"),
        (
            {
                "data.dequantization": "uniform",
                "data.binarization": "none",
                "model.likelihood": "discretized_logistic",
                "model.grey_levels": 17,
            },
            "data.dequantization: 'uniform' given, but likelihood discretized_logistic",
        ),
        ({"model.sigma": 0.1}, "only likelihood gaussian uses"),
        ({"model.sigma": "wide"}, "model.sigma"),
        ({"model.sigma": 0.0}, "model.sigma"),
        ({"model.inference": "top_down", "model.hidden": [[], [3]]}, "needs a hidden layer"),
    ],
)
def test_what_does_not_go_together_is_told_in_one_line(overrides: dict[str, Any], message: str) -> None:
    """Each of these is refused with the key, the value and what is allowed."""
    with pytest.raises(InputError, match=message) as refused:
        Params.read(ROOT / "params.yaml", overrides)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "overrides",
    [
        {"model.likelihood": "continuous_bernoulli", "data.binarization": "none"},
        {"model.likelihood": "discretized_logistic", "model.grey_levels": 17, "data.binarization": "none"},
        {"model.likelihood": "discretized_logistic", "data.name": "frey_face", "data.binarization": "none"},
        {"model.likelihood": "gaussian", "model.sigma": 0.1, "data.binarization": "none"},
    ],
)
def test_what_goes_together_is_taken(overrides: dict[str, Any]) -> None:
    """Grey likelihoods are allowed for grey pixels of as many levels, a fixed sigma for the Gaussian."""
    assert Params.read(ROOT / "params.yaml", overrides).flat()["model.likelihood"] == overrides["model.likelihood"]
