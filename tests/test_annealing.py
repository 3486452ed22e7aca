"""Annealed importance sampling against exact values of log p(x), by closed forms and quadrature; a wrong form fails."""

from __future__ import annotations

import itertools
import math
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.distributions import reparameterize
from pipeline.evaluation import Estimate
from pipeline.evaluation.annealing import (
    PATHS,
    SCHEDULES,
    Path,
    Phase,
    Settings,
    anneal,
    annealed,
    leapfrog,
    sandwich,
    transition,
    tune,
    warning,
)
from pipeline.evaluation.annealing.measure import lengthen
from pipeline.evaluation.bounds import importance_bound
from pipeline.models import HierarchicalVAE, build
from tests.linear_gaussian import Chain, chain
from tests.small import covering, model_params

pytestmark = pytest.mark.usefixtures("float64")

WIDTHS = (3, 2, 2, 2)


def linear(depth: int, parents: Any = "nearest") -> Chain:
    """Return a linear-Gaussian chain of three pixels whose log p(x) is known."""
    torch.manual_seed(depth)
    return chain(WIDTHS[: depth + 1], parents)


def settings(**changes: Any) -> Settings:
    """Return short chains, many of them."""
    return Settings(**{"temperatures": 30, "chains": 500, "leapfrog": 5, "seed": 3} | changes)


def error(values: Tensor) -> float:
    """Return the standard error of the mean of independent values."""
    return values.std().item() / len(values) ** 0.5


def gaussian(precision: Tensor, mean: Tensor) -> Any:
    """Return log N(mean, precision^-1) up to a constant."""
    return lambda eps: -(((eps - mean) @ precision) * (eps - mean)).sum(-1) / 2


# Non-centred coordinates


@pytest.mark.parametrize("parents", ["nearest", "every"])
def test_standard_noise_gives_the_model(parents: str) -> None:
    """At noise N(0, I) the nodes have the moments of p(z_1:T), within 4 standard errors."""
    exact, n = linear(3, parents), 40_000
    z, p = exact.model.decode_noncentered([torch.randn(n, width) for width in WIDTHS[1:]])
    nodes, prior = torch.cat(z, dim=1), exact.prior()
    spread = prior.variance.sqrt()
    assert ((nodes.mean(0) - prior.mean).abs() < 4 * spread / n**0.5).all()
    assert ((nodes.T.cov() - prior.covariance_matrix).abs() < 4 * 2**0.5 * spread * spread[:, None] / n**0.5).all()
    assert len(p) == len(z) + 1


def test_only_a_gaussian_has_non_centred_coordinates() -> None:
    """A distribution that is no Gaussian is refused."""
    with pytest.raises(ValueError, match="Laplace"):
        reparameterize(torch.distributions.Laplace(torch.zeros(2), torch.ones(2)), torch.zeros(2))


# Hamiltonian transitions


def curved(eps: Tensor) -> Tensor:
    """Return a log-density that is not Gaussian."""
    return -(eps.square().sum(-1) / 2 + eps.pow(4).sum(-1) / 10 + torch.sin(eps).prod(-1))


def test_the_leapfrog_runs_backwards() -> None:
    """From its end with the momentum turned round it returns to its start within 1e-10."""
    start = Phase.at(curved, torch.randn(5, 2, 3), torch.randn(5, 2, 3))
    end = leapfrog(curved, start, torch.full((2,), 0.1), 20)
    again = leapfrog(curved, Phase(end.eps, -end.momentum, end.log_f, end.gradient), torch.full((2,), 0.1), 20)
    assert (end.eps - start.eps).abs().max() > 0.1
    assert (again.eps - start.eps).abs().max() < 1e-10
    assert (again.momentum + start.momentum).abs().max() < 1e-10


def test_the_energy_error_is_of_second_order() -> None:
    """Over the same time the energy error is divided by 4 within 5 % when the step is halved."""
    start = Phase.at(curved, torch.randn(200, 1, 3), torch.randn(200, 1, 3))
    errors = []
    for halvings in range(4):
        end = leapfrog(curved, start, torch.tensor(0.1 / 2**halvings), 10 * 2**halvings)
        errors.append((end.energy - start.energy).abs().mean())
    for coarse, fine in itertools.pairwise(errors):
        assert coarse / fine == pytest.approx(4, rel=0.05)


