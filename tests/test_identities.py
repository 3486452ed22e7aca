"""The bound against exact values: linear-Gaussian chains, quadrature, and the wrong forms next to the right one."""

from __future__ import annotations

import math
from functools import partial
from itertools import combinations, pairwise

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal, kl_divergence
from torch.nn import functional as F

from pipeline.models import HierarchicalVAE, build
from pipeline.objectives import ELBO, elbo
from tests.linear_gaussian import Chain, Parents, chain, cubature, inferred
from tests.small import model_params

pytestmark = pytest.mark.usefixtures("float64")

WIDTHS = {1: (4, 3), 2: (4, 3, 2), 3: (4, 3, 2, 3), 4: (3, 3, 2, 2, 1)}
both = pytest.mark.parametrize("parents", ["nearest", "every"])
depths = pytest.mark.parametrize("depth", list(WIDTHS))


def data(linear: Chain, count: int = 3) -> Tensor:
    """Draw examples that the chain finds likely, and shift them so that they are less so."""
    return linear.model.sample(count)[0] + 0.5


def standard_error(draws: Tensor) -> Tensor:
    """Return the standard error of the mean over the first dimension."""
    return draws.std(0) / len(draws) ** 0.5


def exactly_equal(value: Tensor, truth: Tensor, tolerance: float = 1e-9) -> None:
    """Assert equality up to rounding, and shapes that are the same."""
    torch.testing.assert_close(value, truth.expand_as(value).contiguous(), rtol=tolerance, atol=tolerance)


# --- Linear-Gaussian chains


@both
@depths
def test_with_the_exact_posterior_every_log_weight_is_the_evidence(depth: int, parents: Parents) -> None:
    """By (10), (19), (20) and (26), each draw's log p(x, z) - log q(z|x) is log p(x) where q is the posterior."""
    linear = chain(WIDTHS[depth], parents)
    x = data(linear, 5)
    bound = elbo(linear.model, x, draws=7)
    exactly_equal(bound.log_weight, linear.log_p(x))
    exactly_equal(bound.elbo, linear.log_p(x))
    exactly_equal(bound.iwae, linear.log_p(x))


@both
@depths
def test_the_gap_is_the_divergence_from_the_posterior(depth: int, parents: Parents) -> None:
    """Equation (10): log p(x) - ELBO is KL(q(z_1:T|x) || p(z_1:T|x)), to rounding."""
    linear = chain(WIDTHS[depth], parents)
    x = data(linear)
    model = linear.perturbed(0.3)
    bound = elbo(model, x, cubature(model))
    gap = kl_divergence(inferred(model, x), linear.posterior(x))
    assert gap.min() > 0.01
    exactly_equal(bound.elbo, linear.log_p(x) - gap)


@both
@depths
def test_the_bound_is_reconstruction_minus_prior_mismatch(depth: int, parents: Parents) -> None:
    """Equation (14): ELBO is E log p(x|z) less the closed-form KL(q(z_1:T|x) || p(z_1:T)), to rounding."""
    linear = chain(WIDTHS[depth], parents)
    x = data(linear)
    model = linear.perturbed(0.3)
    bound = elbo(model, x, cubature(model))
    rung, q = model.generative[0], inferred(model, x)
    # E log N(x; W z + c, Q) = log N(x; W E z + c, Q) - tr(Q^-1 W Cov(z) W') / 2
    weight = torch.zeros(len(rung.offset), sum(WIDTHS[depth][1:]))
    seen = torch.cat(rung.weights, dim=1)
    weight[:, : seen.shape[1]] = seen
    at_mean = MultivariateNormal(q.mean @ weight.mT + rung.offset, rung.covariance).log_prob(x)
    spread = weight @ q.covariance_matrix @ weight.mT
    reconstruction = at_mean - torch.linalg.solve(rung.covariance, spread).diagonal(dim1=-2, dim2=-1).sum(-1) / 2
    kl = kl_divergence(q, linear.prior())
    exactly_equal(bound.reconstruction.mean(0), reconstruction)
    exactly_equal(bound.kl.mean(0), kl)
    exactly_equal(bound.elbo, reconstruction - kl)


