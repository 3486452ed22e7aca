"""Flows: densities that integrate to one, exact maps from noise and back, and where they stand in a model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributions import Distribution, MixtureSameFamily, MultivariateNormal

import pipeline as cave
from pipeline.distributions import FlowDistribution, FlowPrior, InverseAutoregressive, reparameterize, to_noise
from pipeline.errors import InputError
from pipeline.evaluation.annealing.paths import PATHS
from pipeline.evaluation.latents import has_units_apart
from pipeline.evaluation.levels import level_terms
from pipeline.models import HierarchicalVAE, build
from pipeline.models.checkpoint import load, save_model
from pipeline.objectives import elbo, pathwise_terms, top_down_kl
from pipeline.params import ModelParams, Params
from pipeline.testing import interval
from pipeline.training import fit
from pipeline.training.manual import ManualGradient
from tests.small import ROOT, covering, model_params, splits, train_params

pytestmark = pytest.mark.usefixtures("float64")

POSTERIORS = ["gaussian", "full", "iaf"]
posteriors = pytest.mark.parametrize("posterior", POSTERIORS)
flows = pytest.mark.parametrize("kind", ["prior", "iaf"])
X = torch.tensor([[1, 0, 0, 1, 1, 0], [0, 0, 1, 1, 0, 1], [1, 1, 1, 0, 0, 0], [0, 1, 0, 1, 0, 0]], dtype=torch.float64)


def moved(module: torch.nn.Module, by: float = 0.4) -> Any:
    """Return the module, every weight moved at random."""
    with torch.no_grad():
        for value in module.parameters():
            value += by * torch.randn_like(value)
    return module


def model(**changes: Any) -> HierarchicalVAE:
    """Build a small model for six pixels, away from its start."""
    built: HierarchicalVAE = moved(build(model_params(**changes), torch.full((6,), 0.4)))
    return built


def flow(kind: str, units: int) -> Distribution:
    """Return a flow of so many units, away from its start."""
    if kind == "prior":
        prior: Distribution = moved(FlowPrior(units, 2, (8,)))()
        return prior
    family: InverseAutoregressive = moved(InverseAutoregressive(units, 2, (8,)))
    return family.distribution(torch.randn(family.raw_numbers(units)))


@flows
@pytest.mark.parametrize("units", [1, 2])
@torch.no_grad()
def test_a_density_integrates_to_one(kind: str, units: int) -> None:
    """Over a grid of one or two units: the mass is 1, and mean and deviation are those of the draws of `mean`."""
    p = flow(kind, units)
    ends = 9.0 if kind == "prior" else 30.0
    z, volume = interval(-ends, ends, 4000 if units == 1 else 25)
    grid = torch.cartesian_prod(*[z] * units).view(-1, units)
    mass = torch.cartesian_prod(*[volume] * units).view(-1, units).prod(-1) * p.log_prob(grid).exp()
    torch.testing.assert_close(mass.sum(), torch.tensor(1.0), rtol=0, atol=1e-5 if units == 1 else 3e-3)
    mean = mass @ grid
    assert ((p.mean - mean).abs() < 5 * p.stddev / 2**7).all()
    deviation = (mass @ (grid - mean) ** 2).sqrt()
    torch.testing.assert_close(p.stddev, deviation, rtol=0.06, atol=0)


@flows
def test_a_density_is_that_of_its_noise(kind: str) -> None:
    """Change of variables: log p(z) = log N(eps) - log |det dz/deps| by the Jacobian; eps comes back from z."""
    p, noise = flow(kind, 4), torch.randn(4)
    z = reparameterize(p, noise)
    jacobian = torch.autograd.functional.jacobian(lambda eps: reparameterize(p, eps), noise)
    expected = torch.distributions.Normal(0.0, 1.0).log_prob(noise).sum() - torch.linalg.slogdet(jacobian).logabsdet
    torch.testing.assert_close(p.log_prob(z.clone()), expected)
    torch.testing.assert_close(to_noise(p, z), noise)


@flows
def test_a_draw_keeps_its_density(kind: str) -> None:
    """Of the tensor that was drawn, the log-density is at hand; of an equal one it is worked out, with equal slopes."""
    p = flow(kind, 3).expand((2, 5))
    torch.manual_seed(0)
    z = p.rsample()
    assert z.shape == (2, 5, 3)
    torch.testing.assert_close(p.log_prob(z), p.log_prob(z.clone()))
    with torch.no_grad():
        drawn = p.sample()
    assert p.log_prob(drawn).requires_grad  # a draw without a graph has left none to be taken for one


@posteriors
@pytest.mark.parametrize("depth", [1, 2])
def test_every_form_starts_as_the_gaussian(posterior: str, depth: int) -> None:
    """With the head's weights 0 all three posteriors are N(0, I) at the start, and the prior flow always is."""
    built = build(model_params(posterior=posterior, prior="flow", depth=depth), torch.full((6,), 0.4))
    with torch.no_grad():
        for rung in built.inference:
            rung.network[-1].weight.zero_()
    z, q = built.posterior(X, 3)
    for z_t, q_t in zip(z[1:], q, strict=True):
        normal = torch.distributions.Normal(0.0, 1.0).log_prob(z_t).sum(-1)
        torch.testing.assert_close(q_t.log_prob(z_t.clone()), normal)
    top = torch.randn(7, z[-1].shape[-1])
    torch.testing.assert_close(
        built.generative[-1]().log_prob(top), torch.distributions.Normal(0.0, 1.0).log_prob(top).sum(-1)
    )


