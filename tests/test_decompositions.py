"""The bound by level: closed forms, estimators against them, and the forms that are wrong."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.distributions import MultivariateNormal, kl_divergence

from pipeline.data.images import to_unit_interval
from pipeline.evaluation import Estimate
from pipeline.evaluation.decompose import anneal, decompose
from pipeline.evaluation.levels import level_terms, measure_levels, two_sided_bound
from pipeline.models import build
from pipeline.objectives import elbo
from pipeline.params import DecomposeParams, EvaluateParams
from pipeline.progress import reporting
from tests.closed_forms import Exact
from tests.linear_gaussian import Parents, chain
from tests.small import covering, model_params, splits

pytestmark = pytest.mark.usefixtures("float64")

WIDTHS = [(3, 2), (4, 3, 2), (3, 2, 3, 1), (2, 3, 2, 2, 3), (2, 1, 2, 1, 2, 1, 2)]  # T = 1, 2, 3, 4, 6
SMALL = [(3, 2), (4, 3, 2), (3, 2, 3, 1), (2, 2, 1, 2, 1)]


def named(parts: dict[str, Any], name: str, depth: int) -> torch.Tensor:
    """Return the values of one decomposition, [depth, batch]."""
    return torch.stack([parts[f"{name}/z{t}"][0] for t in range(1, depth + 1)])


@pytest.mark.parametrize("parents", ["nearest", "every"])
@pytest.mark.parametrize("widths", WIDTHS, ids=str)
def test_the_closed_forms_of_all_four_decompositions_agree(widths: tuple[int, ...], parents: Parents) -> None:
    """(a), (b) and (c) sum to one KL and (d) to log p(x) - elbo, to 1e-10; (b), (c) and (d) have no negative term."""
    exact_chain = chain(widths, parents)
    x = 2 * torch.randn(5, widths[0])
    exact = Exact(exact_chain, exact_chain.perturbed(0.3), x)
    for terms in (exact.rates, exact.top_down, exact.bottom_up):
        torch.testing.assert_close(terms.sum(0), exact.kl, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(exact.gaps.sum(0), exact_chain.log_p(x) - exact.elbo, rtol=1e-10, atol=1e-10)
    for terms in (exact.top_down, exact.bottom_up, exact.gaps):
        assert (terms > -1e-10).all()
    if parents == "nearest":
        torch.testing.assert_close(exact.bottom_up[1:], exact.gaps[1:], rtol=1e-10, atol=1e-10)


def test_a_rate_is_no_divergence() -> None:
    """With the exact posterior of a chain of 6 levels some rate below the top is negative, while every gap is 0."""
    exact_chain = chain((2, 1, 2, 1, 2, 1, 2), "nearest")
    exact = Exact(exact_chain, exact_chain.model, torch.randn(50, 2))
    assert exact.rates[:-1].min() < -0.1
    assert exact.gaps.abs().max() < 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("parents", ["nearest", "every"])
@pytest.mark.parametrize("widths", WIDTHS, ids=str)
def test_the_exact_posterior_has_no_gap_at_any_level(widths: tuple[int, ...], parents: Parents) -> None:
    """With the exact posterior every gap is 0 to 1e-9 from any draws, and no estimate of it is biased."""
    exact_chain = chain(widths, parents)
    x = 2 * torch.randn(4, widths[0])
    parts, _ = level_terms(exact_chain.model, x, draws=2, inner=2, outer=2)
    assert named(parts, "gap", exact_chain.model.depth).abs().max() < 1e-9
    estimates = measure_levels(exact_chain.model, x, draws=2, inner=2, outer=2).estimates
    assert estimates["bias_unmeasured"].value == 0
    for t in range(1, exact_chain.model.depth + 1):
        assert abs(estimates[f"gap_bias/z{t}"].value) < 1e-9
    if parents == "nearest":
        assert named(parts, "chain_kl", exact_chain.model.depth)[1:].abs().sum() < 1e-9


@pytest.mark.parametrize("parents", ["nearest", "every"])
@pytest.mark.parametrize("widths", WIDTHS, ids=str)
def test_the_sums_are_the_kl_and_the_gap_of_the_same_draws(widths: tuple[int, ...], parents: Parents) -> None:
    """However few draws stand behind them, chain_kl sums to the draws' KL and gap to log p(x) less the draws' bound."""
    exact_chain = chain(widths, parents)
    model, x = exact_chain.perturbed(0.3), torch.randn(4, widths[0])
    torch.manual_seed(1)
    bound = elbo(model, x, 3)
    torch.manual_seed(1)
    parts, _ = level_terms(model, x, draws=3, inner=2, outer=2)
    gap = parts["log_marginal/x"][0] - bound.elbo
    torch.testing.assert_close(named(parts, "gap", model.depth).sum(0), gap, rtol=1e-10, atol=1e-10)
    if parents == "nearest" or model.depth == 1:
        kl = named(parts, "chain_kl", model.depth).sum(0)
        torch.testing.assert_close(kl, bound.kl.mean(0), rtol=1e-10, atol=1e-10)


@pytest.mark.slow
@covering("widths, parents", SMALL, ["nearest", "every"], ids=str)
def test_the_estimates_agree_with_the_closed_forms(widths: tuple[int, ...], parents: Parents) -> None:
    """Each term of (c) and (d) is its closed form within 4 standard errors, none above 0.1 nats."""
    exact_chain = chain(widths, parents)
    model, x = exact_chain.perturbed(0.05), torch.randn(6, widths[0])
    exact = Exact(exact_chain, model, x)
    estimates = measure_levels(model, x, draws=100, inner=50, outer=2000).estimates
    expected = {"log_marginal/x": exact_chain.log_p(x)}
    expected |= {f"gap/z{t}": gap for t, gap in enumerate(exact.gaps, start=1)}
    if parents == "nearest" or model.depth == 1:
        expected |= {f"chain_kl/z{t}": kl for t, kl in enumerate(exact.bottom_up, start=1)}
        expected |= {"log_marginal/z1": exact.p(1, 1)}
    for name, term in expected.items():
        assert estimates[name].se < 0.1
        assert abs(estimates[name].value - term.mean()) < 4 * estimates[name].se + 1e-9, name
    sums = {"levels/elbo": exact.elbo, "levels/kl": exact.kl, "levels/gap": exact.gaps.sum(0)}
    for name, term in sums.items():
        assert abs(estimates[name].value - term.mean()) < 4 * estimates[name].se + 1e-9, name
    biases = {name for name in estimates if "_bias/" in name}
    assert biases <= {name.replace("/", "_bias/") for name in expected if "log" not in name}
    assert set(estimates) == set(expected) | set(sums) | biases | {"bias_unmeasured"}


def test_at_depth_1_the_terms_are_the_kl_and_the_gap() -> None:
    """A VAE has one term of each decomposition: its Monte Carlo KL and log p(x) - elbo."""
    model, x = build(model_params(depth=1), torch.full((16,), 0.5)), torch.rand(5, 16)
    torch.manual_seed(1)
    bound = elbo(model, x, 4)
    torch.manual_seed(1)
    parts, _ = level_terms(model, x, draws=4, inner=2, outer=50)
    torch.testing.assert_close(parts["chain_kl/z1"][0], bound.kl.mean(0))
    torch.testing.assert_close(parts["gap/z1"][0], parts["log_marginal/x"][0] - bound.elbo)


@pytest.mark.slow
@pytest.mark.parametrize("inner", [20, 100])
def test_the_bias_is_known_and_falls_with_the_draws(inner: int) -> None:
    """At the same draws chain_kl/z1 is above its value with the exact p(z_1) by 0.7 to 1.4 times chain_kl_bias/z1.

    The weights have a heavy tail: the last rise of the inner bound alone is 2 (20 draws) and 2.5 times (100) too small.
    """
    torch.manual_seed(1)
    exact_chain = chain((4, 3, 2), "nearest")
    model, x = exact_chain.perturbed(0.2), torch.randn(30, 4)
    marginal = MultivariateNormal(exact_chain.mean[4:7], exact_chain.covariance[4:7, 4:7])
    torch.manual_seed(1)
    z, q = model.posterior(x, 100)
    torch.manual_seed(1)
    measured = measure_levels(model, x, draws=100, inner=inner, outer=2)
    true = (q[0].log_prob(z[1]) - marginal.log_prob(z[1])).mean(0)
    excess = (measured.images["chain_kl/z1"] - true).mean().item()
    bias = measured.estimates["chain_kl_bias/z1"]
    assert 0.7 < bias.value / excess < 1.4
    assert 0 < bias.se < 0.1 * bias.value
    assert bias.value == pytest.approx(-measured.estimates["chain_kl_bias/z2"].value)


def test_a_bias_without_a_limit_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    """Two draws have one rise, which shows no limit: the biases are left out, counted, and named in a line."""
    exact_chain = chain((4, 3, 2), "nearest")
    model, x = exact_chain.perturbed(0.3), torch.randn(5, 4)
    with reporting("chain"):
        estimates = measure_levels(model, x, draws=3, inner=2, outer=2).estimates
    terms = {f"{name}/z{t}" for name in ("chain_kl_bias", "gap_bias") for t in (1, 2)}
    missing = terms - set(estimates)
    assert missing == terms
    assert estimates["bias_unmeasured"].value == len(missing)
    line = capsys.readouterr().out
    assert line.startswith("chain: ")
    assert all(name in line for name in missing)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("depth", "inference", "parents"),
    [(1, "bottom_up", "nearest"), (3, "bottom_up", "nearest"), (3, "bottom_up", "every"), (3, "top_down", "nearest")],
)
def test_the_sums_of_the_terms_stand_beside_them(depth: int, inference: str, parents: str) -> None:
    """`levels/gap` is the sum of gap/z_t and log p(x) - elbo of the same images, `levels/kl` that of chain_kl/z_t.

    `inference_gap` is likewise `gaps/log_marginal` - `gaps/elbo`, and the sum of its two parts.
    """
    torch.manual_seed(0)
    data = splits()
    model = build(model_params(depth=depth, parents=parents, inference=inference), torch.full((16,), 0.5))
    actual = decompose(model, torch.as_tensor(data.test), data.scale, PARAMS, FEW)
    value = {name: estimate.value for name, estimate in actual.estimates.items()}
    levels = range(1, depth + 1)
    assert value["levels/gap"] == pytest.approx(sum(value[f"gap/z{t}"] for t in levels), abs=1e-9)
    assert value["levels/gap"] == pytest.approx(value["log_marginal/x"] - value["levels/elbo"], abs=1e-9)
    if "chain_kl/z1" in value:
        assert value["levels/kl"] == pytest.approx(sum(value[f"chain_kl/z{t}"] for t in levels), abs=1e-9)
    assert value["inference_gap"] == pytest.approx(value["gaps/log_marginal"] - value["gaps/elbo"], abs=1e-9)
    parts = [f"{name}_gap" for name in ("approximation", "amortization")]
    assert value["inference_gap"] == pytest.approx(sum(value[name] for name in parts), abs=1e-9)
    for name in ["gap/z1", "levels/kl", "levels/elbo", *parts, *(f"{name}/z{depth}" for name in parts)]:
        assert actual.images[name].shape == (FEW.gap_images if "_gap" in name else FEW.level_images,)
        assert actual.images[name].mean().item() == pytest.approx(value[name], abs=1e-9), name


@pytest.mark.parametrize("parents", ["nearest", "every"])
def test_on_the_models_own_draws_the_bound_is_two_sided(parents: Parents) -> None:
    """The width of the sandwich is 0 to 1e-9 with the exact posterior, and positive and falling in K with another."""
    exact_chain = chain((3, 2, 3, 1), parents)
    for width in two_sided_bound(exact_chain.model, 20, inner=3, outer=3).values():
        assert abs(width.value) < 1e-9
    wrong = exact_chain.perturbed(0.03)
    few, many = (two_sided_bound(wrong, 300, inner=k, outer=k) for k in (2, 50))
    assert set(few) == {"bound_width/x", "bound_width/z1", "bound_width/z2"}
    for name, width in few.items():
        assert width.value > 3 * width.se
        assert many[name].value < 0.75 * width.value


def test_the_closed_form_kl_at_inner_levels_is_not_the_bound() -> None:
    """With the exact posterior of a chain, the closed-form KL to p(z_t|z_t+1) at drawn neighbours misses log p(x).

    log p(x) itself is what the log-ratio rates give. The form known as consistency terms, z_t and z_t+1 independent
    given z_t-1, has the same expectation, which is checked within 4 standard errors.
    """
    exact_chain = chain((3, 2, 2, 2), "nearest")
    model, x = exact_chain.model, torch.randn(4, 3)
    exact = Exact(exact_chain, model, x)
    z, q = model.posterior(x, 4000)
    p = model.joint(z)
    p[-1] = MultivariateNormal(torch.zeros(2), torch.eye(2))  # the same N(0, I), in a form that has a KL to q_T
    drawn = torch.stack([kl_divergence(q_t, p_t.expand(q_t.batch_shape)) for q_t, p_t in zip(q, p[1:], strict=True)])
    wrong = drawn.sum(0)
    consistency = exact.independent_given_below
    se = wrong.std(0) / len(wrong) ** 0.5
    assert ((wrong.mean(0) - consistency.sum(0)).abs() < 4 * se).all()
    reconstruction = exact.p(0, model.depth) - exact.p(1, model.depth)
    torch.testing.assert_close(reconstruction - exact.rates.sum(0), exact_chain.log_p(x), rtol=1e-10, atol=1e-10)
    assert (reconstruction - consistency.sum(0) < exact_chain.log_p(x) - 0.5).all()
    torch.testing.assert_close(consistency[-1], exact.rates[-1])
    torch.testing.assert_close(reconstruction - exact.top_down.sum(0), exact_chain.log_p(x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("parents", ["nearest", "every"])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_the_gaps_of_a_ladder_sum_to_its_gap(depth: int, parents: str) -> None:
    """However few draws stand behind them, the gaps of a ladder sum to log p(x) less the draws' bound."""
    model = build(model_params(depth=depth, parents=parents, inference="top_down"), torch.full((16,), 0.5))
    x = torch.rand(4, 16)
    torch.manual_seed(1)
    bound = elbo(model, x, 3)
    torch.manual_seed(1)
    parts, _ = level_terms(model, x, draws=3, inner=2, outer=2)
    gap = parts["log_marginal/x"][0] - bound.elbo
    torch.testing.assert_close(named(parts, "gap", depth).sum(0), gap, rtol=1e-10, atol=1e-10)


