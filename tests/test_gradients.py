"""Gradients of the objectives against exact ones, and what free bits and staggered warm-up weigh."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal, kl_divergence

from pipeline.distributions import StandardNormal, bottom_up_pass, merge
from pipeline.models import HierarchicalVAE, build
from pipeline.objectives import ELBO, OBJECTIVES, PATHWISE, beta_at, elbo, pathwise_terms, training_objective
from pipeline.training import fit
from tests.linear_gaussian import Diagonal, cubature, inferred
from tests.linear_gaussian import exact as exact_chain
from tests.small import covering, model_params, splits, train_params

pytestmark = pytest.mark.usefixtures("float64")

BLOCKS, ROWS = 100, 400


class Unit(nn.Module):
    """N(w parent + c, s^2) of one unit, with weights that gradients reach; the nearest parent alone."""

    def __init__(self, w: Tensor, c: Tensor, s: Tensor) -> None:
        super().__init__()
        self.w, self.c, self.s = (nn.Parameter(value.reshape(1).clone()) for value in (w, c, s))

    def forward(self, parent: Tensor) -> Distribution:
        return Independent(Normal(self.w * parent + self.c, self.s.expand(1)), 1)


def chain(depth: int) -> tuple[HierarchicalVAE, Normal]:
    """Return a linear-Gaussian chain of one unit a level with its exact posterior, and p(x).

    S_T = 1, S_{t-1} = a_t^2 S_t + s_t^2; p(z_t|z_{t-1}) has gain g = a_t S_t / S_{t-1} and variance S_t - g a_t S_t.
    """
    a, c, s = 0.5 + torch.rand(depth), torch.randn(depth), 0.3 + torch.rand(depth)
    mean, variance = [torch.zeros(())], [torch.ones(())]
    inference = []
    for t in range(depth - 1, -1, -1):
        m, v = mean[0], variance[0]
        mean.insert(0, a[t] * m + c[t])
        variance.insert(0, a[t] ** 2 * v + s[t] ** 2)
        gain = a[t] * v / variance[0]
        inference.insert(0, Unit(gain, m - gain * mean[0], (v - gain * a[t] * v).sqrt()))
    generative = [*(Unit(a[t], c[t], s[t]) for t in range(depth)), StandardNormal(1)]
    return HierarchicalVAE(generative, inference, "nearest"), Normal(mean[0], variance[0].sqrt())


def gradients(model: nn.Module, value: Tensor) -> Tensor:
    """Return the gradient of a number in all weights, one after another."""
    parts = torch.autograd.grad(value, list(model.parameters()), allow_unused=True)
    return torch.cat(
        [
            torch.zeros_like(w).flatten() if g is None else g.flatten()
            for g, w in zip(parts, model.parameters(), strict=True)
        ]
    )


def sampled(model: HierarchicalVAE, objective: str, x: Tensor, draws: int) -> tuple[Tensor, Tensor]:
    """Return the mean gradient of an objective at one example, and its standard error."""
    measure = pathwise_terms if objective in PATHWISE else elbo
    rows = x.expand(ROWS, -1)
    blocks = torch.stack(
        [gradients(model, OBJECTIVES[objective](measure(model, rows, draws), 1.0).mean()) for _ in range(BLOCKS)]
    )
    return blocks.mean(0), blocks.std(0) / BLOCKS**0.5


def agree(actual: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor] | Tensor) -> None:
    """Assert that two gradients agree within 4 standard errors."""
    value, error = (expected, torch.zeros(())) if isinstance(expected, Tensor) else expected
    total = (actual[1] ** 2 + error**2).sqrt()
    assert ((actual[0] - value).abs() <= 4 * total + 1e-12).all()
    assert (value.abs() > 10 * total).any()  # there is something to agree on


def perturbed(model: HierarchicalVAE) -> HierarchicalVAE:
    """Move every weight of the inference off its best value."""
    with torch.no_grad():
        for value in model.inference.parameters():
            value += 0.2 * torch.rand_like(value)
    return model


def small(spread: float = 0.5, **changes: Any) -> HierarchicalVAE:
    """Build a model of two pixels with one unit a level, away from its start."""
    built = build(model_params(**{"widths": (1, 1), "hidden": ((2,),)} | changes), torch.tensor([0.3, 0.6]))
    with torch.no_grad():
        for value in built.parameters():
            value += spread * torch.randn_like(value)
    return built


X = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
HIERARCHIES: dict[str, dict[str, Any]] = {
    "chain": {},
    "every": {"parents": "every"},
    "ladder": {"inference": "top_down"},
    "vamp": {"prior": "vamp"},
    "deep ladder": {"inference": "top_down", "parents": "every", "depth": 3, "widths": (1, 1, 1)},
}


# --- Exact gradients by quadrature


def quadrature(model: HierarchicalVAE, x: Tensor, k: int) -> Tensor:
    """Return L_k of a model of one level and unit, k 1 or 2, by Gauss-Hermite nodes of the posterior's noise."""
    nodes, weights = (torch.tensor(v) for v in np.polynomial.hermite_e.hermegauss(80))
    weights = weights / weights.sum()
    (q,) = model.posterior(x)[1]
    z = q.mean + q.stddev * nodes[:, None, None]
    p_x, p_z = model.joint([x[None], z])
    log_w = (p_x.log_prob(x[None]) + p_z.log_prob(z) - q.log_prob(z))[:, 0]
    if k == 1:
        return (weights * log_w).sum()
    pairs = torch.logaddexp(log_w[:, None], log_w) - math.log(2)
    return (weights[:, None] * weights * pairs).sum()