@pytest.mark.parametrize("correlation", [0.0, 0.8])
@pytest.mark.parametrize("step", [0.3, 0.9])
def test_a_transition_leaves_a_gaussian_invariant(correlation: float, step: float) -> None:
    """After 10 moves, at a step where many are rejected, all moments to order 2 hold within 4 standard errors."""
    n = 20_000
    covariance = torch.tensor([[1.0, correlation], [correlation, 1.0]])
    mean = torch.tensor([0.5, -1.0]) * correlation
    target = torch.distributions.MultivariateNormal(mean, covariance)
    eps = target.sample((n, 1))
    log_f = gaussian(torch.linalg.inv(covariance), mean)
    for _ in range(10):
        eps, probability = transition(log_f, eps, torch.tensor(step), 3)
    assert step < 0.5 or correlation == 0 or probability.mean() < 0.9
    moved = eps[:, 0] - mean
    assert (moved.mean(0).abs() < 4 / n**0.5).all()
    assert ((moved.T @ moved / n - covariance).abs() < 4 * 2**0.5 / n**0.5).all()


def test_a_transition_finds_its_target() -> None:
    """From far away 50 moves reach the mean and variance of N(2, 0.25), within 4 standard errors."""
    n = 5_000
    eps = torch.full((n, 1, 1), -3.0)
    for _ in range(50):
        eps, _ = transition(gaussian(torch.tensor([[4.0]]), torch.tensor([2.0])), eps, torch.tensor(0.3), 4)
    assert abs(eps.mean() - 2) < 4 * 0.5 / n**0.5
    assert abs(eps.var() - 0.25) < 4 * 0.25 * (2 / n) ** 0.5


def test_a_trajectory_that_diverges_is_rejected() -> None:
    """With a step far beyond the limit of stability no chain moves, and no number is lost."""
    eps = torch.randn(20, 2, 3)
    moved, probability = transition(curved, eps, torch.tensor(50.0), 20)
    assert torch.equal(moved, eps)
    assert probability.sum() == 0


def test_tuned_steps_are_accepted_as_often_as_aimed_at() -> None:
    """On a narrow posterior the tuned steps are accepted with probability 0.55 to 0.8."""

    def terms(eps: Tensor) -> tuple[Tensor, Tensor]:
        return -eps.square().sum(-1) / 2, -5000 * eps.square().sum(-1)

    path = Path(terms, lambda chains: torch.randn(chains, 1, 2))
    betas = SCHEDULES["sigmoid"](100)
    steps = tune(path, path.draw(200), betas, 3)
    eps = 10_001**-0.5 * torch.randn(2_000, 1, 2)
    _, probability = transition(path.at(1.0), eps, steps[-1], 3)
    assert steps.shape == (99, 1)
    assert 0.55 < probability.mean() < 0.8


# Weights


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_rises_from_0_to_1(name: str) -> None:
    """A schedule of K intervals has K + 1 temperatures, rising from exactly 0 to exactly 1."""
    for temperatures in (1, 2, 100):
        betas = SCHEDULES[name](temperatures)
        assert len(betas) == temperatures + 1
        assert (betas[0], betas[-1]) == (0, 1)
        assert (betas.diff() > 0).all()


def test_at_temperature_zero_nothing_is_weighed() -> None:
    """With beta 0 throughout every log-weight is exactly 0."""
    exact = linear(2)
    path = PATHS["prior"](exact.model, torch.randn(4, 3))
    weights = anneal(path, path.draw(10), torch.zeros(6), torch.full((4, 4), 0.3), 3)
    assert torch.equal(weights.log_weight, torch.zeros(10, 4))


@pytest.mark.slow
@covering(
    "depth, way, parents",
    [1, 2, 3],
    [("prior", "sigmoid"), ("prior", "geometric"), ("posterior", "sigmoid")],
    ["nearest", "every"],
)
def test_the_mean_weight_is_the_evidence(depth: int, parents: str, way: tuple[str, str]) -> None:
    """On linear-Gaussian chains w / p(x) has mean 1 and log w at most log p(x), within 3 standard errors."""
    exact = linear(depth, parents)
    x = exact.model.sample(1)[0]
    results = sandwich(exact.perturbed(0.3), x, settings(chains=4_000, start=way[0], schedule=way[1]))
    log_ratio = (results.up.log_weight - exact.log_p(x))[:, 0]
    assert abs(log_ratio.exp().mean() - 1) < 3 * error(log_ratio.exp())
    assert log_ratio.mean() < 3 * error(log_ratio)


