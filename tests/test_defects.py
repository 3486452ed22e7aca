"""The defect suite: for each wrong formula found in published code, a test that it fails and that the package passes.

A test writes the wrong form out, shows by how much it misses the truth, and that ours meets it. `DEFECTS` is the index;
the tests of this file are those that stand nowhere else.
"""

from __future__ import annotations

import ast
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.distributions import kl_divergence

from pipeline.data.images import to_unit_interval
from pipeline.evaluation import evaluate
from pipeline.evaluation.activity import activity
from pipeline.models import HierarchicalVAE
from pipeline.objectives import elbo, top_down_kl
from pipeline.params import EvaluateParams
from tests.closed_forms import Exact
from tests.linear_gaussian import Chain, chain
from tests.test_ladder import exact_ladder

pytestmark = pytest.mark.usefixtures("float64")

TESTS = Path(__file__).parent
DEFECTS = {
    "minibatch-stratified weights put 1/N in column 0, not on the diagonal": [
        "test_surgery.py::test_stratified_weights_belong_on_the_diagonal",
    ],
    "minibatch weighting for total correlation": [
        "test_surgery.py::test_minibatch_weighting_is_no_total_correlation",
    ],
    "sampling weights added once per latent dimension": [
        "test_surgery.py::test_weights_are_added_once_and_not_once_a_dimension",
    ],
    "logged IWAE loss is the weighted mean of log w": [
        "test_defects.py::test_the_weighted_mean_of_log_weights_is_too_high_by_up_to_log_k",
        "test_gradients.py::test_the_mean_log_weight_under_normalized_weights_exceeds_the_evidence",
    ],
    "get_nll silently uses batch_size draws": [
        "test_defects.py::test_the_number_of_draws_is_the_one_that_was_asked_for",
    ],
    "get_nll returns +log p": [
        "test_defects.py::test_the_negative_log_likelihood_is_negative",
    ],
    "active units of level 2 from one draw of level 1": [
        "test_defects.py::test_one_draw_of_level_1_makes_units_of_level_2_active",
        "test_activity.py::test_noise_of_the_level_below_is_no_activity",
    ],
    "density uses variance + eps, sample uses variance": [
        "test_ladder.py::test_a_density_with_another_variance_than_the_draws_is_no_bound",
    ],
    "ladder KL without 1/2": [
        "test_ladder.py::test_the_divergences_give_the_evidence_and_their_wrong_forms_do_not",
    ],
    "ladder KL against the encoder": [
        "test_defects.py::test_a_divergence_from_the_encoder_is_no_bound",
    ],
    "ladder KL with the top term missing": [
        "test_ladder.py::test_the_divergences_give_the_evidence_and_their_wrong_forms_do_not",
        "test_defects.py::test_a_divergence_from_the_encoder_is_no_bound",
    ],
    "HMC step size adapted inside a weighted AIS chain": [
        "test_annealing.py::test_steps_adapted_inside_a_weighted_chain_are_biased_and_frozen_ones_are_not",
    ],
    "closed-form KL at inner levels of a bottom-up chain": [
        "test_identities.py::test_the_closed_form_kl_is_wrong_at_inner_levels",
        "test_decompositions.py::test_the_closed_form_kl_at_inner_levels_is_not_the_bound",
    ],
}


@pytest.mark.parametrize("defect", list(DEFECTS))
def test_every_defect_has_a_test(defect: str) -> None:
    """Each test that the index names stands in its file, and asserts something."""
    for name in DEFECTS[defect]:
        file, function = name.split("::")
        tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
        (actual,) = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == function)
        assert any(isinstance(node, ast.Assert) for node in ast.walk(actual))


def measured() -> tuple[Chain, HierarchicalVAE, Tensor, Tensor]:
    """Return a chain, the same with a wrong posterior, and ten test images as stored and as seen."""
    linear = chain((3, 2, 2), "nearest")
    test = torch.randint(100, (10, 3), dtype=torch.uint8)
    return linear, linear.perturbed(0.15), test, to_unit_interval(test, 100)


def evaluation(draws: int, *k: int) -> EvaluateParams:
    """Return the parameters of an evaluation with so many draws and these k."""
    return EvaluateParams(
        draws=draws,
        k=k,
        active_draws=20,
        active_threshold=0.01,
        milestone_draws=2,
        precision="float32",
        decompose=None,
        outliers=None,
        levels=(1,),
        seed=0,
    )