@both
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_gradients_of_the_bound_are_those_of_its_closed_form(depth: int, parents: Parents) -> None:
    """Through the draws z = mu + sigma * eps (18), the ELBO has the gradient of log p(x) - KL(q || p(z_1:T|x))."""
    linear = chain(WIDTHS[depth], parents)
    x = data(linear)
    model = linear.perturbed(0.3)
    knobs = [
        knob.requires_grad_() for rung in model.inference for knob in (*rung.weights, rung.offset, rung.covariance)
    ]
    bound = elbo(model, x, cubature(model)).elbo.sum()
    closed = (linear.log_p(x) - kl_divergence(inferred(model, x), linear.posterior(x))).sum()
    for actual, expected in zip(torch.autograd.grad(bound, knobs), torch.autograd.grad(closed, knobs), strict=True):
        exactly_equal(actual, expected, 1e-8)


@both
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_random_draws_estimate_the_bound_without_bias(depth: int, parents: Parents) -> None:
    """The means of 20,000 draws' log-weights and kl lie within 4 standard errors of their closed forms."""
    linear = chain(WIDTHS[depth], parents)
    x = data(linear)
    model = linear.perturbed(0.3)
    bound = elbo(model, x, draws=20_000)
    q = inferred(model, x)
    truth = linear.log_p(x) - kl_divergence(q, linear.posterior(x))
    assert ((bound.elbo - truth).abs() < 4 * standard_error(bound.log_weight)).all()
    kl = kl_divergence(q, linear.prior())
    assert ((bound.kl.mean(0) - kl).abs() < 4 * standard_error(bound.kl)).all()


@both
def test_an_inner_rate_may_be_negative_while_the_bound_is_tight(parents: Parents) -> None:
    """Some exact posterior has a negative mean rate at level 1, and the rates still sum to a KL divergence."""
    lowest = math.inf
    for _ in range(20):
        linear = chain((2, 3, 3), parents)
        x = data(linear, 1)
        bound = elbo(linear.model, x, cubature(linear.model))
        kl = kl_divergence(linear.posterior(x), linear.prior())
        exactly_equal(bound.kl.mean(0), kl)
        exactly_equal(bound.elbo, linear.log_p(x))
        lowest = min(lowest, bound.rate[0].mean().item())
    assert lowest < -0.1


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_the_closed_form_kl_is_wrong_at_inner_levels(depth: int) -> None:
    """KL(q(z_t|z_t-1) || p(z_t|z_t+1)), z_t+1 drawn from z_t, is no rate below the top; at the top it is."""
    linear = chain(WIDTHS[depth], "nearest")
    x = data(linear)
    draws = cubature(linear.model)
    z, q = linear.model.posterior(x, draws)
    p = linear.model.joint(z)
    bound = elbo(linear.model, x, draws)
    top = kl_divergence(q[-1], MultivariateNormal(torch.zeros_like(z[-1]), torch.eye(z[-1].shape[-1])))
    exactly_equal(bound.rate[-1].mean(0), top.mean(0))
    inner = sum(kl_divergence(q_t, p_t) for q_t, p_t in zip(q[:-1], p[1:-1], strict=True))
    wrong = (bound.reconstruction - inner - top).mean(0)
    exactly_equal(bound.elbo, linear.log_p(x))
    assert (wrong - linear.log_p(x)).abs().min() > 0.1


@both
def test_ancestral_samples_have_the_moments_of_the_chain(parents: Parents) -> None:
    """The mean and second moments of 100,000 samples of all nodes lie within 5 standard errors of the joint's."""
    linear = chain(WIDTHS[3], parents)
    z = torch.cat(linear.model.sample(100_000), dim=1)
    centred = z - linear.mean
    assert (centred.mean(0).abs() < 5 * standard_error(z)).all()
    products = centred[:, :, None] * centred[:, None, :]
    assert ((products.mean(0) - linear.covariance).abs() < 5 * standard_error(products)).all()