@pytest.mark.slow
@covering("objective, prior", [("elbo", 1), ("stl", 1), ("iwae", 2), ("dreg", 2)], ["normal", "vamp"])
def test_expected_gradients_are_those_of_quadrature(objective: tuple[str, int], prior: str) -> None:
    """In a non-linear model of one unit the mean gradient is that of the integral, within 4 standard errors."""
    name, k = objective
    model = small(depth=1, widths=(1,), prior=prior)
    exact = gradients(model, quadrature(model, X, k))
    agree(sampled(model, name, X, k), exact)


@pytest.mark.slow
def test_the_gradient_of_the_elbo_is_that_of_its_closed_form() -> None:
    """In a linear-Gaussian VAE elbo and stl have the gradient of E log p(x|z) - KL in closed form."""
    model, evidence = chain(1)
    perturbed(model)
    x = evidence.mean.reshape(1, 1) + 1
    up, down = model.inference[0], model.generative[0]
    mu, error = up.w * x + up.c, x - down.c
    reconstruction = Normal(down.w * mu, down.s).log_prob(error) - 0.5 * (down.w * up.s / down.s) ** 2
    kl = 0.5 * (mu**2 + up.s**2 - 1) - up.s.log()
    exact = gradients(model, (reconstruction - kl).sum())
    for objective in ("elbo", "stl"):
        agree(sampled(model, objective, x, 2), exact)


def at_noise(model: HierarchicalVAE, x: Tensor, noise: Tensor) -> Tensor:
    """Return the log-weight of one example at the given noise of q, [nodes, depth], one unit a level."""
    eps = [column[:, None, None] for column in noise.T]
    if model.direction == "top_down":
        *evidence, q = bottom_up_pass(model.inference, x[None])
        z, log_q = [q.mean + q.stddev * eps[-1]], q.log_prob(q.mean + q.stddev * eps[-1])
        for t in range(model.depth - 1, 0, -1):
            q = merge(model.generative[t](*(z if model.parents == "every" else z[:1])), evidence[t - 1])
            z.insert(0, q.mean + q.stddev * eps[t - 1])
            log_q = log_q + q.log_prob(z[0])
        z.insert(0, x[None])
    else:
        z, log_q = [x[None]], torch.zeros(())
        for rung, e in zip(model.inference, eps, strict=True):
            q = rung(*(z[::-1] if model.parents == "every" else z[-1:]))
            z.append(q.mean + q.stddev * e)
            log_q = log_q + q.log_prob(z[-1])
    log_p = sum(p_t.log_prob(z_t) for p_t, z_t in zip(model.joint(z), z, strict=True))
    return (log_p - log_q)[:, 0]