def wrong_nll(model: HierarchicalVAE, x: Tensor, draws: int, batch_size: int) -> tuple[float, float]:
    """Return +log of the mean weight over whole batches of draws, however few were asked for, and its error."""
    batches = max(1, draws // batch_size)
    log_weight = torch.cat([elbo(model, x, batch_size).log_weight for _ in range(batches)])
    weight = torch.softmax(log_weight, 0) * len(log_weight)
    error = (weight.var(0).sum() / len(weight)).sqrt().item() / len(x)
    return (torch.logsumexp(log_weight, 0) - math.log(len(log_weight))).mean().item(), error


@torch.no_grad()
def test_the_number_of_draws_is_the_one_that_was_asked_for() -> None:
    """Asked for one draw, batches of 100 give L_100, more than 0.1 nats and 10 errors above L_1; ours is L_1 exactly.

    L_1 is the elbo in closed form, which `nll` at k = 1 meets within 4 standard errors below 0.02 nats.
    """
    linear, model, test, x = measured()
    exact = Exact(linear, model, x).elbo.mean().item()
    wrong, error = wrong_nll(model, x, draws=1, batch_size=100)
    assert wrong - exact > 0.1
    assert wrong - exact > 10 * error
    ours = evaluate(model, test, 100, evaluation(20_000, 1), discrete=False).estimates["nll"]
    assert ours.se < 0.02
    assert abs(-ours.value - exact) < 4 * ours.se


@torch.no_grad()
def test_the_negative_log_likelihood_is_negative() -> None:
    """What is called nll is +log p(x) there, off by 2 |log p(x)|; ours is -log p(x), within 4 errors below 0.02 nats.

    Both come from 4000 draws, so that k is right and the sign alone is wrong.
    """
    linear, model, test, x = measured()
    exact = -linear.log_p(x).mean().item()
    wrong, error = wrong_nll(model, x, draws=4000, batch_size=100)
    assert abs(exact) > 1
    assert abs(abs(wrong - exact) - 2 * abs(exact)) < 4 * error + 0.01
    ours = evaluate(model, test, 100, evaluation(4000, 4000), discrete=False).estimates["nll"]
    assert ours.se < 0.02
    assert abs(ours.value - exact) < 4 * ours.se + 0.01


@torch.no_grad()
def test_the_weighted_mean_of_log_weights_is_too_high_by_up_to_log_k() -> None:
    """Logged as the mean of log w under normalized weights, L_k is above log p(x) by more than 10 errors; ours is not.

    Where one weight dominates, it is log k above L_k: within 1 % here. `iwae/k` of `evaluate` is L_k.
    """
    linear, model, test, x = measured()
    k = 50
    groups = elbo(model, x, 100 * k).log_weight.unflatten(0, (100, k))
    logged = (torch.softmax(groups, 1) * groups).sum(1).mean(1)
    exact = linear.log_p(x).mean().item()
    assert logged.mean() - exact > 10 * logged.std() / 10
    ours = evaluate(model, test, 100, evaluation(100 * k, k), discrete=False).estimates[f"iwae/{k}"]
    assert Exact(linear, model, x).elbo.mean() < ours.value < exact + 4 * ours.se
    far = elbo(linear.perturbed(20.0), x, k)
    excess = (torch.softmax(far.log_weight, 0) * far.log_weight).sum(0) - far.iwae
    assert excess.max() <= math.log(k) + 1e-9
    assert excess.median() > 0.99 * math.log(k)


@torch.no_grad()
def test_one_draw_of_level_1_makes_units_of_level_2_active() -> None:
    """From one draw of z_1 the variance of E[z_2] holds that of z_1's noise as well, and counts units that are not.

    In a linear chain Var_x E[z_2] is that of W_2 E[z_1]; the noise adds the diagonal of W_2 Q_1 W_2', 10 times as much
    here. With the threshold between, the published form counts every unit of level 2, ours none; 4 errors apart.
    """
    linear = chain((3, 2, 2), "nearest")
    model, x = linear.model, linear.model.sample(2000)[0]
    first, second = model.inference
    with torch.no_grad():
        first.weights[0] = 0.05 * first.weights[0]
    weight = second.weights[0]
    truth = (first(x).mean @ weight.mT).var(0)
    noise = (weight @ first.covariance @ weight.mT).diagonal()
    assert (noise > 10 * truth).all()
    threshold = (truth.max() * noise.min()).sqrt().item()
    one_draw = model.posterior(x)[1][1].mean[0].var(0)
    error = (truth + noise) * (2 / len(x)) ** 0.5
    assert ((one_draw - truth - noise).abs() < 4 * error).all()
    assert (one_draw > threshold).all()
    ours = activity(model, iter(x.split(500)), draws=200, threshold=threshold)["active/z2"]
    assert ours[0] == (truth > threshold).sum() == 0
    assert ours[1] < 0.01


@torch.no_grad()
def test_a_divergence_from_the_encoder_is_no_bound() -> None:
    """KL(q(z_1|z_2, x) || the encoder's evidence), the top term missing, gives a "bound" 10 errors above log p(x).

    With the top term it misses log p(x) too, by more than 10 errors. With the true posterior, reconstruction less
    `top_down_kl` is log p(x) within 4 errors.
    """
    ladder, evidence = exact_ladder()
    x = torch.tensor([[2.0], [-1.0]]) * evidence.stddev + evidence.mean
    truth = evidence.log_prob(x)
    z, q = ladder.posterior(x, 50_000)
    reconstruction = ladder.joint(z)[0].log_prob(z[0])
    encoder = ladder.inference[0](x)[1]
    inner = kl_divergence(q[0], encoder.expand(q[0].batch_shape))
    top = kl_divergence(q[1], ladder.generative[2]())
    torch.manual_seed(1)
    z, _ = ladder.posterior(x, 50_000)
    torch.manual_seed(1)
    ours = ladder.joint(z)[0].log_prob(z[0]) - top_down_kl(ladder, x, 50_000).sum(0)

    def errors_off(values: Tensor) -> Tensor:
        return (values.mean(0) - truth) / (values.std(0) / len(values) ** 0.5)

    assert (errors_off(reconstruction - inner) > 10).all()
    assert (errors_off(reconstruction - inner - top).abs() > 10).all()
    assert (errors_off(ours).abs() < 4).all()
