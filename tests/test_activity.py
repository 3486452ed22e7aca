"""Units that the image has something to say to: by formula, at any scale, with errors that many seeds confirm."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal

from pipeline.evaluation.activity import _between, activity
from pipeline.models import HierarchicalVAE, build
from pipeline.objectives import elbo
from pipeline.params import INFORMATIVE
from tests.linear_gaussian import Affine
from tests.small import model_params

pytestmark = pytest.mark.usefixtures("float64")


def two_levels(noise: float, upper: float) -> HierarchicalVAE:
    """Return inference z_1 = x + noise e, z_2 = upper z_1 + e, for one pixel and one unit a level."""
    one = torch.eye(1)
    rungs = [Affine([one], torch.zeros(1), noise**2 * one), Affine([upper * one], torch.zeros(1), one)]
    return HierarchicalVAE([*rungs, torch.nn.Identity()], rungs, "nearest")


def test_noise_of_the_level_below_is_no_activity() -> None:
    """Level 2's mean varies by 0.00025 over images: it is not active, though one draw of level 1 shows 0.099."""
    upper, spread = 0.05, 0.1
    noise = (0.099 / upper**2 - spread) ** 0.5
    x = (spread**0.5 * torch.randn(1000, 1)).double()
    x = x / x.std() * spread**0.5
    model = two_levels(noise, upper)
    one_draw = model.posterior(x)[1][1].mean[0].var(0)
    assert one_draw.item() == pytest.approx(0.099, rel=0.3)
    assert one_draw.item() > 0.01  # what the published code counts as active
    results = activity(model, iter(x.split(50)), draws=200, threshold=0.01)
    assert results["active/z1"][0] == 1
    assert results["active/z2"][0] == 0
    assert results["active/z2"][1] < 0.5


def test_the_variance_without_noise_is_unbiased() -> None:
    """Over 100 repetitions the mean estimate of level 2's variance is 0.00025 within 4 standard errors."""
    upper, spread, noise = 0.05, 0.1, 6.0
    x = torch.randn(100, 1)
    x = x / x.std() * spread**0.5
    model = two_levels(noise, upper)

    def once() -> Tensor:
        blocks = [model.posterior(x, 20)[1][1].mean.mean(0) for _ in range(10)]
        return _between(torch.stack(blocks), torch.stack(blocks))

    estimates = torch.cat([once() for _ in range(100)])
    assert abs(estimates.mean() - 0.00025) < 4 * estimates.std() / 10


def test_active_units_are_counted_by_the_variance_of_their_mean() -> None:
    """Of units with variance 0, 0.009, 0.011 and 4, and of level 2's, made of them, those above 0.01 count."""
    deviations = torch.tensor([0.0, 0.009**0.5, 0.011**0.5, 2.0])
    x = torch.randn(400, 1)
    x = (x - x.mean()) / x.std()
    lower = Affine([deviations[:, None]], torch.ones(4), torch.eye(4))
    upper = Affine([torch.tensor([[0.0, 0, 0, 1], [1, 0, 0, 0], [0, 0, 0, 0.2]])], torch.zeros(3), torch.eye(3))
    model = HierarchicalVAE([lower, upper, torch.nn.Identity()], [lower, upper], "nearest")
    results = activity(model, iter(x.split(50)), draws=200, threshold=0.01)
    assert results["active/z1"] == (2, 0.0)
    assert results["active/z2"][0] == 2


@pytest.mark.parametrize("parents", ["nearest", "every"])
def test_a_model_that_ignores_its_images_has_no_active_unit(parents: str) -> None:
    """With weights of zero no posterior mean depends on x, and no level counts a unit or has a nat."""
    model = build(model_params(depth=3, parents=parents), torch.full((6,), 0.4))
    for rung in model.inference:
        rung.network[-1].weight.data.zero_()
    x = torch.bernoulli(torch.full((60, 6), 0.5))
    results = activity(model, iter(x.split(50)), draws=20, threshold=0.01)
    for t in (1, 2, 3):
        assert results[f"active/z{t}"][0] == results[f"informative/z{t}"][0] == 0
        assert abs(results[f"information/z{t}"][0]) < 1e-12