def gauss_hermite(depth: int, points: int) -> tuple[Tensor, Tensor]:
    """Return nodes [n, depth] and weights of the mean over N(0, I), leaving out weights that round to nothing."""
    nodes, weights = (torch.tensor(v) for v in np.polynomial.hermite_e.hermegauss(points))
    grid = torch.cartesian_prod(*[nodes] * depth).reshape(-1, depth)
    each = torch.cartesian_prod(*[weights / weights.sum()] * depth).reshape(-1, depth)
    saved = each.prod(1) > 1e-10
    return grid[saved], each.prod(1)[saved]


def bound_of_two(model: HierarchicalVAE, x: Tensor, points: int) -> Tensor:
    """Return L_2, the mean over all pairs of nodes."""
    grid, weights = gauss_hermite(model.depth, points)
    log_w = at_noise(model, x, grid)
    return weights @ (torch.logaddexp(log_w[:, None], log_w) - math.log(2)) @ weights


BY_DAY = {("chain", "dreg"), ("ladder", "stl")}
POINTS = {"chain": 44, "every": 44, "ladder": 44, "vamp": 56, "linear chain": 12}


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind",
    ["ladder", "vamp", *(pytest.param(kind, marks=pytest.mark.nightly) for kind in ("chain", "every", "linear chain"))],
)
def test_in_hierarchies_expected_gradients_are_those_of_quadrature(kind: str) -> None:
    """The mean gradients of iwae and dreg at k = 2 are those of L_2 by quadrature, within 4 standard errors.

    In every weight of models of two levels, and of a linear chain of three. With fewer nodes the quadrature's own
    gradient moves by less than 5 % of the largest standard error.
    """
    model, x = (small(0.2, **HIERARCHIES[kind]), X) if kind in HIERARCHIES else (perturbed(chain(3)[0]), X[:, :1])
    exact = gradients(model, bound_of_two(model, x, POINTS[kind]))
    fewer = gradients(model, bound_of_two(model, x, POINTS[kind] - 2))
    for objective in ("iwae", "dreg"):
        actual = sampled(model, objective, x, 2)
        agree(actual, exact)
        assert (exact - fewer).abs().max() < 0.05 * actual[1].max()


def learned_chain(depth: int) -> tuple[HierarchicalVAE, tuple[int, ...]]:
    """Return a linear-Gaussian chain of random widths, all weights learned, its posterior wrong in all of them."""
    widths = tuple(torch.randint(1, 4, (depth + 1,)).tolist())
    steps = list(pairwise(widths))

    def rung(outputs: int, inputs: int) -> Diagonal:
        return Diagonal(torch.randn(outputs, inputs) / inputs**0.5, torch.randn(outputs), 0.5 + torch.rand(outputs))

    generative = [*(rung(below, this) for below, this in steps), StandardNormal(widths[-1])]
    return HierarchicalVAE(generative, [rung(this, below) for below, this in steps], "nearest"), widths


def closed_gradient(model: HierarchicalVAE, widths: tuple[int, ...], x: Tensor) -> Tensor:
    """Return the gradient of log p(x) - KL(q(z_1:T|x) || p(z_1:T|x)) in closed form, in every weight of p and q."""
    linear = exact_chain(model.generative, widths, "nearest")
    return gradients(model, (linear.log_p(x) - kl_divergence(inferred(model, x), linear.posterior(x))).sum())


