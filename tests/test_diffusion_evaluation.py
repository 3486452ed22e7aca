"""The bound of a diffusion over all levels and without end against closed forms and whole chains; its curves."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.evaluation import noise_levels
from pipeline.evaluation.noise_information import information_by_log_snr
from pipeline.evaluation.noise_levels import FEW, bound_by_levels, bound_terms, evaluate_diffusion, rate_curve
from pipeline.figures import noise
from pipeline.models import HierarchicalVAE, at_levels, build, log_linear_levels
from pipeline.models.noising import kl_mixture_binary, prior_kl
from pipeline.objectives import elbo, top_down_kl
from tests.small import model_params
from tests.test_evaluation import evaluate_params

UNITS = 6
ENDS = (1.0, -3.0)


def diffusion(seed: int | None = 0, **changes: Any) -> HierarchicalVAE:
    """Build a diffusion in double precision, away from its start unless the seed is None."""
    torch.manual_seed(seed or 0)
    params = model_params(inference="diffusion", **{"depth": 4, "log_snr": ENDS} | changes)
    model = build(params, torch.full((UNITS,), 0.5)).double().eval()
    with torch.no_grad():
        for weights in model.parameters():
            weights += 0.3 * torch.randn_like(weights) * (seed is not None)
    return model


def one_image(count: int) -> Tensor:
    return torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0, 0.0]).double().expand(count, -1)


def coin_bound(last: float = ENDS[1]) -> float:
    """Return the bound of the exact decoder of fair coins: -log p(x) - I(x; z_T) + KL(q(z_T | x) || N(0, I))."""
    level = torch.tensor(last).double()
    informed = UNITS * kl_mixture_binary(level.exp(), torch.tensor(0.0).double())
    return (UNITS * math.log(2) - informed + prior_kl(one_image(1)[0], level)).item()


def mean_and_error(values: Tensor) -> tuple[float, float]:
    return values.mean().item(), (values.std() / math.sqrt(len(values))).item()


@pytest.mark.parametrize("denoising", ["fixed", "matched", "mixture"])
@pytest.mark.parametrize("depth", [1, 3])
def test_terms_drawn_one_by_one_have_the_means_of_whole_chains(denoising: str, depth: int) -> None:
    """Reconstruction and kl agree with `elbo`, and kl with `top_down_kl`, within five standard errors."""
    model = diffusion(depth=depth, denoising=denoising)
    torch.manual_seed(1)
    values, _ = bound_terms(model, one_image(1500))
    whole = elbo(model, one_image(1), 6000)
    exact_kl = top_down_kl(model, one_image(1), 6000).sum(0)[:, 0]
    pairs = [(-values["elbo"], -whole.log_weight[:, 0]), (values["kl"], whole.kl[:, 0]), (values["kl"], exact_kl)]
    pairs.append((values["reconstruction"], whole.reconstruction[:, 0]))
    for mine, theirs in pairs:
        (a, a_error), (b, b_error) = mean_and_error(mine), mean_and_error(theirs)
        assert abs(a - b) <= 5 * math.hypot(a_error, b_error) + 1e-9


@pytest.mark.parametrize("depth", [1, 2, 7, 300, "continuous"])
def test_the_exact_decoder_has_its_closed_bound_at_every_depth(depth: int | str) -> None:
    """For independent pixels the form mixture is exact, so the bound is that of the last level alone."""
    model = diffusion(seed=None, depth=depth, denoising="mixture")
    last = model.diffusion.ends[1] if depth == "continuous" else model.diffusion.log_snr[-1]
    torch.manual_seed(2)
    values, variances = bound_terms(model, one_image(100))
    mean, _ = mean_and_error(-values["elbo"])
    assert abs(mean - coin_bound(float(last))) <= 4 * variances["elbo"].sum().sqrt().item() / 100 + 1e-3


@pytest.mark.parametrize("depth", [5, 300, "continuous"])
def test_the_stated_error_is_the_spread(depth: int | str) -> None:
    """The variance that each image states is, in the mean, that of the values of an image that stands there often."""
    model = diffusion(depth=depth)
    torch.manual_seed(3)
    values, variances = bound_terms(model, one_image(200))
    for name, value in values.items():
        assert variances[name].mean().item() == pytest.approx(value.var().item(), rel=0.35)


def test_memory_does_not_grow_with_the_levels(monkeypatch: pytest.MonkeyPatch) -> None:
    """No call of the decoder has more rows than a pass, at whatever depth."""
    monkeypatch.setattr(noise_levels, "ROWS", 512)
    most = {}
    for depth in (8, 1000):
        model, rows = diffusion(depth=depth), []
        model.diffusion.decoder.register_forward_pre_hook(lambda _, args, rows=rows: rows.append(len(args[0])))
        bound_terms(model, one_image(70))
        most[depth] = max(rows)
    assert max(most.values()) <= 512


def test_one_decoder_has_a_bound_at_other_numbers_of_levels() -> None:
    """A row for each number and grid; the best levels are no worse, and the exact decoder needs none to be best."""
    model = diffusion(depth="continuous", denoising="fixed")
    x = torch.randint(0, 2, (60, UNITS)).double()
    torch.manual_seed(4)
    rows = bound_by_levels(model, x, x, [1, 2, 5, 60, "continuous"])
    labels = [(row["levels"], row["grid"]) for row in rows]
    assert labels == [
        *((1, "log_linear"), (2, "log_linear"), (2, "optimal"), (5, "log_linear"), (5, "optimal")),
        *((60, "log_linear"), ("continuous", "continuous")),
    ]
    by = dict(zip(labels, rows, strict=True))
    for count in (2, 5):
        even, best = by[count, "log_linear"], by[count, "optimal"]
        assert best["elbo"] >= even["elbo"] - 3 * math.hypot(best["elbo_se"], even["elbo_se"])
    for row in rows:
        assert row["elbo"] == pytest.approx(row["reconstruction"] - row["kl"], abs=1e-6)


@pytest.mark.parametrize(("depth", "bound"), [(3, False), (FEW + 1, True), ("continuous", True)])
def test_the_keys_of_an_evaluation(depth: int | str, bound: bool) -> None:
    """Few levels have L_k; of many, and without end, nll is -elbo, and `nll/reliable` is 0."""
    model = diffusion(depth=depth).float()
    pixels = (one_image(24) * 255).byte()
    measured = evaluate_diffusion(model, pixels, 255, evaluate_params(draws=100, k=(1, 100)), discrete=True)
    estimates = measured.estimates
    assert {"elbo", "reconstruction", "kl", "nll", "gap", "bpd"} <= set(estimates)
    assert not [name for name in estimates if name.startswith("rate/")]
    assert ("iwae/100" in estimates) is not bound
    assert (estimates["nll"].value == -estimates["elbo"].value) is bound
    if bound:
        assert estimates["nll/reliable"].value == 0
    assert all(len(measured.images[name]) == 24 for name in ("elbo", "reconstruction", "kl", "nll"))


def test_two_opposite_images_share_the_information_of_a_coin() -> None:
    """I(n; z) is that of one binary pixel at as many times the SNR as there are pixels."""
    x = torch.stack([one_image(1)[0], 1 - one_image(1)[0]])
    levels = torch.tensor([-6.0, -3.0, -1.0])
    torch.manual_seed(5)
    many = [information_by_log_snr(x, levels) for _ in range(1500)]
    for at, level in enumerate(levels.double()):
        values = torch.tensor([estimates[at].value for estimates in many])
        mean, error = mean_and_error(values)
        closed = kl_mixture_binary(UNITS * level.exp(), torch.tensor(0.0).double()).item()
        assert abs(mean - closed) <= 4 * error + 1e-3


def test_the_information_is_at_most_the_log_of_the_images() -> None:
    """It is 0 in the noise, log N where z names its image, and less where images are alike; passes change nothing."""
    torch.manual_seed(6)
    x = torch.randint(0, 2, (64, 40)).double().unique(dim=0)
    lowest, highest = information_by_log_snr(x, torch.tensor([-16.0, 6.0]))
    assert abs(lowest.value) < 1e-3
    assert highest.value == pytest.approx(math.log(len(x)), abs=1e-9)
    (twice,) = information_by_log_snr(x.repeat(2, 1), torch.tensor([6.0]))
    assert twice.value == pytest.approx(math.log(len(x)), abs=1e-9)


def test_the_curves_are_drawn() -> None:
    """A figure names its peak and its ends in words, with and without I(n; z)."""
    model = diffusion(depth=3)
    x = torch.randint(0, 2, (40, UNITS)).double()
    curve = rate_curve(model, x)
    assert curve[0]["log_snr"] == ENDS[0]
    bare = [{name: row[name] for name in ("log_snr", "rate", "se")} for row in curve]
    assert [len(noise.by_log_snr({"d": rows}).axes) for rows in (bare, curve)] == [1, 2]
    table = bound_by_levels(model, x, x, [1, 3, "continuous"])
    drawing = noise.bound_by_levels({"d": table})
    assert "1 level, equal steps" in drawing.alt


def test_levels_chosen_again_leave_the_model_alone() -> None:
    """A bound at other levels changes no weight and no level of the trained diffusion."""
    model = diffusion(depth=4)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    x = one_image(10)
    bound_by_levels(model, x, x, [2, "continuous"])
    bound_terms(at_levels(model, log_linear_levels(9, *ENDS).double()), x)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
