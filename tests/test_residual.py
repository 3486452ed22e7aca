"""Chains whose upper levels start as a diffusion's steps: exact at the start, and models like any other."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributions import kl_divergence

from pipeline.distributions import Conditional, Correction, DiagGaussian, StandardNormal, merge
from pipeline.errors import InputError
from pipeline.evaluation.decompose import decompose
from pipeline.models import HierarchicalVAE, build
from pipeline.models.checkpoint import load, save_model
from pipeline.models.residual import KEPT, NoiseStep
from pipeline.objectives import OBJECTIVES, PATHWISE, elbo, pathwise_terms, top_down_kl
from pipeline.params import ModelParams, Params
from pipeline.params.rules import check_model
from pipeline.training import fit
from pipeline.training.manual import ManualGradient
from tests.small import ROOT, covering, data_params, model_params, splits, train_params
from tests.workshop import DECOMPOSE, QUICK

float64 = pytest.mark.usefixtures("float64")
WIDTHS = [(4, 4, 4), (6, 4, 3), (3, 5, 4)]
PLAIN: dict[str, Any] = {}
MAPS = {"network": "resnet", "latents": "maps", "hidden": ((5,), (4,))}


def residual(**changes: Any) -> tuple[HierarchicalVAE, ModelParams]:
    """Build a chain of three levels for images of 4 x 4 pixels."""
    params = model_params(**{"parametrization": "residual", "depth": 3} | changes)
    return build(params, torch.full((16,), 0.4), (1, 4, 4)), params


def moved(model: HierarchicalVAE) -> HierarchicalVAE:
    """Return the model with other weights, so that every network adds something."""
    with torch.no_grad():
        for value in model.parameters():
            value += 0.2 * torch.randn_like(value)
    return model


# --- The start


@float64
@covering("widths, parents, form", WIDTHS, ["nearest", "every"], [PLAIN, MAPS, {"batch_norm": True}])
def test_upper_levels_start_as_an_exact_chain(widths: tuple[int, ...], parents: str, form: dict[str, Any]) -> None:
    """At every draw log p(z_1:T) - log q(z_2:T | z_1) is log N(z_1; 0, I), so that only z_1 has a divergence."""
    model, _ = residual(widths=widths, parents=parents, **form)
    units = model.posterior(torch.zeros(1, 16))[0][1].shape[-1]
    x, z_1 = torch.rand(5, 16).round(), torch.randn(7, 5, units)
    z, q = model.eval().posterior(x, 7, [z_1])
    p = model.joint(z)
    up = sum(factor.log_prob(node) for factor, node in zip(q, z[2:], strict=True))
    down = sum(factor.log_prob(node) for factor, node in zip(p[1:], z[1:], strict=True))
    torch.testing.assert_close(down - up, StandardNormal(units)().log_prob(z_1), rtol=1e-10, atol=1e-10)


@float64
@pytest.mark.parametrize("widths", WIDTHS)
def test_a_step_keeps_the_units_that_both_levels_have(widths: tuple[int, ...]) -> None:
    """Their mean is a z and their variance 1 - a^2; all other units are N(0, 1)."""
    model, _ = residual(widths=widths)
    z = torch.randn(9, widths[0])
    q, both = model.inference[1](z), min(widths[:2])
    assert torch.equal(q.mean[:, :both], KEPT * z[:, :both])
    assert not q.mean[:, both:].any()
    expected = torch.tensor([1 - KEPT**2] * both + [1.0] * (widths[1] - both))
    torch.testing.assert_close(q.variance, expected.expand_as(q.variance))


@float64
@pytest.mark.parametrize("form", [PLAIN, MAPS])
@pytest.mark.parametrize("parents", ["nearest", "every"])
def test_a_ladder_starts_without_divergence_below_its_top(parents: str, form: dict[str, Any]) -> None:
    """There q(z_t | .) is p(z_t | .) itself; with other weights each divergence is positive and sums to the rate."""
    model, _ = residual(parents=parents, inference="top_down", **form)
    x = torch.rand(4, 16).round()
    assert top_down_kl(model, x, 3)[:-1].abs().max() < 1e-12
    with torch.no_grad():
        kl, rate = top_down_kl(moved(model), x, 4000), elbo(model, x, 4000).rate
    assert (kl > 0).all()
    error = ((kl.var(1) + rate.var(1)) / 4000).sqrt()
    assert ((kl.mean(1) - rate.mean(1)).abs() < 5 * error).all()


@float64
def test_a_correction_counts_in_deviations_of_p() -> None:
    """Its divergence from p depends on the correction alone: that of N(m, r^2) from N(0, 1)."""
    p = DiagGaussian(torch.randn(5, 3), 0.1 + torch.rand(5, 3))
    correction = Correction(torch.randn(5, 3), 0.1 + torch.rand(5, 3))
    standard = DiagGaussian(torch.zeros(5, 3), torch.ones(5, 3))
    torch.testing.assert_close(kl_divergence(merge(p, correction), p), kl_divergence(correction, standard))


def test_the_first_level_is_that_of_a_plain_chain() -> None:
    """p(x | z_1), q(z_1 | x) and, of a single level, everything are built alike, from the same random numbers."""
    for depth in (1, 3):
        states = []
        for form in ("plain", "residual"):
            torch.manual_seed(0)
            states.append(residual(parametrization=form, depth=depth)[0].state_dict())
        assert list(states[0]) == list(states[1])
        alike = [name for name in states[0] if torch.equal(states[0][name], states[1][name])]
        first = [name for name in states[0] if name.startswith(("generative.0", "inference.0"))]
        assert set(first) <= set(alike)
        assert (alike == list(states[0])) is (depth == 1)


@float64
def test_upper_levels_start_without_gap() -> None:
    """Whatever z_1 is, the true divergences of the levels above it are 0, and so are their gaps."""
    evaluate = Params.read(ROOT / "params.yaml", QUICK | {"evaluate.decompose": DECOMPOSE}).evaluate
    model, _ = residual(widths=(5, 3, 4))
    test = torch.as_tensor(splits("static").test)
    results = decompose(model, test, 255, evaluate, evaluate.decompose).estimates
    for name in ("chain_kl/z2", "chain_kl/z3", "gap/z2", "gap/z3"):
        assert abs(results[name].value) < 1e-5


# --- Models like any other


@float64
@pytest.mark.parametrize("inference", ["bottom_up", "top_down"])
@pytest.mark.parametrize("prior", ["normal", "vamp", "mixture"])
def test_no_example_sees_another_and_all_weights_learn(inference: str, prior: str) -> None:
    """Factors of one example alone are those that it has among others."""
    model = moved(residual(inference=inference, prior=prior, parents="every", widths=(5, 3, 4))[0])
    x = torch.rand(4, 16).round()
    elbo(model, x, draws=2).elbo.mean().backward()
    assert all(value.grad is not None and value.grad.any() for value in model.parameters())
    z, q = model.posterior(x)
    alone = [node[:, 1:2] for node in z]
    for factor, again, own, node in zip(q, model.posterior_at(z), model.posterior_at(alone), z[1:], strict=True):
        torch.testing.assert_close(again.log_prob(node), factor.log_prob(node))
        torch.testing.assert_close(own.log_prob(node[:, 1:2]), factor.log_prob(node)[:, 1:2])


@float64
@pytest.mark.parametrize("inference", ["bottom_up", "top_down"])
@pytest.mark.parametrize("objective", list(OBJECTIVES))
def test_every_objective_has_a_gradient(objective: str, inference: str) -> None:
    """Also those that hold the encoder constant in log q."""
    model = moved(residual(inference=inference, parents="every")[0])
    measure = pathwise_terms if objective in PATHWISE else elbo
    OBJECTIVES[objective](measure(model, torch.rand(3, 16).round(), 3), 0.7).mean().backward()
    assert all(value.grad is not None and value.grad.isfinite().all() for value in model.parameters())


def test_the_gradient_by_hand_is_for_chains_without_steps() -> None:
    """Autograd trains a residual chain; with a single level there is no step, and the gradient is the plain one."""
    assert not ManualGradient.supports(residual()[0])
    assert ManualGradient.supports(residual(depth=1)[0])
    assert ManualGradient.supports(residual(parametrization="plain")[0])


@pytest.mark.parametrize("inference", ["bottom_up", "top_down"])
def test_it_trains_comes_back_and_is_taken_apart(inference: str, tmp_path: Path) -> None:
    """Epochs raise the bound; the checkpoint gives the same model; the decompositions have all levels."""
    data = splits("static")
    model, params = residual(inference=inference)
    records = list(fit(model, data, train_params(epochs=3), seed=0))
    assert records[-1].metrics["valid/elbo"] > records[0].metrics["valid/elbo"]
    save_model(tmp_path, model, params, data)
    again = load(tmp_path)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
    rungs = [rung for rung in again.generative if isinstance(rung, Conditional)]
    assert [isinstance(rung.network, NoiseStep) for rung in rungs] == [False, True, True]
    evaluate = Params.read(ROOT / "params.yaml", QUICK | {"evaluate.decompose": DECOMPOSE}).evaluate
    results = decompose(again, torch.as_tensor(data.test), data.scale, evaluate, evaluate.decompose).estimates
    assert all(math.isfinite(estimate.value) for estimate in results.values())
    assert any(name.endswith("z3") for name in results)


def test_a_checkpoint_of_an_earlier_version_is_plain(tmp_path: Path) -> None:
    """A `model.json` without the parameter gives a plain chain."""
    data = splits("static")
    model = build(model_params(), torch.tensor(data.mean, dtype=torch.float32), data.shape)
    save_model(tmp_path, model, model_params(), data)
    description = json.loads((tmp_path / "model.json").read_text())
    del description["model"]["parametrization"]
    (tmp_path / "model.json").write_text(json.dumps(description))
    assert ManualGradient.supports(load(tmp_path))


def test_a_posterior_of_ones_own_is_refused() -> None:
    """Its rungs have other raw numbers than a mean and a scale."""
    own = model_params(parametrization="residual").model_copy(update={"inference": "mine"})
    with pytest.raises(InputError, match="'residual' given with inference mine; allowed: plain"):
        check_model(own, data_params())


def test_a_residual_chain_has_posteriors_of_independent_units() -> None:
    """Other posteriors, and free bits where rates are negative, are refused in one line."""
    residual = {"model.depth": 2, "model.parametrization": "residual"}
    for name, value in (("model.posterior", "full"), ("model.posterior", "iaf"), ("train.free_bits", 0.5)):
        with pytest.raises(InputError, match=rf"{name}: .* given with parametrization residual"):
            Params.read(ROOT / "params.yaml", residual | {name: value})
