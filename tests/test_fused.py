"""The fused densities against those of torch.distributions: values, gradients, shapes, draws, bounds, memory."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Independent, Normal, kl_divergence
from torch.func import functional_call

import pipeline.distributions.bernoulli
import pipeline.distributions.families
from pipeline.distributions import BernoulliVector, DiagGaussian, Family
from pipeline.distributions.bernoulli import _factors
from pipeline.models import build
from pipeline.objectives import elbo
from tests.small import ROOT, model_params

SHAPES = [
    ((5,), (5,)),
    ((1, 7), (1, 7)),
    ((6, 4, 7), (1, 4, 7)),
    ((1, 4, 7), (6, 4, 7)),
    ((4, 1, 3, 5), (4, 2, 3, 5)),
    ((3, 784), (784,)),
    ((560,), (3, 2, 560)),
    ((2, 3, 101), (2, 3, 101)),
]
shapes = pytest.mark.parametrize(("arguments", "value"), SHAPES, ids=lambda shape: "x".join(map(str, shape)))
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
kinds = pytest.mark.parametrize("kind", ["bernoulli", "gaussian"])


def pair(
    kind: str, arguments: tuple[int, ...], value: tuple[int, ...], dtype: torch.dtype
) -> tuple[list[Tensor], Tensor]:
    """Return the parameters of a distribution, and values under it."""
    if kind == "bernoulli":
        return [5 * torch.randn(arguments, dtype=dtype)], (torch.rand(value) < 0.4).to(dtype)
    return [torch.randn(arguments, dtype=dtype), torch.rand(arguments, dtype=dtype) + 0.1], torch.randn(
        value, dtype=dtype
    )


def fused(kind: str, *parameters: Tensor) -> Independent:
    """Return the form under test."""
    return BernoulliVector(*parameters) if kind == "bernoulli" else DiagGaussian(*parameters)


def plain(kind: str, *parameters: Tensor) -> Independent:
    """Return the same distribution as torch has it."""
    base = Bernoulli(logits=parameters[0], validate_args=False) if kind == "bernoulli" else Normal(*parameters)
    return Independent(base, 1, validate_args=False)


def gradients(density: Tensor, inputs: list[Tensor]) -> tuple[Tensor, ...]:
    """Return the gradients of the densities, weighed unevenly."""
    weight = torch.linspace(0.5, 2, density.numel(), dtype=density.dtype).view(density.shape)
    return torch.autograd.grad((density * weight).sum(), inputs)


@kinds
@dtypes
@shapes
def test_densities_and_gradients_are_those_of_torch(
    kind: str, dtype: torch.dtype, arguments: tuple[int, ...], value: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values, shapes and gradients in every input agree, in one piece and in many."""
    parameters, x = pair(kind, arguments, value, dtype)
    inputs = [tensor.requires_grad_() for tensor in (*parameters, x)]
    expected = plain(kind, *parameters).log_prob(x)
    found_gradients = gradients(expected, inputs)
    for size in (100_000, 1000, 30, 1):
        monkeypatch.setattr(pipeline.distributions.bernoulli, "PIECE", size)
        with torch.no_grad():
            torch.testing.assert_close(fused(kind, *parameters).log_prob(x), expected)
        actual = fused(kind, *parameters).log_prob(x)
        torch.testing.assert_close(actual, expected)
        for one, other in zip(gradients(actual, inputs), found_gradients, strict=True):
            torch.testing.assert_close(one, other)


@kinds
@pytest.mark.parametrize(("arguments", "value"), [((0, 4, 7), (1, 4, 7)), ((1, 0, 7), (3, 0, 7))])
def test_no_rows_have_no_density(kind: str, arguments: tuple[int, ...], value: tuple[int, ...]) -> None:
    """Without draws or examples there are no densities, and the gradients are empty or zero."""
    parameters, x = pair(kind, arguments, value, torch.float32)
    inputs = [tensor.requires_grad_() for tensor in (*parameters, x)]
    density = fused(kind, *parameters).log_prob(x)
    assert density.shape == torch.broadcast_shapes(arguments, value)[:-1]
    with torch.no_grad():
        assert fused(kind, *parameters).log_prob(x).shape == density.shape
    assert not any(gradient.any() for gradient in torch.autograd.grad(density.sum(), inputs))


@kinds
@pytest.mark.parametrize("which", [0, 1, -1])
def test_a_gradient_of_one_input_alone_is_right_and_has_a_gradient(kind: str, which: int) -> None:
    """First and second derivatives in each input alone are those of finite differences."""
    parameters, x = pair(kind, (3, 2, 4), (1, 2, 4), torch.float64)
    inputs = [*parameters, x]
    inputs[which].requires_grad_()

    def density(tensor: Tensor) -> Tensor:
        own = list(inputs)
        own[which] = tensor
        return fused(kind, *own[:-1]).log_prob(own[-1])

    if kind == "gaussian" or which != -1:
        assert torch.autograd.gradcheck(density, inputs[which])
        assert torch.autograd.gradgradcheck(density, inputs[which])