@torch.no_grad()
def test_shares_and_information_are_those_of_gaussians() -> None:
    """Of 4 units and of level 2's, made of them, share, count and nats are those of the covariances within 4 errors.

    z_1 = a x + s e, z_2 = w z_1 + e: the shares are a^2 / (a^2 + s^2), and (w a)^2 / ((w a)^2 + (w s)^2 + 1).
    """
    a, s = torch.tensor([0.0, 0.05, 0.3, 2.0]), torch.tensor([1.0, 1.0, 0.5, 3.0])
    w = torch.tensor([[0.0, 0, 0, 1], [1, 0, 0, 0], [0, 0, 1, 0.2]])
    x = torch.randn(400, 1)
    x = (x - x.mean()) / x.std(correction=0)
    lower = Affine([a[:, None]], torch.ones(4), (s**2).diag())
    upper = Affine([w], torch.zeros(3), torch.eye(3))
    model = HierarchicalVAE([lower, upper, nn.Identity()], [lower, upper], "nearest")
    actual = activity(model, iter(x.split(50)), draws=1000, threshold=0.01)
    shares = [a**2 / (a**2 + s**2), (w @ a) ** 2 / ((w @ a) ** 2 + w**2 @ s**2 + 1)]
    for t, share in enumerate(shares, start=1):
        assert actual[f"informative/z{t}"][0] == (share > INFORMATIVE).sum() > 0
        value, error = actual[f"information/z{t}"]
        assert error < 0.01
        assert abs(value - (-0.5 * torch.log1p(-share)).sum()) <= 4 * error + 1e-12
    assert actual["information/z1"][1] == 0


class Scaled(nn.Module):
    """A rung that sees its nearest parent divided by a number, and whose own Gaussian is multiplied by one."""

    def __init__(self, rung: nn.Module, of_parent: float, of_child: float) -> None:
        super().__init__()
        self.rung, self.of_parent, self.of_child = rung, of_parent, of_child

    def forward(self, parent: Tensor) -> Independent:
        actual = self.rung(parent / self.of_parent)
        if self.of_child == 1.0:
            return actual
        return Independent(Normal(actual.mean * self.of_child, actual.stddev * self.of_child), 1)


@pytest.mark.parametrize("scale", [0.01, 50.0])
def test_no_rescaling_of_a_unit_moves_what_the_image_explains(scale: float) -> None:
    """z_1 at another scale, with encoder, decoder and p(z_1|z_2) changed to match, has the same bound and nats.

    The count of active units is another, 0 at a hundredth of the scale.
    """
    model = build(model_params(widths=(4, 2)), torch.full((6,), 0.4))
    with torch.no_grad():
        for rung in model.inference:
            rung.network[-1].weight *= 3
    p0, p1, prior = model.generative
    q1, q2 = model.inference
    other = HierarchicalVAE(
        [Scaled(p0, scale, 1.0), Scaled(p1, 1.0, scale), prior],
        [Scaled(q1, 1.0, scale), Scaled(q2, scale, 1.0)],
        "nearest",
    )
    x = torch.bernoulli(torch.full((60, 6), 0.5))
    bounds, actual = [], []
    for each in (model, other):
        torch.manual_seed(3)
        bounds.append(elbo(each, x, 20).log_weight.detach())
        torch.manual_seed(3)
        actual.append(activity(each, iter(x.split(50)), draws=200, threshold=0.01))
    torch.testing.assert_close(bounds[0], bounds[1], rtol=1e-9, atol=1e-9)
    for name in ("informative/z1", "informative/z2", "information/z1", "information/z2", "active/z2"):
        assert actual[1][name] == pytest.approx(actual[0][name], rel=1e-6, abs=1e-9), name
    assert actual[0]["informative/z1"][0] == 4
    assert actual[0]["information/z1"][0] > 0.1
    assert actual[0]["active/z1"][0] == 4
    assert actual[1]["active/z1"][0] == (0 if scale < 1 else 4)


@pytest.mark.slow
def test_printed_errors_are_those_of_many_seeds() -> None:
    """Over 60 seeds the nats of an upper level deviate by 0.8 to 1.25 times their printed error around the truth."""
    x = torch.randn(40, 1)
    x = (x - x.mean()) / x.std(correction=0)
    model = two_levels(1.0, 0.7)
    actual = torch.tensor([activity(model, [x], draws=100, threshold=0.01)["information/z2"] for _ in range(60)])
    share = 0.7**2 / (0.7**2 + 0.7**2 + 1)
    spread = actual[:, 0].std()
    assert 0.8 < spread / actual[:, 1].square().mean().sqrt() < 1.25
    assert abs(actual[:, 0].mean() + 0.5 * math.log1p(-share)) < 4 * spread / 60**0.5