PARAMS = EvaluateParams(
    draws=40,
    k=(1, 40),
    active_draws=20,
    active_threshold=0.01,
    milestone_draws=20,
    precision="float32",
    seed=0,
    decompose=None,
    outliers=None,
    levels=(1,),
)
FEW = DecomposeParams(
    level_images=6,
    level_draws=2,
    inner_draws=4,
    simulated=8,
    queries=10,
    path_draws=3,
    pair_queries=6,
    aggregate="test",
    gap_images=4,
    gap_steps=2,
    gap_draws=2,
    gap_learning_rate=0.1,
    ais_images=3,
    ais_chains=2,
    ais_temperatures=3,
    ais_leapfrog_steps=1,
    factor_images=100,
    factor_draws=2,
)
SIDES = ("lower", "upper")
FLAT = {"chain_kl/z1", "gap/z1", "log_marginal/x", "log_marginal/z1", "bound_width/x"}
MIXED = {"mutual_information", "mutual_information/z1", "marginal_kl", "marginal_kl/z1", "total_correlation/z1"}
INFERENCE = {"approximation_gap", "amortization_gap", "inference_gap", "approximation_gap/z1", "amortization_gap/z1"}
ANNEALED = {f"ais{name}" for name in ("", "/elbo", "/iwae", "/gain", "/acceptance")}
ANNEALED |= {"ais/temperatures", "ais/from_posterior"}
ANNEALED |= {f"bdmc/{name}" for name in ("lower", "upper", "width", "acceptance")}
MIXED |= {"mutual_information/saturated"}
SUMS = {
    "levels/elbo",
    "levels/kl",
    "levels/gap",
    "gaps/elbo",
    "gaps/log_marginal",
    "gap_unconverged",
    "bias_unmeasured",
}
ONE = SUMS | FLAT | MIXED | INFERENCE | ANNEALED | {"total_correlation", "dimension_kl"}
BOTH = {f"total_correlation/{side}" for side in SIDES} | {"approximation_gap/z2", "amortization_gap/z2"}
UPPER = {f"{name}/z2/{side}" for name in ("mutual_information", "marginal_kl", "total_correlation") for side in SIDES}
TWO = SUMS | INFERENCE | ANNEALED | BOTH | {"gap/z1", "gap/z2", "log_marginal/x", "bound_width/x"}
TWO |= {"mutual_information", "mutual_information/saturated", "marginal_kl"}
WITHOUT_ERROR = {
    "mutual_information/saturated",
    "bias_unmeasured",
    "gap_unconverged",
    "ais/temperatures",
    "ais/from_posterior",
}
LADDER = {"mutual_information/z2", "marginal_kl/z2", "total_correlation/z2", "bound_width/z2"}
KEYS = {
    (1, "nearest", "bottom_up"): ONE,
    (1, "every", "bottom_up"): ONE,
    (1, "nearest", "top_down"): ONE,
    (2, "nearest", "bottom_up"): TWO | FLAT | MIXED | UPPER | {"chain_kl/z2", "bound_width/z1"},
    (2, "every", "bottom_up"): TWO | UPPER | {"mutual_information/z1", "total_correlation/z1", "bound_width/z1"},
    (2, "nearest", "top_down"): TWO
    | LADDER
    | {f"{name}/z1/{side}" for name in ("mutual_information", "total_correlation") for side in SIDES},
}