@dtypes
@pytest.mark.parametrize("size", [20.0, 89.0, 200.0, 1e4])
def test_extreme_logits_cost_what_they_should(dtype: torch.dtype, size: float) -> None:
    """Logits of +-10,000 give exact densities and gradients, for both values of 784 pixels."""
    logits = torch.full((4, 784), size, dtype=dtype)
    logits[1::2] *= -1
    logits.requires_grad_()
    for x in (torch.zeros(784, dtype=dtype), torch.ones(784, dtype=dtype), torch.full((784,), 0.25, dtype=dtype)):
        actual, expected = (kind("bernoulli", logits).log_prob(x) for kind in (fused, plain))
        alone = fused("bernoulli", logits.detach()).log_prob(x)
        torch.testing.assert_close(alone, expected.detach(), rtol=1e-6, atol=784 * torch.finfo(dtype).eps)
        torch.testing.assert_close(gradients(actual, [logits]), gradients(expected, [logits]))


def test_single_precision_errs_as_little_as_torch() -> None:
    """At 784 pixels of logits around 5, images drawn from them, the error is below 0.0001 nats."""
    logits = 5 * torch.randn(500, 784)
    x = torch.bernoulli(torch.sigmoid(logits))
    exact = plain("bernoulli", logits.double()).log_prob(x.double())
    assert (fused("bernoulli", logits).log_prob(x) - exact).abs().max() < 1e-4


def test_half_precision_takes_the_form_of_torch() -> None:
    """Products of many factors overflow half precision, so there the plain form stands."""
    logits, x = torch.randn(3, 784).half(), (torch.rand(3, 784) < 0.5).half()
    assert torch.equal(fused("bernoulli", logits).log_prob(x), plain("bernoulli", logits).log_prob(x))


@pytest.mark.parametrize("units", [1, 2, 64, 97, 101, 560, 784, 10_000])
def test_groups_of_factors_fill_the_units(units: int) -> None:
    """A product has at most 100 factors and as many products fill the units."""
    assert _factors(units) <= 100
    assert units % _factors(units) == 0


@kinds
def test_an_expanded_distribution_is_the_expanded_one_of_torch(kind: str) -> None:
    """Shapes, moments, densities and gradients of an expanded distribution agree; it may be expanded again."""
    parameters, x = pair(kind, (1, 4, 7), (6, 4, 7), torch.float64)
    inputs = [tensor.requires_grad_() for tensor in parameters]
    once, expected = (make(kind, *parameters).expand((6, 4)) for make in (fused, plain))
    for actual in (once, fused(kind, *parameters).expand((3, 1, 4)).expand((3, 6, 4)).expand((3, 6, 4))):
        assert actual.event_shape == expected.event_shape
        assert isinstance(actual, Independent)
        for name in ("mean", "stddev", "variance"):
            torch.testing.assert_close(getattr(actual, name), getattr(expected, name).expand(*actual.batch_shape, -1))
        density = actual.log_prob(x)
        torch.testing.assert_close(density, expected.log_prob(x).expand(actual.batch_shape))
        assert actual.sample((2,)).shape == (2, *actual.batch_shape, 7)
    torch.testing.assert_close(
        gradients(density, inputs), gradients(expected.log_prob(x).expand(actual.batch_shape), inputs)
    )


def test_gaussian_draws_are_those_of_torch() -> None:
    """From the same random numbers come the same draws, with the same gradients, expanded or not."""
    parameters, _ = pair("gaussian", (1, 4, 7), (1, 4, 7), torch.float64)
    inputs = [tensor.requires_grad_() for tensor in parameters]
    for batch, sample in (((1, 4), ()), ((6, 4), ()), ((6, 4), (2,))):
        draws = []
        for make in (fused, plain):
            torch.manual_seed(0)
            draws.append(make("gaussian", *parameters).expand(batch).rsample(sample))
        torch.testing.assert_close(draws[0], draws[1])
        torch.testing.assert_close(gradients(draws[0].sin(), inputs), gradients(draws[1].sin(), inputs))


def test_divergences_know_the_gaussian() -> None:
    """The closed form of KL holds between fused Gaussians and torch's."""
    one, _ = pair("gaussian", (3, 4), (3, 4), torch.float64)
    other, _ = pair("gaussian", (3, 4), (3, 4), torch.float64)
    expected = kl_divergence(plain("gaussian", *one), plain("gaussian", *other))
    torch.testing.assert_close(kl_divergence(fused("gaussian", *one), fused("gaussian", *other)), expected)
    torch.testing.assert_close(kl_divergence(fused("gaussian", *one), plain("gaussian", *other)), expected)