@pytest.mark.parametrize("depth", range(1, 7))
@pytest.mark.parametrize("objective", ["elbo", "stl"])
def test_in_chains_the_expected_gradient_has_a_closed_form(objective: str, depth: int) -> None:
    """For 1 to 6 levels elbo and stl have the closed form's gradient in every weight of p and q, to 1e-9.

    Either gradient is quadratic in the noise of q, so that its mean over cubature nodes is exact.
    """
    model, widths = learned_chain(depth)
    x = torch.randn(3, widths[0])
    expected = closed_gradient(model, widths, x)
    measure = pathwise_terms if objective in PATHWISE else elbo
    actual = gradients(model, OBJECTIVES[objective](measure(model, x, cubature(model)), 1.0).sum())
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)
    assert (expected.abs() > 1e-3).all()


@pytest.mark.slow
@pytest.mark.parametrize("depth", [2, 3])
@pytest.mark.parametrize("objective", ["elbo", "stl"])
def test_in_chains_sampled_gradients_are_the_closed_form(objective: str, depth: int) -> None:
    """With two levels and three the mean of sampled gradients is the closed form's, within 4 standard errors."""
    model, widths = learned_chain(depth)
    x = torch.randn(1, widths[0])
    agree(sampled(model, objective, x, 2), closed_gradient(model, widths, x))


# --- Against each other, in hierarchies


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "objectives"),
    [
        pytest.param(kind, one, marks=() if (kind, one[0]) in BY_DAY else pytest.mark.nightly)
        for kind in HIERARCHIES
        for one in (("stl", "elbo", 1), ("dreg", "iwae", 3))
    ],
)
def test_in_hierarchies_the_gradients_agree_in_the_mean(kind: str, objectives: tuple[str, str, int]) -> None:
    """The mean gradients of stl and elbo, dreg and iwae agree in every weight, within 4 standard errors."""
    (one, other, draws), model = objectives, small(**HIERARCHIES[kind])
    agree(sampled(model, one, X, draws), sampled(model, other, X, draws))


def squared_twice(bound: ELBO) -> Tensor:
    """Weigh the gradient of every term once more by the share, the generative weights' too."""
    share = torch.softmax(bound.log_weight.detach(), 0)
    return (share**2 * bound.log_weight).sum(0)


@pytest.mark.slow
def test_the_generative_weights_are_not_doubly_reparameterized() -> None:
    """Squared shares in the gradient of log p(x, z) shrink it: that form disagrees with iwae."""
    model = small()
    exact, error = sampled(model, "iwae", X, 3)
    OBJECTIVES["wrong"] = lambda bound, _: squared_twice(bound)
    try:
        actual, spread = sampled(model, "wrong", X, 3)
    finally:
        del OBJECTIVES["wrong"]
    assert ((actual - exact).abs() > 10 * (error**2 + spread**2).sqrt()).any()


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize(("objective", "draws"), [("stl", 1), ("dreg", 4)])
def test_at_the_exact_posterior_path_gradients_vanish(objective: str, draws: int, depth: int) -> None:
    """Every single draw's gradient of the inference is 0 where q is the posterior; that of elbo and iwae is not."""
    model, evidence = chain(depth)
    x = evidence.sample((5, 1)) + 1
    inner = model.inference
    path = gradients(inner, OBJECTIVES[objective](pathwise_terms(model, x, draws), 1.0).sum())
    torch.testing.assert_close(path, torch.zeros_like(path), rtol=0, atol=1e-10)
    plain = gradients(inner, OBJECTIVES["iwae"](elbo(model, x, draws), 1.0).sum())
    assert plain.abs().max() > 0.1


@pytest.mark.slow
def test_near_the_posterior_path_gradients_vary_less() -> None:
    """Near the best q the standard error of stl is below that of elbo, and that of dreg below that of iwae."""
    model, evidence = chain(2)
    with torch.no_grad():
        for value in model.inference.parameters():
            value += 0.02
    x = evidence.mean.reshape(1, 1)
    count = sum(value.numel() for value in model.inference.parameters())
    for one, other in (("stl", "elbo"), ("dreg", "iwae")):
        less, more = (sampled(model, name, x, 3)[1][-count:] for name in (one, other))
        assert (less < 0.5 * more).all()


