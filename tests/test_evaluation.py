"""Test bounds against exact values, their standard errors against the spread of many seeds."""

from __future__ import annotations

import functools
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import kl_divergence

import pipeline.evaluation.bounds
from pipeline.data.images import to_unit_interval
from pipeline.evaluation.bounds import evaluate, importance_bound, many_draws
from pipeline.evaluation.estimates import Estimate
from pipeline.evaluation.jackknife import log_mean_variance
from pipeline.models import HierarchicalVAE, build
from pipeline.objectives import elbo
from pipeline.params import EvaluateParams
from tests.linear_gaussian import Chain, chain, cubature, inferred
from tests.small import model_params

pytestmark = pytest.mark.usefixtures("float64")

SCALE = 100
PERTURBATION = 0.05  # mild, so that weights have a variance and L_500 is near log p(x)


def evaluate_params(**changes: Any) -> EvaluateParams:
    """Return the parameters of an evaluation that takes a moment."""
    settings = {
        "draws": 500,
        "k": (1, 50, 500),
        "active_draws": 20,
        "active_threshold": 0.01,
        "milestone_draws": 50,
        "precision": "float32",
        "seed": 0,
        "decompose": None,
        "outliers": None,
        "levels": (1,),
    }
    return EvaluateParams(**settings | changes)


def linear() -> tuple[Chain, HierarchicalVAE, Tensor]:
    """Return a chain, the same with a wrong posterior, and twelve test images of its three pixels."""
    torch.manual_seed(11)
    exact = chain((3, 2, 2), "nearest")
    return exact, exact.perturbed(PERTURBATION), torch.randint(SCALE, (12, 3), dtype=torch.uint8)


def bernoulli(depth: int = 2) -> tuple[HierarchicalVAE, Tensor]:
    """Return an untrained model of six binary pixels, and test images that fill more than one batch."""
    return build(model_params(depth=depth), torch.full((6,), 0.4)), torch.randint(2, (70, 6), dtype=torch.uint8)


@functools.cache
def truth() -> dict[str, float]:
    """Return the exact value of each quantity of `linear`, L_50 from 960,000 draws."""
    exact, model, test = linear()
    x = to_unit_interval(test, SCALE)
    gap = kl_divergence(inferred(model, x), exact.posterior(x)).mean().item()
    evidence = exact.log_p(x).mean().item()
    groups = [importance_bound(many_draws(model, x, 10_000).log_weight, 50)[0].mean() for _ in range(8)]
    draws = cubature(model)
    moments = elbo(model, x, draws)
    values = {
        "elbo": evidence - gap,
        "reconstruction": moments.reconstruction.mean().item(),
        "kl": moments.kl.mean().item(),
        "rate/z1": moments.rate[0].mean().item(),
        "rate/z2": moments.rate[1].mean().item(),
        "iwae/50": torch.stack(groups).mean().item(),
        "iwae/500": evidence,
        "nll": -evidence,
        "gap": gap,
    }
    return values | {"iwae/1": values["elbo"]}


@functools.cache
def repeated(seeds: int = 40) -> list[dict[str, Estimate]]:
    """Evaluate `linear` once for each seed."""
    _, model, test = linear()
    return [evaluate(model, test, SCALE, evaluate_params(seed=seed), discrete=False).estimates for seed in range(seeds)]


NAMES = ["elbo", "reconstruction", "kl", "rate/z1", "rate/z2", "iwae/1", "iwae/50", "iwae/500", "nll", "gap"]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_values_lie_within_their_standard_errors(name: str) -> None:
    """On a linear-Gaussian chain every value is within 4 reported standard errors of the exact one."""
    estimate = repeated()[0][name]
    assert estimate.se > 0
    assert abs(estimate.value - truth()[name]) < 4 * estimate.se


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_standard_errors_are_the_spread_of_many_seeds(name: str) -> None:
    """Over 40 seeds the errors, each in units of its reported standard error, deviate by 0.6 to 1.6 around zero."""
    z = torch.tensor([(run[name].value - truth()[name]) / run[name].se for run in repeated()])
    assert 0.6 < z.std() < 1.6
    assert abs(z.mean()) < 4 / len(z) ** 0.5