def test_the_bound_of_an_example_depends_on_no_other() -> None:
    """With the same noise, an example's terms are the same whatever else is in its batch."""
    model = build(model_params(depth=3, parents="every"), torch.full((6,), 0.5))
    x = torch.bernoulli(torch.full((5, 6), 0.5))
    changed = torch.cat([x[:2], 1 - x[2:]])
    bounds = []
    for batch in (x, changed):
        torch.manual_seed(1)
        bounds.append(elbo(model, batch, draws=3))
    exactly_equal(bounds[0].reconstruction[:, :2], bounds[1].reconstruction[:, :2], 1e-12)
    exactly_equal(bounds[0].rate[..., :2], bounds[1].rate[..., :2], 1e-12)
    assert (bounds[0].log_weight[:, 2:] != bounds[1].log_weight[:, 2:]).all()


# --- The importance-weighted bound


def test_the_mean_over_all_subsets_grows_with_their_size() -> None:
    """Over the k-subsets of the same 8 draws, mean L_k grows with k for every example: no luck is involved."""
    linear = chain(WIDTHS[2], "nearest")
    bound = elbo(linear.perturbed(0.4), data(linear), draws=8)

    def mean_over_subsets(k: int) -> Tensor:
        parts = [list(subset) for subset in combinations(range(8), k)]
        return torch.stack([ELBO(bound.reconstruction[part], bound.rate[:, part]).iwae for part in parts]).mean(0)

    means = torch.stack([mean_over_subsets(k) for k in range(1, 9)])
    exactly_equal(means[0], bound.elbo)
    exactly_equal(means[-1], bound.iwae)
    assert (means.diff(dim=0) > 0).all()


@both
def test_the_importance_weighted_bound_lies_between_the_elbo_and_the_evidence(parents: Parents) -> None:
    """L_1 < L_4 < L_16 < L_64 < log p(x), each step by more than 4 standard errors, none above the evidence."""
    linear = chain(WIDTHS[2], parents)
    x = data(linear, 1)
    model = linear.perturbed(0.4)
    log_weight = elbo(model, x, draws=64 * 2000).log_weight[:, 0]
    bounds = [torch.logsumexp(log_weight.view(-1, k), 1) - math.log(k) for k in (1, 4, 16, 64)]
    for lower, higher in pairwise(bounds):
        error = (standard_error(lower) ** 2 + standard_error(higher) ** 2).sqrt()
        assert higher.mean() - lower.mean() > 4 * error
    assert bounds[-1].mean() < linear.log_p(x) + 4 * standard_error(bounds[-1])


def test_the_bound_is_not_the_weighted_mean_of_log_weights() -> None:
    """With normalized weights, the mean of log w exceeds L_k, by up to log k: `iwae` is not that."""
    linear = chain(WIDTHS[2], "nearest")
    bound = elbo(linear.perturbed(0.4), data(linear), draws=16)
    wrong = (torch.softmax(bound.log_weight, 0) * bound.log_weight).sum(0)
    assert (wrong > bound.iwae + 1e-3).all()
    exactly_equal(bound.iwae, bound.log_weight.exp().mean(0).log())


# --- A non-linear model by quadrature


def grid(dimensions: int, points: int, span: float = 12.0) -> tuple[Tensor, float]:
    """Return nodes [points^dimensions, dimensions] of the trapezoidal rule and the log of a node's volume."""
    axis = torch.linspace(-span, span, points)
    nodes = torch.cartesian_prod(*[axis] * dimensions).reshape(-1, dimensions)
    return nodes, dimensions * math.log(2 * span / (points - 1))