class Says(nn.Module):
    """One step of a ladder's way up that looks at the image itself."""

    def __init__(self, rung: Unit) -> None:
        super().__init__()
        self.rung = rung

    def forward(self, x: Tensor) -> tuple[Tensor, Distribution]:
        return x, self.rung(x)


def exact_ladder() -> HierarchicalVAE:
    """Return a ladder of two one-unit levels with its exact posterior, whose image says little of z_1.

    z_1 = 0.8 z_2 + 0.3 + 0.5 e, x = 0.1 z_1 + 0.2 + e': the evidence of z_1 has deviation 10, p(z_1 | z_2) 0.5.
    """
    a, b, s, c, d, r = (torch.tensor(value) for value in (0.8, 0.3, 0.5, 0.1, 0.2, 1.0))
    variance = c**2 * (a**2 + s**2) + r**2
    gain = a * c / variance
    top = Unit(gain, -gain * (c * b + d), (1 - gain * a * c).sqrt())
    generative = [Unit(c, d, r), Unit(a, b, s), StandardNormal(1)]
    return HierarchicalVAE(generative, [Says(Unit(1 / c, -d / c, r / c)), Says(top)], "nearest", "top_down")


@pytest.mark.parametrize(("one", "other", "draws"), [("stl", "elbo", 1), ("dreg", "iwae", 4)])
def test_weights_that_a_ladder_shares_keep_the_gradient_of_the_plain_objective(
    one: str, other: str, draws: int
) -> None:
    """In a ladder the gradient in p's weights is that of elbo or iwae, draw by draw.

    Its variance is that of the plain objective; without those weights in log q that of p(z_1 | z_2) is 1,000 to 8e7
    times as much here. The encoder's gradient is 0 at every draw.
    """
    for kind in ("ladder", "deep ladder"):
        model = small(**HIERARCHIES[kind])
        actual = []
        for objective in (one, other):
            torch.manual_seed(4)
            value = OBJECTIVES[objective](
                (pathwise_terms if objective in PATHWISE else elbo)(model, X, draws), 1.0
            ).sum()
            actual.append(gradients(model.generative, value))
        torch.testing.assert_close(*actual, rtol=1e-9, atol=1e-9)
        assert actual[1].abs().max() > 1e-3
    model, x = exact_ladder(), torch.full((1, 1), 0.7)
    path = gradients(model.inference, OBJECTIVES[one](pathwise_terms(model, x.expand(20, 1), draws), 1.0).sum())
    torch.testing.assert_close(path, torch.zeros_like(path), rtol=0, atol=1e-10)
    spread = []
    for name, measure in ((one, pathwise_terms), (other, elbo)):
        torch.manual_seed(5)
        values = [OBJECTIVES[name](measure(model, x, draws), 1.0).sum() for _ in range(40)]
        spread.append(torch.stack([gradients(model.generative, value) for value in values]).var(0))
    assert (spread[0] < 1.5 * spread[1]).all()


@pytest.mark.parametrize("kind", list(HIERARCHIES))
def test_stopped_terms_have_the_values_of_the_others(kind: str) -> None:
    """With the same random numbers `pathwise_terms` gives the terms of `elbo`, and both path objectives their value."""
    model = small(**HIERARCHIES[kind])
    x = torch.bernoulli(torch.full((4, 2), 0.5))
    terms: dict[Callable[..., ELBO], ELBO] = {}
    for measure in (elbo, pathwise_terms):
        torch.manual_seed(1)
        terms[measure] = measure(model, x, 5)
    torch.testing.assert_close(terms[pathwise_terms].reconstruction, terms[elbo].reconstruction)
    torch.testing.assert_close(terms[pathwise_terms].rate, terms[elbo].rate)
    torch.testing.assert_close(OBJECTIVES["dreg"](terms[pathwise_terms], 1.0), terms[elbo].iwae)
    torch.testing.assert_close(OBJECTIVES["stl"](terms[pathwise_terms], 1.0), terms[elbo].elbo)


