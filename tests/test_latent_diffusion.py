"""The prior diffusion: further levels of the chain, exact under N(0, I), and a bound that training makes better."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributions import MultivariateNormal, Normal

from pipeline.errors import InputError
from pipeline.evaluation.annealing.paths import PATHS
from pipeline.evaluation.levels import level_terms
from pipeline.evaluation.refinement import refine
from pipeline.models import HierarchicalVAE, build
from pipeline.models.checkpoint import load, save_model
from pipeline.models.latent_diffusion import Noising, diffusion_rungs
from pipeline.objectives import elbo, pathwise_terms
from pipeline.params import Params
from pipeline.training import fit
from pipeline.training.manual import ManualGradient
from tests.small import ROOT, model_params, splits, train_params

pytestmark = pytest.mark.usefixtures("float64")

X = torch.tensor([[1, 0, 0, 1, 1, 0], [0, 0, 1, 1, 0, 1], [1, 1, 1, 0, 0, 0]], dtype=torch.float64)
ENDS = [(3.0, -3.0), (8.0, 2.0)]


def model(moved: float = 0.0, **changes: Any) -> HierarchicalVAE:
    """Build a small model for six pixels with a prior diffusion of three levels, its weights moved by so much."""
    built = build(model_params(**{"prior": "diffusion"} | changes), torch.full((6,), 0.4))
    with torch.no_grad():
        for value in built.parameters():
            value += moved * torch.randn_like(value)
    return built


@pytest.mark.parametrize("ends", ENDS)
def test_a_step_is_that_of_the_noised_level(ends: tuple[float, float]) -> None:
    """The steps of q compose to q(w_s | z) = N(alpha_s z, sigma_s^2), alpha_s^2 = 1 / (1 + exp(-lambda_s))."""
    noising, _ = diffusion_rungs(model_params(prior_levels=4, prior_log_snr=ends), 2)
    scale, variance = 1.0, 0.0
    for s, rung in enumerate(noising):
        assert isinstance(rung, Noising)
        scale, variance = rung.scale * scale, rung.scale**2 * variance + rung.deviation**2
        log_snr = ends[0] + (ends[1] - ends[0]) * s / 3
        assert scale**2 == pytest.approx(1 / (1 + math.exp(-log_snr)))
        assert variance == pytest.approx(1 / (1 + math.exp(log_snr)))


@pytest.mark.parametrize("ends", ENDS)
@pytest.mark.parametrize("levels", [1, 2, 5])
@pytest.mark.parametrize("depth", [1, 2])
def test_at_the_start_every_draw_has_the_weight_of_a_normal_prior(
    depth: int, levels: int, ends: tuple[float, float]
) -> None:
    """The chain above z_T is the exact reverse under N(0, I), so that p(z_T) is N(0, I), draw by draw."""
    changes = {"depth": depth, "prior_levels": levels, "prior_log_snr": ends}
    torch.manual_seed(0)
    built = model(**changes)
    assert built.depth == depth + levels
    z, q = built.posterior(X, 4)
    p = built.joint(z)
    ratio = sum(p[t].log_prob(z[t]) for t in range(depth, len(z))) - sum(
        q[t - 1].log_prob(z[t]) for t in range(depth + 1, len(z))
    )
    torch.testing.assert_close(ratio, Normal(0.0, 1.0).log_prob(z[depth]).sum(-1))
    torch.manual_seed(0)
    normal = model(**changes | {"prior": "normal"})
    for name, value in normal.state_dict().items():
        assert torch.equal(value, built.state_dict()[name])


def test_a_step_has_the_moments_of_q_over_the_denoised_level() -> None:
    """p(w_s-1 | w_s) has the mean and variance of q(w_s-1 | w_s, z_T), z_T ~ N(zhat, Var), by Gaussian conditioning."""
    _, denoised = diffusion_rungs(model_params(prior_levels=2, prior_log_snr=(2.0, -1.0)), 1)
    denoiser = denoised[0].denoiser
    with torch.no_grad():
        for value in denoiser.parameters():
            value += 0.4 * torch.randn_like(value)
        w = torch.tensor([0.7])
        zhat, variance = denoiser(w, -1.0)
        p = denoised[1](w)
    (alpha, sigma), (alpha_up, sigma_up) = ((1 / (1 + math.exp(-v)), 1 / (1 + math.exp(v))) for v in (2.0, -1.0))
    alpha, sigma, alpha_up, sigma_up = map(math.sqrt, (alpha, sigma, alpha_up, sigma_up))
    # Given z: w_1 ~ N(alpha z, sigma^2), w_2 = a w_1 + noise; condition the joint of (w_1, w_2) on w_2.
    a = alpha_up / alpha
    gain = a * sigma**2 / sigma_up**2
    mean = alpha * zhat + gain * (w - alpha_up * zhat)
    torch.testing.assert_close(p.mean, mean)
    torch.testing.assert_close(p.variance, sigma**2 - gain**2 * sigma_up**2 + (alpha - gain * alpha_up) ** 2 * variance)


def test_a_finer_chain_bounds_a_correlated_prior_better() -> None:
    """With the exact E[z | w] and Var[z_j | w] of a normal z, the bound rises with the levels to E log p(z)."""
    covariance = torch.tensor([[1.0, 0.9], [0.9, 1.0]])
    truth = MultivariateNormal(torch.zeros(2), covariance)
    z = truth.sample((20_000,))
    bounds = []
    for levels in (2, 8, 32):
        noising, denoised = diffusion_rungs(model_params(prior_levels=levels, prior_log_snr=(9.0, -9.0)), 2)

        def exact(w: torch.Tensor, log_snr: float) -> tuple[torch.Tensor, torch.Tensor]:
            snr = math.exp(log_snr)
            inner = torch.linalg.inv(torch.linalg.inv(covariance) + snr * torch.eye(2))
            return w @ inner * snr / math.sqrt(1 / (1 + 1 / snr)), inner.diagonal().expand_as(w)

        for rung in denoised:
            rung._shared = (exact,)
        w, log_weight = z, torch.zeros(len(z))
        for up, down in zip(noising, denoised, strict=True):
            q = up(w)
            above = q.rsample()
            log_weight += down(above).log_prob(w) - q.log_prob(above)
            w = above
        bounds.append((log_weight + Normal(0.0, 1.0).log_prob(w).sum(-1)).mean().item())
    truth_mean = truth.log_prob(z).mean().item()
    assert bounds[0] < bounds[1] < bounds[2] < truth_mean + 0.02
    assert bounds[2] == pytest.approx(truth_mean, abs=0.1)


@pytest.mark.parametrize("posterior", ["gaussian", "iaf"])
def test_every_weight_is_listed_once_and_trained(posterior: str) -> None:
    """The network that the rungs share has one place in the model, gets a gradient, and is shared in a copy too."""
    built = model(moved=0.3, posterior=posterior)
    assert not ManualGradient.supports(built)
    for measure in (elbo, pathwise_terms):
        built.zero_grad()
        measure(built, X, 3).elbo.sum().backward()
        assert all(w.grad is not None and w.grad.isfinite().all() and w.grad.any() for w in built.parameters())
    assert len({value.data_ptr() for value in built.state_dict().values()}) == len(built.state_dict())
    other = copy.deepcopy(built)
    with torch.no_grad():
        for value in other.generative[2].parameters():
            value += 1.0
    w = torch.randn(5, 2)
    assert not torch.equal(other.generative[3](w).mean, built.generative[3](w).mean)


def test_what_is_measured_goes_on_above_the_top_level() -> None:
    """Decompositions, noise and annealing take the levels as any others; the search for q* leaves the fixed q alone."""
    built = model(moved=0.3)
    terms, _ = level_terms(built, X, draws=3, inner=4, outer=5)
    for name, total in (("chain_kl", "levels/kl"), ("gap", "levels/gap")):
        torch.testing.assert_close(sum(terms[f"{name}/z{t}"][0] for t in range(1, 6)), terms[total][0])
    sizes = [4, 2, 2, 2, 2]
    assert model_params(prior="diffusion").level_units((1, 2, 3)) == sizes
    assert built.decode_noise([torch.randn(7, size) for size in sizes]).shape == (7, 6)
    for path in PATHS.values():
        ends = path(built, X)
        assert ends.ratio(ends.draw(2)).isfinite().all()
    refined = refine(built, X, steps=4, draws=2, rate=0.1).model
    assert [isinstance(rung, Noising) for rung in refined.inference] == [False, False, True, True, True]


def test_training_lowers_the_loss_and_a_checkpoint_has_all_of_it(tmp_path: Path) -> None:
    """A few epochs raise the bound, with an average of the weights; the model that is saved is the one that loads."""
    torch.set_default_dtype(torch.float32)
    data = splits("static")
    params = model_params(prior="diffusion", depth=1)
    built = build(params, torch.tensor(data.mean, dtype=torch.float32), data.shape)
    settings = train_params(epochs=4, learning_rate=0.02, ema=0.9, objective="beta", warmup=2, warmup_stagger=1)
    records = list(fit(built, data, settings, seed=0))
    bounds = [record.metrics["valid/elbo"] for record in records]
    assert bounds[-1] > bounds[0]
    save_model(tmp_path, built, params, data)
    x = torch.tensor(data.test[:5], dtype=torch.float32)
    values = []
    for each in (built.eval(), load(tmp_path)):
        torch.manual_seed(0)
        values.append(elbo(each, x, 2).log_weight)
    assert torch.equal(*values)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"model.inference": "top_down"}, "'diffusion' given with inference top_down; allowed: another prior, or inf"),
        (
            {"model.parents": "every"},
            "'diffusion' given with parents every; allowed: another prior, or parents nearest",
        ),
        (
            {"model.prior_log_snr": (1.0, 1.0)},
            r"model.prior_log_snr: \[1.0, 1.0\] given; allowed: a larger and a smaller",
        ),
        ({"model.prior_log_snr": (1.0,)}, "model.prior_log_snr"),
        ({"model.prior_levels": 61}, "model.prior_levels: 61 given; allowed: less than or equal to 60"),
    ],
)
def test_what_does_not_go_together_is_refused(overrides: dict[str, Any], message: str) -> None:
    """Each is an error of one line."""
    with pytest.raises(InputError, match=message):
        Params.read(
            ROOT / "params.yaml", {"model.prior": "diffusion", "variants": {"a": {"model.depth": 1}}, **overrides}
        )