@pytest.mark.parametrize("depth", [1, *(pytest.param(depth, marks=pytest.mark.nightly) for depth in (2, 3))])
def test_the_mean_weight_downwards_is_the_inverse_evidence(depth: int) -> None:
    """One chain down from each of 8000 exact posterior draws of one x has mean w p(x) equal to 1 within 3 errors."""
    exact = linear(depth)
    path = PATHS["prior"](exact.model, x := exact.model.sample(1)[0])
    z = exact.posterior(x).sample((8_000,)).split(WIDTHS[1 : depth + 1], dim=-1)
    p = exact.model.joint([x[None], *z])[1:]
    eps = [
        torch.linalg.solve_triangular(
            torch.linalg.cholesky(p_t.covariance_matrix), (z_t - p_t.mean)[..., None], upper=False
        )
        for p_t, z_t in zip(p[:-1], z[:-1], strict=True)
    ]
    noise = torch.cat([*(eps_t[..., 0] for eps_t in eps), z[-1]], dim=-1)
    betas = SCHEDULES["sigmoid"](20)
    steps = tune(path, path.draw(10), betas, 2)
    log_weight = anneal(path, noise, betas.flip(0), steps.flip(0), 2).log_weight + exact.log_p(x)
    assert abs(log_weight.exp().mean() - 1) < 3 * error(log_weight.exp()[:, 0])


@pytest.mark.parametrize("parents", ["nearest", "every"])
def test_chains_from_an_exact_posterior_all_weigh_the_evidence(parents: str) -> None:
    """Where q is the true posterior each chain from it has the weight p(x), in both directions, within 1e-9 nats."""
    exact = linear(3, parents)
    results = sandwich(exact.model, 5, settings(temperatures=4, chains=2, leapfrog=2, start="posterior"))
    evidence = exact.log_p(results.x)
    assert (results.up.log_weight - evidence).abs().max() < 1e-9
    assert (results.upper - evidence).abs().max() < 1e-9


@pytest.mark.parametrize("inference", ["bottom_up", "top_down"])
def test_a_single_temperature_from_the_posterior_gives_the_importance_bound(inference: str) -> None:
    """With one interval the chains from q have the log-weights of the bound at the same noise, within 1e-9 nats."""
    torch.manual_seed(2)
    model = build(model_params(depth=2, widths=(3, 2), inference=inference), torch.full((6,), 0.4))
    x = torch.rand(4, 6).round()
    noise = [torch.randn(7, 4, width) for width in (3, 2)]
    z, q = model.posterior(x, 7, noise=noise)
    log_p = [p_t.log_prob(z_t) for p_t, z_t in zip(model.joint(z), z, strict=True)]
    log_q = [q_t.log_prob(z_t) for q_t, z_t in zip(q, z[1:], strict=True)]
    weights = anneal(PATHS["posterior"](model, x), torch.cat(noise, -1), SCHEDULES["sigmoid"](1), torch.zeros(0, 4), 1)
    assert (weights.log_weight - (sum(log_p) - sum(log_q))).abs().max() < 1e-9
    again = PATHS["posterior"](model, x).locate(torch.zeros(4, 5), [node[0] for node in z[1:]])
    assert (again - torch.cat(noise, -1)[0]).abs().max() < 1e-9


@pytest.mark.nightly
@pytest.mark.parametrize(
    "depth", [pytest.param(1, marks=pytest.mark.nightly), 2, pytest.param(3, marks=pytest.mark.nightly)]
)
def test_the_sandwich_holds_the_truth(depth: int) -> None:
    """On linear-Gaussian chains the bounds hold log p(x) of simulated x, within 3 errors, 0.01 nats apart at most."""
    exact = linear(depth)
    results = sandwich(exact.model, 10, settings(temperatures=300, chains=40))
    evidence = exact.log_p(results.x)
    below, above = results.lower - evidence, results.upper - evidence
    assert below.mean() < 3 * error(below)
    assert above.mean() > -3 * error(above)
    assert abs(results.width.mean()) < 0.01


@pytest.mark.slow
def test_fewer_temperatures_widen_the_sandwich() -> None:
    """With 3 temperatures in place of 20 the sandwich of single chains is wider by more than 3 standard errors."""
    exact = linear(2)
    few, many = (
        sandwich(exact.model, 100, settings(temperatures=temperatures, chains=2, leapfrog=2)).width
        for temperatures in (3, 20)
    )
    assert few.mean() - many.mean() > 3 * (error(few) ** 2 + error(many) ** 2) ** 0.5