def test_a_flow_prior_starts_with_the_bound_of_the_normal_one() -> None:
    """It is built after all other networks, which are therefore equal, and is the identity."""
    bounds = []
    for prior in ("normal", "flow"):
        torch.manual_seed(0)
        built = build(model_params(prior=prior), torch.full((6,), 0.4))
        torch.manual_seed(1)
        bounds.append(elbo(built, X, 2).log_weight)
    torch.testing.assert_close(*bounds)


@covering(
    "posterior, prior, parents",
    POSTERIORS,
    ["normal", "vamp", "mixture", "flow"],
    ["nearest", "every"],
)
def test_posteriors_and_priors_go_together(posterior: str, prior: str, parents: str) -> None:
    """Terms have their shapes, and gradients reach every weight; log q at the draws is log q at equal nodes."""
    if (posterior, prior) == ("iaf", "vamp"):
        pytest.skip("refused")
    built = model(posterior=posterior, prior=prior, parents=parents)
    bound = elbo(built, X, 3)
    assert bound.rate.shape == (2, 3, 4)
    bound.elbo.sum().backward()
    assert all(w.grad is not None and w.grad.isfinite().all() and w.grad.any() for w in built.parameters())
    z, q = built.posterior(X, 3)
    for z_t, own, again in zip(z[1:], q, built.posterior_at([node.clone() for node in z]), strict=True):
        torch.testing.assert_close(own.log_prob(z_t), again.log_prob(z_t.clone()))
    noise = [torch.randn(4, 4), torch.randn(4, 2)]
    assert built.decode_noise(noise).shape == (4, 6)
    if posterior != "gaussian" or prior == "flow":
        assert not ManualGradient.supports(built)


@posteriors
def test_the_pathwise_gradient_has_the_mean_of_the_ordinary_one(posterior: str) -> None:
    """The score that stl leaves out has mean 0: over many draws both gradients of phi agree."""
    built = model(posterior=posterior, prior="flow", depth=1, z_dim=2)
    weight = built.inference[0].network[-1].bias
    gradients = []
    for measure in (elbo, pathwise_terms):
        parts = [torch.autograd.grad(measure(built, X, 400).elbo.sum(), weight)[0] for _ in range(10)]
        gradients.append(torch.stack(parts))
    error = sum(g.var(0) / len(g) for g in gradients).sqrt()
    assert ((gradients[0].mean(0) - gradients[1].mean(0)).abs() < 4.5 * error).all()


def test_a_mixture_of_full_gaussians_takes_noise() -> None:
    """The prior vamp of full posteriors: noise is carried over to draws of the mixture."""
    p = model(posterior="full", prior="vamp", widths=(4, 2)).generative[-1]()
    assert isinstance(p, MixtureSameFamily)
    assert isinstance(p.component_distribution, MultivariateNormal)
    with torch.no_grad():
        z, drawn = reparameterize(p, torch.randn(40_000, 2)), p.sample((40_000,))
    for function in (lambda v: v, lambda v: v**2, lambda v: v[:, :1] * v[:, 1:]):
        a, b = function(z), function(drawn)
        assert ((a.mean(0) - b.mean(0)).abs() < 4.5 * ((a.var(0) + b.var(0)) / 40_000).sqrt()).all()


@posteriors
@pytest.mark.parametrize("path", list(PATHS))
def test_annealing_starts_anywhere(posterior: str, path: str) -> None:
    """Non-centred coordinates exist: on the path `posterior` the ratio is the log-weight, and draws are located."""
    built = model(posterior=posterior, prior="flow")
    terms = PATHS[path](built, X)
    eps = terms.draw(3)
    base, ratio = terms.terms(eps)
    assert base.shape == ratio.shape == (3, 4)
    assert ratio.isfinite().all()
    if path == "posterior":
        noise = torch.randn(1, 4, 6)
        nodes = built.decode_noncentered(noise[0].split([4, 2], dim=-1))[0]
        located = terms.locate(noise[0], nodes)
        back = built.posterior(X, 1, noise=located[None].split([4, 2], dim=-1))[0]
        for z_t, node in zip(back[1:], nodes, strict=True):
            torch.testing.assert_close(z_t[0], node)