@pytest.mark.parametrize("objective", list(OBJECTIVES))
def test_every_objective_trains(objective: str) -> None:
    """Eight epochs of any objective raise the validation bound."""
    data = splits("static")
    model = build(model_params(), torch.tensor(data.mean).double())
    records = list(fit(model, data, train_params(objective=objective, draws=3, epochs=8), seed=0))
    assert records[-1].metrics["valid/elbo"] > records[0].metrics["valid/elbo"]


# --- The importance-weighted bound as it is logged elsewhere


def test_the_mean_log_weight_under_normalized_weights_exceeds_the_evidence() -> None:
    """Sum of v_i log w_i, v_i = w_i / sum w, is above log p(x) in the mean, where L_k is below it."""
    model, evidence = chain(1)
    with torch.no_grad():
        model.inference[0].s *= 2
    x = evidence.mean.reshape(1, 1).expand(2000, 1)
    with torch.no_grad():
        bound = elbo(model, x, 50)
    logged = (torch.softmax(bound.log_weight, 0) * bound.log_weight).sum(0)
    exact = evidence.log_prob(evidence.mean)
    assert logged.mean() - exact > 10 * logged.std() / 2000**0.5
    assert bound.iwae.mean() - exact < 4 * bound.iwae.std() / 2000**0.5
    assert (logged > bound.iwae).all()


# --- Free bits and warm-up by level


def terms(depth: int = 3) -> ELBO:
    """Return terms whose rates average 0.5, 1.5, 2.5, ... nats by level."""
    noise = torch.rand(depth, 4, 6)
    rate = noise - noise.mean((1, 2), keepdim=True) + 0.5 + torch.arange(depth)[:, None, None]
    return ELBO(torch.randn(4, 6), rate.requires_grad_())


def test_a_level_below_its_free_bits_costs_a_constant() -> None:
    """A level of mean rate 0.5 counts as the 1 nat that is free and has no gradient; the others are as they are."""
    bound = terms()
    value = training_objective(bound, train_params(free_bits=1.0), 0.0)
    torch.testing.assert_close(value, bound.reconstruction.mean(0) - 1 - bound.rate[1:].sum(0).mean(0))
    (gradient,) = torch.autograd.grad(value.sum(), bound.rate)
    assert not gradient[0].any()
    torch.testing.assert_close(gradient[1:], torch.full_like(gradient[1:], -1 / 4))


def test_without_free_bits_and_stagger_the_objective_is_bare() -> None:
    """At 0 both change nothing, bit for bit."""
    bound, params = terms(), train_params(objective="beta", beta=3.0, warmup=7)
    assert torch.equal(training_objective(bound, params, 2.0), OBJECTIVES["beta"](bound, beta_at(params, 2.0)))


def test_levels_warm_up_one_after_the_other() -> None:
    """Level t's weight grows from 0 at epoch (t - 1) * warmup_stagger to beta `warmup` epochs later."""
    bound, params = terms(), train_params(objective="beta", beta=2.0, warmup=10, warmup_stagger=4)
    for epoch, ramps in ((0.0, [0, 0, 0]), (4.0, [0.4, 0, 0]), (9.0, [0.9, 0.5, 0.1]), (18.0, [1, 1, 1])):
        weighed = sum(ramp * rate for ramp, rate in zip(ramps, bound.rate, strict=True))
        torch.testing.assert_close(
            training_objective(bound, params, epoch), (bound.reconstruction - 2 * weighed).mean(0)
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"warmup_stagger": 3}, "delays a warmup"),
        ({"objective": "iwae", "free_bits": 1.0}, "go with objective elbo or beta"),
        ({"objective": "dreg", "beta": 2.0}, "weigh nothing"),
    ],
)
def test_what_weighs_nothing_is_refused(changes: dict[str, Any], message: str) -> None:
    """A setting that the objective would ignore is refused."""
    with pytest.raises(ValueError, match=message):
        train_params(**changes)