def test_real_examples_have_no_upper_bound() -> None:
    """For examples that were given, not simulated, the upper bound and the width are refused."""
    exact = linear(1)
    results = sandwich(exact.model, exact.model.sample(2)[0], settings(temperatures=2, chains=2, leapfrog=1))
    assert results.lower.shape == (2,)
    for name in ("upper", "width"):
        with pytest.raises(ValueError, match="simulated"):
            getattr(results, name)


# A non-linear model


def bent(widths: tuple[int, ...]) -> HierarchicalVAE:
    """Return a model of six binary pixels that is far from linear."""
    torch.manual_seed(5)
    model = build(model_params(depth=len(widths), widths=widths, z_dim=1), torch.full((6,), 0.4))
    with torch.no_grad():
        for parameter in model.generative.parameters():
            parameter.mul_(2.5).add_(0.3 * torch.randn_like(parameter))
    return model


@torch.no_grad()
def by_quadrature(model: HierarchicalVAE, x: Tensor, units: int) -> Tensor:
    """Return log p(x) of each example by the trapezoidal rule over the noise of `units` units."""
    line = torch.linspace(-8, 8, 401)
    grid = torch.cartesian_prod(*[line] * units).reshape(-1, 1, units)
    return torch.logsumexp(sum(PATHS["prior"](model, x).terms(grid)), 0) + units * math.log(16 / 400)


@pytest.mark.slow
@pytest.mark.parametrize(
    "widths", [*(pytest.param(widths, marks=pytest.mark.nightly) for widths in ((1,), (2,))), (1, 1)]
)
def test_binary_images_agree_with_quadrature(widths: tuple[int, ...]) -> None:
    """On a non-linear model with 1 or 2 latent units the mean weight is p(x) by quadrature, within 3 errors."""
    model = bent(widths)
    x = torch.tensor([[1.0, 0, 1, 0, 0, 1], [0, 0, 0, 0, 0, 0], [1, 1, 0, 1, 1, 1]])
    log_ratio = sandwich(model, x, settings(chains=2_000)).up.log_weight - by_quadrature(model, x, sum(widths))
    for w in log_ratio.exp().T:
        assert abs(w.mean() - 1) < 3 * error(w)
    assert (log_ratio.std(0) > 0.01).all()


@pytest.mark.slow
@covering("widths, start", [(2,), (1, 1)], list(PATHS))
def test_the_sandwich_of_simulated_images_holds_the_quadrature(widths: tuple[int, ...], start: str) -> None:
    """On a non-linear model the bounds hold log p(x) by quadrature within 3 errors, which are small.

    The model is not trained, so that chains from its q have heavier tails than those from the prior.
    """
    model = bent(widths)
    results = sandwich(model, 20, settings(temperatures=50, chains=100, leapfrog=3, start=start))
    evidence = by_quadrature(model, results.x, sum(widths))
    below, above = results.lower - evidence, results.upper - evidence
    assert max(error(below), error(above)) < {"prior": 0.03, "posterior": 0.1}[start]
    assert below.mean() < 3 * error(below)
    assert above.mean() > -3 * error(above)


# The wrong form


def spike(width: float) -> Path:
    """Return a path from N(0, 1) to a posterior with a spike of that width at 0, on a floor."""

    def terms(eps: Tensor) -> tuple[Tensor, Tensor]:
        normal = torch.distributions.Normal
        peak = math.log(0.5) + normal(0.0, width).log_prob(eps[..., 0])
        return normal(0.0, 1.0).log_prob(eps[..., 0]), torch.logaddexp(peak, torch.full_like(peak, math.log(0.05)))

    return Path(terms, lambda chains: torch.randn(chains, 1, 1))


def adapted(path: Path, eps: Tensor, betas: Tensor, count: int) -> Tensor:
    """Return log-weights in the wrong form: each chain's step follows its own acceptance while it is weighed."""
    step, log_weight = torch.full(eps.shape[:2], 0.5), torch.zeros(eps.shape[:2])
    for k, beta in enumerate(betas[1:].tolist()):
        log_weight += (betas[k + 1] - betas[k]) * path.ratio(eps)
        moved, _ = transition(path.at(beta), eps, step, count)
        accepted = (moved != eps).any(-1)
        eps, step = moved, torch.where(accepted, step * 1.5, step / 1.5).clamp(1e-3, 1.5)
    return log_weight