# --- Bounds


@pytest.fixture
def as_torch_has_it(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Return what puts torch's own densities in place of the fused ones."""

    def replace() -> None:
        monkeypatch.setattr(BernoulliVector, "log_prob", Independent.log_prob)
        monkeypatch.setattr(DiagGaussian, "log_prob", Independent.log_prob)
        monkeypatch.setattr(DiagGaussian, "rsample", Independent.rsample)

    return replace


@pytest.mark.parametrize("depth", [1, 2])
def test_bounds_in_single_precision_are_those_of_the_plain_form(
    depth: int, as_torch_has_it: Callable[[], None]
) -> None:
    """On the same 500 draws L_500 of every image is within 0.0001 nats of the plain form's in double precision."""
    torch.manual_seed(1)
    model = build(model_params(depth=depth, hidden=((200,), (100,)), z_dim=50), torch.full((784,), 0.2))
    with torch.no_grad():
        for weights in model.parameters():
            weights += 0.05 * torch.randn_like(weights)
        x = torch.bernoulli(model.joint(model.posterior(torch.full((20, 784), 0.2))[0])[0].mean[0])
        z, _ = model.posterior(x, 500)

        def bound() -> Tensor:
            p, q = model.joint(z), model.detached_posterior(z)
            log_p = sum(p_t.log_prob(z_t) for p_t, z_t in zip(p, z, strict=True))
            log_q = sum(q_t.log_prob(z_t) for q_t, z_t in zip(q, z[1:], strict=True))
            return torch.logsumexp(log_p - log_q, 0) - math.log(500)

        actual = bound()
        as_torch_has_it()
        model.double()
        z = [node.double() for node in z]
        assert (actual - bound()).abs().max() < 1e-4


@pytest.mark.parametrize("objective", ["elbo", "iwae"])
@pytest.mark.usefixtures("float64")
def test_gradients_of_a_bound_are_those_of_the_plain_form(objective: str, as_torch_has_it: Callable[[], None]) -> None:
    """On the same draws every weight has the same gradient."""
    model = build(model_params(depth=3, parents="every"), torch.full((16,), 0.2))
    x = (torch.rand(5, 16) < 0.5).double()
    actual = []
    for change in (lambda: None, as_torch_has_it):
        change()
        torch.manual_seed(0)
        value = getattr(elbo(model, x, 4), objective).sum()
        actual.append(torch.autograd.grad(value, list(model.parameters())))
    torch.testing.assert_close(actual[0], actual[1])


def test_weights_may_be_held_constant() -> None:
    """Gradients reach the context alone where the weights are given as constants."""
    model = build(model_params(depth=1), torch.full((16,), 0.2))
    rung, z = model.generative[0], torch.randn(3, 2, 4, requires_grad=True)
    weights = {name: value.detach() for name, value in rung.named_parameters()}
    density = functional_call(rung, weights, (z,)).log_prob(torch.ones(1, 2, 16))
    (gradient,) = torch.autograd.grad(density.sum(), z)
    assert gradient.isfinite().all()
    assert gradient.abs().sum() > 0


MEMORY = """
import resource, sys, torch
from pathlib import Path
from pipeline.evaluation.bounds import many_draws
from pipeline.models import build
from tests.small import model_params

torch.set_num_threads(1)
model = build(model_params(depth=2, hidden=((200, 200), (100, 100)), z_dim=100), torch.full((784,), 0.2))
x = (torch.rand(10, 784) < 0.2).float()
Path("/proc/self/clear_refs").write_text("5")  # the highest mark starts here
before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
with torch.no_grad():
    many_draws(model, x, int(sys.argv[1]))
marks = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
print(int(marks["VmHWM"].split()[0]) * 1024 - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="reads the highest mark from /proc")
@pytest.mark.parametrize("threshold", ["131072", pytest.param("1073741824", marks=pytest.mark.nightly)])
def test_memory_does_not_grow_with_the_draws(threshold: str) -> None:
    """20,000 draws of 10 images, 627 MB of logits, take less than 300 MB, however malloc is set; so do 50,000."""
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": threshold, "MALLOC_TRIM_THRESHOLD_": threshold}
    words = [sys.executable, "-c", MEMORY, str(50_000 if os.environ.get("CAVE_NIGHTLY") == "1" else 20_000)]
    output = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout
    assert 0 < int(output) < 300e6


def test_families_that_have_no_fused_form_stay_as_they_are() -> None:
    """The other likelihoods are distributions over vectors as before."""
    for name, family in pipeline.distributions.families.LIKELIHOODS.items():
        assert isinstance(family, Family)
        p = family.distribution(torch.randn(2, 3, family.per_unit * 4))
        assert p.batch_shape == (2, 3), name
        assert p.log_prob(torch.ones(5, 1, 3, 4).clamp(0, 1)).shape == (5, 2, 3)