@pytest.mark.slow
@pytest.mark.parametrize("k", [(1,), (1, 5), (25,)])
def test_the_standard_error_of_the_gap_holds_when_k_is_below_the_draws(k: tuple[int, ...]) -> None:
    """Where L_k is a mean over groups, the gap's spread is still 0.6 to 1.6 reported errors, both 0 at k = 1."""
    _, model, test = linear()
    params = [evaluate_params(draws=200, k=k, seed=seed) for seed in range(2 if k == (1,) else 40)]
    gaps = [evaluate(model, test, SCALE, each, discrete=False).estimates["gap"] for each in params]
    values, errors = torch.tensor([gap.value for gap in gaps]), torch.tensor([gap.se for gap in gaps])
    if k == (1,):
        assert values.abs().max() < 1e-12
        assert errors.abs().max() < 1e-12
    else:
        assert 0.6 < values.std() / errors.mean() < 1.6


def test_a_tight_posterior_has_no_gap_and_no_error() -> None:
    """With the exact posterior elbo, every L_k and -nll are log p(x), and their standard errors vanish."""
    exact, _, test = linear()
    results = evaluate(exact.model, test, SCALE, evaluate_params(), discrete=False).estimates
    evidence = exact.log_p(to_unit_interval(test, SCALE)).mean().item()
    for name in ("elbo", "iwae/1", "iwae/50", "iwae/500"):
        assert results[name].value == pytest.approx(evidence, abs=1e-9)
        assert results[name].se < 1e-9
    assert results["nll"].value == pytest.approx(-evidence, abs=1e-9)
    assert results["gap"].value == pytest.approx(0, abs=1e-9)


# --- Sums


@pytest.mark.slow
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_the_table_adds_up(depth: int) -> None:
    """The elbo is reconstruction - kl and iwae/1, kl is the sum of rates, gap is L_k - elbo, bpd is nll / (D log 2)."""
    model, test = bernoulli(depth)
    results = evaluate(model, test, 1, evaluate_params(), discrete=True).estimates
    value = {name: estimate.value for name, estimate in results.items()}
    levels = [f"rate/z{t}" for t in range(1, depth + 1)]
    assert value["elbo"] == pytest.approx(value["reconstruction"] - value["kl"])
    assert value["kl"] == pytest.approx(sum(value[level] for level in levels))
    assert value["iwae/1"] == pytest.approx(value["elbo"])
    assert value["nll"] == -value["iwae/500"]
    assert value["gap"] == pytest.approx(value["iwae/500"] - value["elbo"])
    assert value["bpd"] == pytest.approx(value["nll"] / (6 * math.log(2)))
    assert results["bpd"].se == pytest.approx(results["nll"].se / (6 * math.log(2)))
    assert results["iwae/1"].se == pytest.approx(results["elbo"].se)
    assert value["iwae/1"] < value["iwae/50"] < value["iwae/500"] < 0
    assert set(value) == {
        *("elbo", "reconstruction", "kl", "iwae/1", "iwae/50", "iwae/500", "nll", "gap", "bpd"),
        *levels,
        *(f"{name}/z{t}" for name in ("active", "informative", "information") for t in range(1, depth + 1)),
        *("ess/median", "ess/min", "khat/median", "khat/max", "khat/high"),
        *("nll/last_doubling", "nll/bias", "nll/reliable"),
    }


@pytest.mark.slow
def test_the_values_of_images_are_those_of_their_means() -> None:
    """Every key that images have is the mean over them, but for what judges the weights; kl is the sum of rates."""
    model, test = bernoulli(2)
    actual = evaluate(model, test, 1, evaluate_params(), discrete=True)
    assert {len(values) for values in actual.images.values()} == {len(test)}
    for name, values in actual.images.items():
        if name not in ("ess", "khat"):
            assert actual.estimates[name].value == pytest.approx(values.mean().item(), rel=1e-5)
    assert actual.estimates["ess/median"].value == actual.images["ess"].median().item()
    assert actual.estimates["khat/high"].value == (actual.images["khat"] > 0.7).double().mean().item()
    torch.testing.assert_close(actual.images["rate/z1"] + actual.images["rate/z2"], actual.images["kl"])