def test_steps_adapted_inside_a_weighted_chain_are_biased_and_frozen_ones_are_not() -> None:
    """On a spike the mean weight is 20 % too low and 10 standard errors off where chains adapt, within 3 where frozen.

    A chain on the spike rejects large steps, shrinks them and so stays there; one on the floor accepts them. The step
    then reveals where the chain is, and the move no longer leaves f_beta invariant.
    """
    path, betas, n = spike(0.05), SCHEDULES["sigmoid"](50), 10_000
    log_z = math.log(0.5 / math.sqrt(2 * math.pi * (1 + 0.05**2)) + 0.05)
    wrong = (adapted(path, path.draw(n), betas, 1) - log_z).exp()[:, 0]
    steps = tune(path, path.draw(100), betas, 1)
    right = (anneal(path, path.draw(n), betas, steps, 1).log_weight - log_z).exp()[:, 0]
    assert wrong.mean() < 0.8
    assert wrong.mean() - 1 < -10 * error(wrong)
    assert abs(right.mean() - 1) < 3 * error(right)


# The entry points


@pytest.mark.slow
def test_the_keys_and_their_identities() -> None:
    """Differences are those of the keys they name, errors are positive, and rates of acceptance lie in (0, 1)."""
    model, test = bent((2, 1)), torch.randint(2, (6, 6), dtype=torch.uint8)
    results = annealed(model, test.double(), settings(temperatures=4, chains=9, leapfrog=1), simulated=3, draws=50)
    names = ["ais", "ais/elbo", "ais/iwae", "ais/gain", "ais/temperatures", "ais/from_posterior"]
    names += ["ais/acceptance", "bdmc/lower", "bdmc/upper", "bdmc/width", "bdmc/acceptance"]
    assert list(results) == names
    assert all(isinstance(results[name], Estimate) for name in names)
    counts = ("ais/temperatures", "ais/from_posterior")
    assert all((results[name].se is None) is (name in counts) for name in names)
    width = results["bdmc/upper"].value - results["bdmc/lower"].value
    assert results["bdmc/width"].value == pytest.approx(width, abs=1e-12)
    assert results["ais/gain"].value == pytest.approx(results["ais"].value - results["ais/iwae"].value, abs=1e-12)
    assert results["ais/gain"].se == pytest.approx(math.hypot(results["ais"].se, results["ais/iwae"].se))
    assert all(0 < results[f"{name}/acceptance"].value < 1 for name in ("ais", "bdmc"))


@pytest.mark.slow
def test_chains_of_given_and_of_simulated_images_draw_from_different_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    """No two runs of one measurement share a stream of random numbers: their errors are independent."""
    module = sys.modules["pipeline.evaluation.annealing.sandwich"]
    streams, seeded = [], module.seeded
    monkeypatch.setattr(module, "seeded", lambda seed, stream: streams.append(stream) or seeded(seed, stream))
    annealed(bent((2,)), torch.rand(2, 6).round(), settings(temperatures=4, chains=2, leapfrog=1), simulated=2, draws=4)
    assert len(streams) == len(set(streams)) == 5  # two starts, a doubling, new chains, simulated images


@pytest.mark.slow
def test_temperatures_are_doubled_until_the_bound_stands_still() -> None:
    """From an exact posterior the first doubling is the last one; short chains from the prior use all there are."""
    exact = linear(2)
    x = exact.model.sample(6)[0]
    still = annealed(exact.model, x, settings(temperatures=100, chains=3, leapfrog=2), simulated=2, draws=20)
    assert (still["ais/temperatures"].value, still["ais/from_posterior"].value) == (13, 1)
    assert still["ais"].value == pytest.approx(exact.log_p(x).mean().item(), abs=1e-9)
    moving = annealed(exact.model, x, settings(temperatures=6, chains=2), simulated=2, draws=20, starts=["prior"])
    assert (moving["ais/temperatures"].value, moving["ais/from_posterior"].value) == (6, 0)
    assert still["bdmc/width"].value == pytest.approx(0, abs=1e-9)