def hermite(dimensions: int, points: int) -> tuple[Tensor, Tensor]:
    """Return nodes [points^dimensions, dimensions] of N(0, I), and the log of their mass."""
    axis, mass = (torch.tensor(values) for values in np.polynomial.hermite_e.hermegauss(points))
    nodes = torch.cartesian_prod(*[axis] * dimensions).reshape(-1, dimensions)
    weights = torch.cartesian_prod(*[mass.log()] * dimensions).reshape(-1, dimensions)
    return nodes, weights.sum(1) - dimensions * math.log(2 * math.pi) / 2


def by_hand(model: HierarchicalVAE, x: Tensor, nodes: Tensor) -> tuple[Tensor, Tensor]:
    """Return log p(x, z) and log q(z|x) at every node, written without the model's own forward pass."""
    widths = [len(x), *(rung.network[-1].out_features // 2 for rung in model.inference)]
    z = [x.expand(len(nodes), -1), *nodes.split(widths[1:], dim=1)]

    def normal(rung: torch.nn.Module, context: list[Tensor], at: Tensor) -> Tensor:
        mu, raw = rung.network(torch.cat(context, dim=1)).chunk(2, dim=1)
        return Normal(mu, F.softplus(raw) + 1e-4).log_prob(at).sum(1)

    def seen(ancestors: list[Tensor]) -> list[Tensor]:
        return ancestors if model.parents == "every" else ancestors[:1]

    top = len(widths) - 1
    logits = model.generative[0].network(torch.cat(seen(z[1:]), dim=1))
    log_p = -F.softplus((1 - 2 * z[0]) * logits).sum(1)
    log_p = log_p - (z[top] ** 2 + math.log(2 * math.pi)).sum(1) / 2
    for t in range(1, top):
        log_p = log_p + normal(model.generative[t], seen(z[t + 1 :]), z[t])
    log_q = sum(normal(model.inference[t - 1], seen(z[:t][::-1]), z[t]) for t in range(1, top + 1))
    return log_p, log_q


@torch.no_grad()
@pytest.mark.parametrize(
    ("widths", "parents", "points"),
    [((1,), "nearest", 4001), ((2,), "nearest", 301), ((1, 1), "nearest", 301), ((1, 1), "every", 301)],
)
def test_a_non_linear_model_agrees_with_quadrature(widths: tuple[int, ...], parents: Parents, points: int) -> None:
    """On binary x the mean log-weight is the integral of (13) and the mean weight p(x), at Gauss-Hermite nodes of q."""
    torch.manual_seed(3)
    model = build(
        model_params(depth=len(widths), widths=widths, parents=parents, hidden=((6,),)),
        torch.full((5,), 0.4),
    )
    for rung in model.generative[:-1]:
        rung.network[-1].weight.mul_(2)  # a posterior that is far from normal
    nodes, log_volume = grid(sum(widths), points)
    x = torch.tensor([[1.0, 0, 0, 1, 1], [0, 1, 1, 0, 0]])
    groups = torch.logsumexp(elbo(model, x, draws=20_000).log_weight.view(-1, 10, 2), 1) - math.log(10)
    noise, log_mass = hermite(sum(widths), 80)
    model.posterior = partial(model.posterior, noise=noise[:, None].expand(-1, 2, -1).split(widths, -1))
    bound = elbo(model, x, draws=len(noise))
    for n in range(len(x)):
        log_p, log_q = by_hand(model, x[n], nodes)
        mass = torch.exp(log_q + log_volume)
        assert abs(mass.sum() - 1) < 1e-6
        lower = (mass * (log_p - log_q)).sum()
        evidence = torch.logsumexp(log_p + log_volume, 0)
        assert evidence - lower > 0.02
        assert (bound.log_weight[:, n] @ log_mass.exp() - lower).abs() < 1e-5
        assert (torch.logsumexp(bound.log_weight[:, n] + log_mass, 0) - evidence).abs() < 1e-4
        assert lower < groups[:, n].mean() < evidence