@pytest.mark.slow
@pytest.mark.parametrize(("size", "reliable"), [(PERTURBATION, True), (0.4, False), (0.8, False), (1.2, False)])
def test_what_a_bound_lacks_stands_beside_its_error(size: float, reliable: bool) -> None:
    """The bias is what L_500 lacks, a lower estimate where the tail is heavy, and then the error is not reliable."""
    exact, _, test = linear()
    results = evaluate(exact.perturbed(size), test, SCALE, evaluate_params(), discrete=False).estimates
    lack = exact.log_p(to_unit_interval(test, SCALE)).mean().item() + results["nll"].value
    assert results["nll/reliable"].value == reliable
    if reliable:
        assert abs(lack) < 4 * results["nll"].se
        assert abs(results["nll/bias"].value) < 0.01
    else:
        assert lack > 3 * results["nll"].se
        assert 0 < results["nll/bias"].value < lack
        assert results["nll/bias"].se is None
        assert results["khat/high"].value > 0.2


@pytest.mark.slow
def test_generalization_is_training_less_test() -> None:
    """On the same images every difference is 0 within its error; of images that fit worse each is that much lower."""
    model, test = bernoulli(2)
    same = evaluate(model, test, 1, evaluate_params(), discrete=True, train=test).estimates
    names = {name for name in same if name.startswith("generalization/")}
    assert names == {f"generalization/{n}" for n in ("elbo", "reconstruction", "kl", "rate/z1", "rate/z2", "iwae/50")}
    for name in names:
        assert abs(same[name].value) < 3 * same[name].se
    more = evaluate_params(milestone_draws=1000, k=(500,))
    other = evaluate(model, test, 1, more, discrete=True, train=1 - test).estimates
    flipped = evaluate(model, 1 - test, 1, evaluate_params(), discrete=True).estimates
    expected = flipped["elbo"].value - same["elbo"].value
    assert other["generalization/elbo"].value == pytest.approx(expected, abs=0.1)


@pytest.mark.slow
def test_only_discrete_images_have_bits() -> None:
    """A continuous density has no bits per dimension, so that none are reported."""
    model, test = bernoulli()
    assert "bpd" not in evaluate(model, test, 1, evaluate_params(), discrete=False).estimates


@pytest.mark.slow
def test_evaluation_depends_on_its_seed_alone() -> None:
    """The same seed gives the same numbers whatever was drawn before, another seed others; the caller's dice rest."""
    model, test = bernoulli()
    first = evaluate(model, test, 1, evaluate_params(draws=50, k=(50,)), discrete=True).estimates
    torch.rand(3)
    state = torch.get_rng_state()
    assert evaluate(model, test, 1, evaluate_params(draws=50, k=(50,)), discrete=True).estimates == first
    assert torch.equal(torch.get_rng_state(), state)
    assert (
        evaluate(model, test, 1, evaluate_params(draws=50, k=(50,), seed=1), discrete=True).estimates["elbo"]
        != first["elbo"]
    )


@pytest.mark.slow
def test_the_error_shrinks_as_the_root_of_the_draws() -> None:
    """Sixteen times the draws leave a quarter of the standard error of the elbo."""
    _, model, test = linear()
    few, many = (
        evaluate(model, test, SCALE, evaluate_params(draws=draws, k=(1,)), discrete=False).estimates["elbo"].se
        for draws in (250, 4000)
    )
    assert few / many == pytest.approx(4, rel=0.15)


# --- Draws and passes