@pytest.mark.slow
def test_the_start_with_the_higher_bound_is_used() -> None:
    """Where q lies far from the true posterior the chains start at the prior."""
    exact = linear(1)
    x, model = exact.model.sample(6)[0], exact.perturbed(0.3)
    model.inference[0].offset = model.inference[0].offset + 100
    results = annealed(model, x, settings(temperatures=4, chains=10, leapfrog=2), simulated=2, draws=20)
    assert results["ais/from_posterior"].value == 0
    assert results["ais/gain"].value > 2 * results["ais/gain"].se


@pytest.mark.slow
def test_chains_that_are_too_short_get_a_warning() -> None:
    """Chains of two temperatures from the prior lie below L_k: a line says by how much, and what helps."""
    exact = linear(3)
    x, shortest = exact.model.sample(400)[0], settings(temperatures=2, chains=10, leapfrog=1)
    short = annealed(exact.model, x, shortest, simulated=2, draws=50, starts=["prior"])
    gain = short["ais/gain"]
    assert gain.value < -2 * gain.se
    assert warning(short).startswith(f"annealing with 2 temperatures lies {-gain.value:.3f} nats")
    assert "evaluate.decompose.ais_temperatures" in warning(short)
    assert warning({}) == warning({"ais/gain": Estimate(-0.1, 0.1)}) == ""


@pytest.mark.nightly
@pytest.mark.slow
def test_the_reported_error_is_the_spread_of_many_runs() -> None:
    """Over 20 runs the value of `ais` deviates by 0.6 to 1.6 of its reported standard error from the exact mean.

    The runs are copies of four images, whose chains are independent, in one call.
    """
    exact = linear(2)
    test = torch.randint(100, (4, 3), dtype=torch.uint8)
    x, model = test / 100, exact.perturbed(0.3)
    chains = lengthen(model, x.repeat(20, 1), settings(temperatures=4, chains=100, leapfrog=2)).chains
    terms = importance_bound(chains.up.log_weight, 100)
    runs = [Estimate.mean(*(term[first : first + 4] for term in terms)) for first in range(0, 80, 4)]
    deviations = torch.tensor([(run.value - exact.log_p(x).mean().item()) / run.se for run in runs])
    assert 0.6 < deviations.std() < 1.6


def test_a_seed_gives_one_result_and_leaves_the_caller_alone() -> None:
    """Two calls of one seed agree bit for bit, another seed differs, and the caller's random state is untouched."""
    model = bent((2,))
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    few = settings(temperatures=4, chains=5, leapfrog=1)
    first, second = (sandwich(model, 3, few) for _ in range(2))
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(first.up.log_weight, second.up.log_weight)
    assert torch.equal(first.upper, second.upper)
    assert not torch.equal(first.lower, sandwich(model, 3, replace(few, seed=4)).lower)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.nightly
def test_passes_of_few_rows_give_the_same_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Split into passes over examples and over chains, the shapes are the same and the mean weight still p(x)."""
    exact = linear(2)
    monkeypatch.setattr(sys.modules["pipeline.evaluation.annealing.sandwich"], "ROWS", 100)
    results = sandwich(exact.model, 3, settings(chains=300))
    assert results.up.log_weight.shape == (300, 3)
    for w in (results.up.log_weight - exact.log_p(results.x)).exp().T:
        assert abs(w.mean() - 1) < 3 * error(w)


def test_single_precision_agrees_with_double() -> None:
    """In float32 the bound of a small model is that in float64 within 0.05 nats; log-weights are summed in float64."""
    model, x = bent((2,)), torch.tensor([[1.0, 0, 1, 0, 0, 1]])
    many = settings(temperatures=8, chains=2000, leapfrog=2)
    double = sandwich(model, x, many).lower
    single = sandwich(model.float(), x.float(), many)
    assert single.up.log_weight.dtype == torch.float64
    assert single.lower.item() == pytest.approx(double.item(), abs=0.05)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"temperatures": 0}, "temperatures must be at least 1"),
        ({"chains": 1}, "chains must be at least 2"),
        ({"leapfrog": 0}, "leapfrog must be at least 1"),
        ({"schedule": "linear"}, "schedule must be one of sigmoid, geometric"),
        ({"start": "nowhere"}, "start must be one of posterior, prior"),
    ],
)
def test_settings_out_of_range_are_refused(change: dict[str, Any], words: str) -> None:
    """A setting out of its range raises and names what is allowed."""
    with pytest.raises(ValueError, match=words):
        settings(**change)
