"""Priors: densities that integrate to one, draws that follow them, and pseudo-inputs where they belong."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from safetensors.torch import save
from torch import Tensor
from torch.distributions import Distribution, MixtureSameFamily

from pipeline.data import Splits
from pipeline.distributions import Mixture, StandardNormal, Vamp, reparameterize
from pipeline.evaluation.pictures import compute_pictures
from pipeline.figures.model_images import draw_model
from pipeline.models import PRIORS, HierarchicalVAE, build
from pipeline.objectives import elbo
from pipeline.params import ModelParams
from pipeline.training import fit
from tests.small import model_params, splits, train_params

pytestmark = pytest.mark.usefixtures("float64")

# Of the prior diffusion, which adds levels: tests/test_latent_diffusion.py
priors = pytest.mark.parametrize("prior", [prior for prior in PRIORS if prior != "diffusion"])
both = pytest.mark.parametrize("parents", ["nearest", "every"])
directions = pytest.mark.parametrize("inference", ["bottom_up", "top_down"])
depths = pytest.mark.parametrize("depth", [1, 2, 3])


def model(**changes: Any) -> HierarchicalVAE:
    """Build a small model for six pixels, away from its start so that components differ."""
    built = build(model_params(**changes), torch.full((6,), 0.4))
    with torch.no_grad():
        for value in built.parameters():
            value += 0.4 * torch.randn_like(value)
    return built


def top(of: HierarchicalVAE) -> Distribution:
    """Return p(z_T)."""
    return of.generative[-1]()


def test_every_prior_that_params_allow_is_there() -> None:
    """The registry's keys are the choices of `model.prior`, in their order."""
    assert tuple(PRIORS) == get_args(ModelParams.model_fields["prior"].annotation)


@priors
@directions
@both
@depths
def test_every_prior_takes_its_place(prior: str, inference: str, parents: str, depth: int) -> None:
    """Bound, samples and decoding have the shapes of the model, and gradients reach every weight of the prior."""
    built = model(prior=prior, inference=inference, parents=parents, depth=depth, z_dim=6)
    widths = model_params(depth=depth, z_dim=6).level_widths
    bound = elbo(built, torch.bernoulli(torch.full((4, 6), 0.5)), draws=3)
    assert bound.rate.shape == (depth, 3, 4)
    bound.elbo.sum().backward()
    for value in built.generative[-1].parameters():
        assert value.grad is not None
        assert value.grad.isfinite().all()
        assert value.grad.any()
    assert [node.shape for node in built.sample(5)] == [(5, 6), *((5, width) for width in widths)]
    decoded = built.decode_noise([torch.randn(5, width) for width in widths])
    assert decoded.shape == (5, 6)


@pytest.mark.parametrize("prior", ["vamp", "mixture"])
def test_a_mixture_is_the_sum_of_its_components(prior: str) -> None:
    """Log p(z) is the logsumexp of the components' densities and the log of their weights."""
    p = top(model(prior=prior))
    assert isinstance(p, MixtureSameFamily)
    z = torch.randn(7, 1, 2)
    parts = p.mixture_distribution.logits.log_softmax(-1) + p.component_distribution.log_prob(z)
    torch.testing.assert_close(p.log_prob(z[:, 0]), parts.logsumexp(-1))
    assert p.component_distribution.batch_shape == (3,)


@priors
def test_noise_becomes_draws_of_the_prior(prior: str) -> None:
    """Standard normal noise is carried over to the prior itself: mean, covariance, component shares and tails agree."""
    p = top(model(prior=prior, widths=(4, 2)))
    with torch.no_grad():
        z, drawn = reparameterize(p, torch.randn(100_000, 2)), p.sample((100_000,))
    for function in (lambda v: v, lambda v: v**2, lambda v: v[:, :1] * v[:, 1:], lambda v: (v > 1).double(), torch.sin):
        a, b = function(z), function(drawn)
        error = ((a.var(0) + b.var(0)) / 100_000).sqrt()
        assert ((a.mean(0) - b.mean(0)).abs() < 4.5 * error).all()
    torch.testing.assert_close(p.log_prob(z).mean(), p.log_prob(drawn).mean(), rtol=0, atol=0.02)


def test_noise_of_a_component_s_share_is_its_own_noise() -> None:
    """In one unit the map is the inverse distribution function within the component that the uniform falls in."""
    prior = Mixture(1, 2)
    with torch.no_grad():
        prior.weight.copy_(torch.tensor([0.75, 0.25]).log())
        prior.raw[:, 0] = torch.tensor([-5.0, 5.0])
        uniform = torch.tensor([0.375, 0.9, 0.875])
        z = reparameterize(prior(), torch.special.ndtri(uniform)[:, None])[:, 0]
    sigma = prior().component_distribution.stddev[:, 0]
    expected = torch.tensor([-5.0, 5.0, 5.0]) + torch.special.ndtri(torch.tensor([0.5, 0.6, 0.5])) * sigma[[0, 1, 1]]
    torch.testing.assert_close(z, expected)