def test_levels_are_taken_apart_with_a_flow() -> None:
    """(c) and (d) hold draw by draw for flows: their sums are the KL and the gap."""
    built = model(posterior="iaf", prior="flow")
    terms, _ = level_terms(built, X, draws=3, inner=4, outer=5)
    for name, total in (("chain_kl", "levels/kl"), ("gap", "levels/gap")):
        torch.testing.assert_close(sum(terms[f"{name}/z{t}"][0] for t in (1, 2)), terms[total][0])
    assert not has_units_apart(built, X)
    assert has_units_apart(model(prior="flow"), X)


def test_a_ladder_has_a_flow_as_its_prior() -> None:
    """Its top level's divergence has no closed form, and the log-ratio stands in."""
    built = model(inference="top_down", prior="flow")
    assert isinstance(built.generative[-1](), FlowDistribution)
    assert top_down_kl(built, X, 2).shape == (2, 2, 4)


@covering("posterior, prior", POSTERIORS, ["normal", "flow"])
def test_training_lowers_the_loss_and_a_checkpoint_has_all_of_it(posterior: str, prior: str, tmp_path: Path) -> None:
    """A few epochs raise the bound; the model that is saved is the one that loads, and needs no gradient by hand."""
    torch.set_default_dtype(torch.float32)
    data = splits("static")
    params = model_params(posterior=posterior, prior=prior)
    built = build(params, torch.tensor(data.mean, dtype=torch.float32), data.shape)
    records = list(fit(built, data, train_params(epochs=4, learning_rate=0.02, ema=0.9), seed=0))
    bounds = [record.metrics["valid/elbo"] for record in records]
    assert bounds[-1] > bounds[0]
    save_model(tmp_path, built, params, data)
    loaded = load(tmp_path)
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, built.state_dict()[name])


def test_python_trains_measures_and_decomposes() -> None:
    """`cave.fit` takes the settings by name; surgery and gaps, which need units apart, are left out for a flow."""
    torch.set_default_dtype(torch.float32)
    images = (np.random.default_rng(0).random((30, 4, 4)) < 0.5).astype(float)
    settings = {"posterior": "iaf", "prior": "flow", "flow_hidden": [4], "depth": 2, "z_dim": 3, "hidden": [[6]]}
    trained = cave.fit(images, **settings, objective="stl", epochs=1, progress=False)
    table = cave.evaluate(trained, images[:4], draws=20, active_draws=20)
    assert {"active/z1", "active/z2"} <= set(table.index)
    few = {"level_images": 2, "level_draws": 2, "inner_draws": 3, "simulated": 2}
    keys = set(cave.decompose(trained, images[:4], draws=20, **few).index)
    assert {"chain_kl/z1", "levels/gap"} <= keys
    assert "mutual_information" not in keys
    assert trained.encode(images)[0].shape == (30, 3)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"model.posterior": "full", "model.inference": "top_down"},
            "'full' given with inference top_down; allowed: g",
        ),
        ({"model.posterior": "iaf", "model.prior": "vamp"}, "'iaf' given with prior vamp, which would invert it"),
        ({"model.posterior": "iaf", "model.z_dim": 600}, "'iaf' given with a level of 600 units; allowed: at most 512"),
        ({"model.prior": "flow", "model.z_dim": 600}, "model.prior: 'flow' given with a level of 600 units"),
        ({"model.prior": "flow", "model.network": "resnet", "model.latents": "maps"}, "'flow' given with latents maps"),
        ({"model.flow_transforms": 0}, "model.flow_transforms: 0 given; allowed: greater than or equal to 1"),
        ({"model.flow_hidden": ()}, "model.flow_hidden"),
        ({"model.posterior": "flow"}, "model.posterior: 'flow' given; allowed: gaussian, full, iaf"),
    ],
)
def test_what_does_not_go_together_is_refused(overrides: dict[str, Any], message: str) -> None:
    """Each is an error of one line."""
    with pytest.raises(InputError, match=message):
        Params.read(ROOT / "params.yaml", overrides)


def test_zuko_is_imported_where_a_flow_is_built_and_changes_nothing_else() -> None:
    """Commands do not wait for it, and torch's distributions still check their arguments afterwards."""
    program = """
import sys, torch, pipeline.cli
from pipeline.distributions import FlowPrior
assert "zuko" not in sys.modules
FlowPrior(2, 1, (4,))
assert "zuko" in sys.modules
try:
    torch.distributions.Normal(0.0, -1.0)
except ValueError:
    print("checked")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout == "checked\n"


def test_a_model_larger_than_its_limit_is_not_built(tmp_path: Path) -> None:
    """A description may claim any size, which is refused before memory is taken."""
    with pytest.raises(ValueError, match="at most 512 units"):
        build(ModelParams(**model_params(prior="flow").model_dump() | {"z_dim": 65536, "z_ratio": 1.0}), torch.zeros(6))
