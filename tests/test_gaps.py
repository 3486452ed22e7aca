"""Approximation and amortization gaps against the closed forms of linear-Gaussian chains."""

from __future__ import annotations

from itertools import count

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

from pipeline.decompositions.estimates import mean_over_images
from pipeline.decompositions.gaps import gap_terms, refine
from pipeline.models import HierarchicalVAE
from pipeline.objectives import elbo
from tests.linear_gaussian import Chain, Diagonal, best, chain, inferred, level_gaps

pytestmark = pytest.mark.usefixtures("float64")

CHAINS = [(3, 2), (4, 2, 3), (3, 2, 2, 2)]


def moved(model: HierarchicalVAE) -> HierarchicalVAE:
    """Return the model with offsets and sigmas of q that are wrong, and a wrong weight at level 1."""
    rungs = [
        Diagonal(
            rung.weight + (0.1 * torch.randn_like(rung.weight) if level == 0 else 0.0),
            rung.offset + 0.3 * torch.randn_like(rung.offset),
            (rung.log_sigma + 0.3 * torch.randn_like(rung.log_sigma)).exp(),
        )
        for level, rung in enumerate(model.inference)
    ]
    return HierarchicalVAE(model.generative, rungs, "nearest")


def diagonal_gap(linear: Chain) -> float:
    """Return the gap of the best diagonal q, over all levels."""
    return level_gaps(linear).sum().item()


@pytest.mark.parametrize("widths", CHAINS, ids=str)
def test_the_best_diagonal_posterior_has_a_closed_form_gap(widths: tuple[int, ...]) -> None:
    """The gap of the best diagonal q is 1/2 (sum log L_ii - log det L) over levels, within 4 standard errors."""
    exact = chain(widths, "nearest")
    x = torch.randn(6, widths[0])
    gap = exact.log_p(x) - elbo(best(exact), x, 4000).log_weight
    se = gap.mean(1).std().item() / 4000**0.5
    assert abs(gap.mean().item() - diagonal_gap(exact)) < 4 * se


@pytest.mark.parametrize("widths", CHAINS[:2], ids=str)
def test_refinement_finds_the_best_posterior_of_the_family(widths: tuple[int, ...]) -> None:
    """From a wrong q the approximation gap is the closed form, and the sum of both gaps log p(x) - elbo.

    Each within 4 standard errors and the 0.01 nats that the optimizer is allowed.
    """
    exact = chain(widths, "nearest")
    model, x = moved(best(exact)), torch.randn(6, widths[0])
    terms = mean_over_images([gap_terms(model, x, steps=200, draws=16, rate=0.1, k=2000, level_draws=50, inner=20)])
    approximation, amortization = terms["approximation_gap"], terms["amortization_gap"]
    assert abs(approximation.value - diagonal_gap(exact)) < 4 * approximation.se + 0.01
    assert approximation.value + amortization.value == pytest.approx(terms["inference_gap"].value, abs=1e-10)
    trained = elbo(model, x, 4000)
    gap = (exact.log_p(x) - trained.elbo).mean().item()
    se = (trained.log_weight.var(0).sum() / 4000).sqrt().item() / len(x)
    assert abs(terms["inference_gap"].value - gap) < 4 * (terms["inference_gap"].se + se)
    assert amortization.value > 4 * amortization.se


def test_log_p_is_measured_where_the_best_posterior_is_too_narrow() -> None:
    """From a q with the posterior's own variances, both gaps are exact within 4 errors, which are below 0.02 nats.

    The best diagonal q is narrower than the posterior along one axis, and its weights have no variance: alone as the
    proposal it is 0.1 nats off at these draws.
    """
    drawn = (chain((4, 3), "nearest") for _ in count())
    exact = next(each for each in drawn if 0.8 < diagonal_gap(each) < 1.5)
    x, rung = exact.model.sample(20)[0], best(exact).inference[0]
    variances = exact.posterior(x[:1]).covariance_matrix[0].diagonal()
    wide = Diagonal(rung.weight, rung.offset, variances.sqrt())
    model = HierarchicalVAE(exact.model.generative, [wide], "nearest").requires_grad_(False)
    terms = mean_over_images([gap_terms(model, x, steps=150, draws=16, rate=0.05, k=4000, level_draws=10, inner=10)])
    gap = kl_divergence(inferred(model, x), exact.posterior(x)).mean().item()
    for name, value in {"approximation_gap": diagonal_gap(exact), "inference_gap": gap}.items():
        assert terms[name].se < 0.02
        assert abs(terms[name].value - value) < 4 * terms[name].se


def test_a_posterior_that_is_right_has_no_gap() -> None:
    """Where the posterior is a diagonal Gaussian that q already is, both gaps are 0 to 0.01 nats."""
    exact = chain((3, 1), "nearest")
    settings = {"steps": 100, "draws": 32, "rate": 0.02, "k": 500, "level_draws": 10, "inner": 10}
    terms = mean_over_images([gap_terms(best(exact), torch.randn(5, 3), **settings)])
    for name, term in terms.items():
        assert name.startswith("gaps/") or abs(term.value) < 0.01, name


def test_refinement_starts_at_the_trained_posterior_and_leaves_it_alone() -> None:
    """No step gives the trained q to the bit; many steps change neither the model nor its gradients."""
    exact = chain((3, 2, 2), "nearest")
    model, x = moved(best(exact)), torch.randn(4, 3)
    network = nn.Linear(3, 2)

    class Learned(nn.Module):
        def forward(self, below: Tensor) -> Independent:
            mean = network(below)
            return Independent(Normal(mean, torch.ones_like(mean)), 1)

    model.inference[0] = Learned()
    before = network.weight.clone()
    untouched = refine(model, x, steps=0, draws=1, rate=0.1)
    torch.manual_seed(1)
    expected = elbo(model, x, 3).log_weight
    torch.manual_seed(1)
    assert torch.equal(elbo(untouched, x, 3).log_weight, expected)
    refine(model, x, steps=5, draws=2, rate=0.1)
    assert torch.equal(network.weight, before)
    assert network.weight.grad is None


def test_only_diagonal_gaussians_are_refined() -> None:
    """A posterior of another family is refused by name."""
    exact = chain((3, 2), "nearest")
    assert isinstance(exact.model.inference[0](torch.zeros(1, 3)), MultivariateNormal)
    with pytest.raises(TypeError, match="MultivariateNormal"):
        refine(exact.model, torch.zeros(1, 3), steps=1, draws=1, rate=0.1)