def test_the_noise_of_a_normal_is_scaled_and_shifted() -> None:
    """For the standard normal prior the map changes nothing."""
    noise = torch.randn(5, 3)
    assert torch.equal(reparameterize(StandardNormal(3)(), noise), noise)


@directions
@both
def test_a_vamp_prior_of_one_level_is_the_aggregated_posterior_of_its_images(inference: str, parents: str) -> None:
    """At depth 1 p(z) is the mean over pseudo-inputs of q(z|u), u images in [0, 1]."""
    built = model(depth=1, prior="vamp", inference=inference, parents=parents)
    prior = built.generative[-1]
    assert isinstance(prior, Vamp)
    (u,) = prior.pseudo_inputs()
    assert u.shape == (3, 6)
    assert ((u > 0) & (u < 1)).all()
    _, (q,) = built.posterior(u)
    z = torch.randn(9, 4)
    expected = q.log_prob(z[:, None]).logsumexp(1) - torch.tensor(3.0).log()
    torch.testing.assert_close(prior().log_prob(z), expected)


def test_pseudo_inputs_of_deeper_models_are_what_the_top_rung_sees() -> None:
    """Bottom-up: z_{T-1}, or every node below z_T with the image last; top-down: images at any depth."""

    def widths(**changes: Any) -> list[int]:
        return [u.shape[1] for u in model(prior="vamp", depth=3, z_dim=4, **changes).generative[-1].pseudo_inputs()]

    assert widths() == [2]
    assert widths(parents="every") == [2, 4, 6]
    assert widths(inference="top_down") == [6]
    *latent, image = model(prior="vamp", depth=2, parents="every").generative[-1].pseudo_inputs()
    assert ((image > 0) & (image < 1)).all()
    assert (latent[0].abs() > 1).any()


def test_pseudo_inputs_start_near_the_mean_of_the_data() -> None:
    """Untrained images are the data's mean with noise: at its median, no two alike."""
    mean = torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9, 1.0])
    (u,) = build(model_params(depth=1, prior="vamp", pseudo_inputs=4001), mean).generative[-1].pseudo_inputs()
    torch.testing.assert_close(u.median(0).values, mean.clamp(0.01, 0.99), rtol=0, atol=0.03)
    assert len(u.unique(dim=0)) == 4001


def test_the_weights_of_the_encoder_are_listed_once() -> None:
    """A vamp prior adds its pseudo-inputs alone to the state, which is one file without shared tensors."""
    plain, vamp = model(), model(prior="vamp")
    added = vamp.state_dict().keys() - plain.state_dict().keys()
    assert added == {"generative.2.pseudo.0"}
    assert save({name: value.contiguous() for name, value in vamp.state_dict().items()})


def test_a_copy_has_a_prior_of_its_own_encoder() -> None:
    """A deep copy's prior follows the copy's encoder, and the original's its own."""
    for inference in ("bottom_up", "top_down"):
        built = model(depth=1, prior="vamp", inference=inference)
        other, z = copy.deepcopy(built), torch.randn(2, 4)
        before = top(built).log_prob(z)
        torch.testing.assert_close(top(other).log_prob(z), before)
        with torch.no_grad():
            for value in other.inference.parameters():
                value += 1
        torch.testing.assert_close(top(built).log_prob(z), before)
        assert not torch.allclose(top(other).log_prob(z), before)


def last_bound(data: Splits, **changes: Any) -> tuple[Tensor, float]:
    """Train a one-level model, and return its prior's weights and its last validation bound."""
    torch.manual_seed(0)
    built = build(model_params(depth=1, z_dim=2, **changes), torch.tensor(data.mean).double())
    start = torch.cat([value.detach().flatten().clone() for value in built.generative[-1].parameters()])
    records = list(fit(built, data, train_params(epochs=15, learning_rate=0.02), seed=0))
    end = torch.cat([value.detach().flatten() for value in built.generative[-1].parameters()])
    assert records[-1].metrics["valid/elbo"] > records[0].metrics["valid/elbo"]
    return end - start, records[-1].metrics["valid/elbo"]


@pytest.mark.parametrize("prior", ["vamp", "mixture"])
def test_a_learned_prior_is_learned(prior: str) -> None:
    """Training raises the bound and moves every weight of the prior."""
    moved, _ = last_bound(splits("static"), prior=prior)
    assert moved.all()


@pytest.mark.parametrize("prior", ["vamp", "mixture"])
def test_the_figures_are_drawn_for_every_prior(prior: str, tmp_path: Path) -> None:
    """The evaluation's samples, reconstructions and levels are drawn whatever the prior."""
    data = splits()
    built = build(model_params(prior=prior, depth=3), torch.tensor(data.mean).double())
    test = torch.tensor(data.test)
    arrays = compute_pictures(built, data, test, torch.rand(len(test)), columns=2, seed=0)
    paths = draw_model(tmp_path, arrays, name="variant")
    assert [path.name for path in paths] == ["samples.png", "reconstructions.png", "levels.png"]
    assert all(path.exists() for path in paths)