@pytest.mark.parametrize("rows", [1, 50, 64, 10_000])
def test_many_draws_are_as_many_whatever_a_pass_holds(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Passes of any size give all draws of every term, none twice, with the same mean within 5 standard errors."""
    monkeypatch.setattr(pipeline.evaluation.bounds, "DECODED_ROWS", rows)
    _, model, test = linear()
    x = to_unit_interval(test[:4], SCALE)
    bound = many_draws(model, x, 101)
    assert bound.reconstruction.shape == (101, 4)
    assert bound.rate.shape == (2, 101, 4)
    assert len(bound.log_weight.unique()) == 101 * 4
    exact = elbo(model, x, cubature(model)).elbo
    assert ((bound.elbo - exact).abs() < 5 * bound.log_weight.std(0) / 101**0.5).all()


def test_a_pass_never_holds_more_rows_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draws times images of one pass stay within `ROWS`."""
    passes: list[int] = []

    def spy(model: HierarchicalVAE, x: Tensor, draws: int = 1) -> Any:
        passes.append(draws * len(x))
        return elbo(model, x, draws)

    monkeypatch.setattr(pipeline.evaluation.bounds, "elbo", spy)
    monkeypatch.setattr(pipeline.evaluation.bounds, "DECODED_ROWS", 100)
    model, test = bernoulli()
    many_draws(model, to_unit_interval(test[:30], 1), 10)
    assert passes == [90, 90, 90, 30]


def test_the_importance_bound_is_the_mean_over_whole_groups() -> None:
    """L_k averages S // k groups of k draws and leaves the rest; its variance is that of the groups' mean."""
    log_weight = torch.randn(11, 3)
    value, variance = importance_bound(log_weight, 2)
    groups = torch.stack([log_weight[i : i + 2].exp().mean(0).log() for i in range(0, 10, 2)])
    torch.testing.assert_close(value, groups.mean(0))
    torch.testing.assert_close(variance, groups.var(0) / 5)
    value, variance = importance_bound(log_weight, 11)
    torch.testing.assert_close(value, log_weight.exp().mean(0).log())
    torch.testing.assert_close(variance, log_mean_variance(log_weight))


@pytest.mark.parametrize("above_mean", [False, True])
def test_the_jackknife_leaves_out_a_block_at_a_time(above_mean: bool) -> None:
    """Of 23 draws in ten blocks of two: 9/10 of the sum of squared deviations of ten estimates, less 3 draws in 23."""
    log_weight = torch.randn(23, 3, dtype=torch.float64)
    estimates = []
    for block in range(10):
        rest = torch.cat([log_weight[: 2 * block], log_weight[2 * block + 2 : 20]])
        estimates.append(rest.exp().mean(0).log() - (rest.mean(0) if above_mean else 0))
    values = torch.stack(estimates)
    expected = 20 / 23 * 0.9 * (values - values.mean(0)).square().sum(0)
    torch.testing.assert_close(log_mean_variance(log_weight, log_weight if above_mean else None), expected)


@pytest.mark.slow
@pytest.mark.parametrize("above_mean", [False, True])
def test_the_jackknife_holds_where_few_draws_carry_the_weight(above_mean: bool) -> None:
    """Where some 10 of 5,000 draws count, the spread is 0.8 to 1.25 times it, above 1.4 times the first-order error."""
    values, errors, first_order = [], [], []
    for _ in range(100):
        log_weight = 4 * torch.randn(5000, 20)
        mean_log = log_weight.mean(0) if above_mean else 0
        values.append((torch.logsumexp(log_weight, 0) - math.log(5000) - mean_log).mean())
        errors.append(log_mean_variance(log_weight, log_weight if above_mean else None).sum() / 20**2)
        influence = torch.softmax(log_weight, 0) * 5000 - (log_weight if above_mean else 0)
        first_order.append((influence.var(0) / 5000).sum() / 20**2)
    spread = torch.stack(values).std()
    assert 0.8 < spread / torch.stack(errors).mean().sqrt() < 1.25
    assert spread / torch.stack(first_order).mean().sqrt() > 1.4