@pytest.mark.slow
@pytest.mark.parametrize(("depth", "parents", "inference"), KEYS)
def test_every_decomposition_of_a_model_is_finite_and_reproducible(depth: int, parents: str, inference: str) -> None:
    """One call gives the keys that exist for the model, all finite, and the same numbers when it is made again."""
    torch.manual_seed(0)
    data = splits()
    model = build(model_params(depth=depth, parents=parents, inference=inference), torch.full((16,), 0.5))
    test = torch.as_tensor(data.test)

    def everything() -> dict[str, Estimate]:
        inputs = (model, test, data.scale, PARAMS, FEW)
        return decompose(*inputs).estimates | anneal(*inputs)

    first = everything()
    torch.manual_seed(5)
    assert everything() == first
    expected = KEYS[depth, parents, inference]
    terms = [name for name in expected if name.startswith(("chain_kl/", "gap/"))]
    biases = {name for name in first if "_bias/" in name}  # but for those that so few draws cannot measure
    assert set(first) == expected | biases
    assert biases <= {name.replace("/", "_bias/") for name in terms}
    assert first["bias_unmeasured"].value == len(terms) - len(biases)
    for name, estimate in first.items():
        assert math.isfinite(estimate.value), name
        assert (estimate.se is None) is (name in WITHOUT_ERROR), name
        assert estimate.se is None or 0 <= estimate.se < math.inf, name


def test_the_surgery_of_training_images_is_limited_by_their_number() -> None:
    """With `aggregate` the surgery is of those images: more of them carry more, and all else stays as it is."""
    torch.manual_seed(0)
    data = splits(rows=400)
    model = build(model_params(), torch.full((16,), 0.5))
    with torch.no_grad():
        model.inference[0].network[-1].weight *= 8
        model.inference[0].network[-1].bias[4:] -= 5
    test, train = torch.as_tensor(data.test), to_unit_interval(torch.as_tensor(data.train), data.scale)
    of_test, of_train = (
        decompose(model, test, data.scale, PARAMS, FEW, aggregate=aggregate).estimates for aggregate in (None, train)
    )
    information = [actual["mutual_information"].value for actual in (of_test, of_train)]
    assert information[0] <= math.log(len(test)) < information[1] <= math.log(len(train)) + 1e-9
    assert of_test["gap/z1"] == of_train["gap/z1"]
