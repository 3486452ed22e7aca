"""Every member of every registry keeps its contract, and `pipeline.testing` catches what breaks one."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from pipeline.data import Shape
from pipeline.distributions import (
    FULL,
    LATENT,
    LIKELIHOODS,
    Family,
    InverseAutoregressive,
    StandardNormal,
    likelihood,
)
from pipeline.models import NETWORKS, PRIORS, Image, build
from pipeline.models.denoiser import FEATURES
from pipeline.models.networks import Network
from pipeline.models.noise_chains import DECODERS
from pipeline.objectives import ELBO, OBJECTIVES
from pipeline.params import MEASURES, PROBABILITY
from pipeline.testing import (
    Support,
    check_likelihood,
    check_network,
    check_objective,
    check_posterior,
    check_prior,
    check_schedule,
    interval,
    points,
)
from pipeline.training import SCHEDULES
from tests.small import model_params

SUPPORT = {
    "bernoulli": points(torch.tensor([0.0, 1.0])),
    "gaussian": interval(-40.0, 40.0),
    "continuous_bernoulli": interval(0.0, 1.0),
    "discretized_logistic": points(torch.arange(256) / 255),
}
FAMILIES = {name: (family, SUPPORT[name]) for name, family in LIKELIHOODS.items()} | {
    "latent": (LATENT, SUPPORT["gaussian"]),
    "gaussian of one sigma": (likelihood(model_params(likelihood="gaussian", sigma=0.2)), SUPPORT["gaussian"]),
    "17 grey levels": (
        likelihood(model_params(likelihood="discretized_logistic", grey_levels=17)),
        points(torch.arange(17) / 16),
    ),
    "three components": (
        likelihood(model_params(likelihood="discretized_logistic", components=3)),
        SUPPORT["discretized_logistic"],
    ),
}


@pytest.mark.parametrize(("family", "support"), FAMILIES.values(), ids=list(FAMILIES))
def test_every_likelihood_keeps_its_contract(family: Family, support: Support) -> None:
    """Mass, moments, shapes, samples, bias and extreme raw numbers are those of a distribution over vectors."""
    check_likelihood(family, support)


@pytest.mark.parametrize("components", [1, 3])
def test_a_likelihood_of_channels_that_depend_on_each_other_keeps_its_contract(components: int) -> None:
    """Over all colours of a pixel of 9 levels: the mass is 1, and moments are within half a level, being integrals."""
    family = likelihood(model_params(likelihood="discretized_logistic", grey_levels=9, components=components), 3)
    check_likelihood(family, points(torch.arange(9) / 8), moment_tolerance=1 / 16)


@pytest.mark.parametrize("name", list(LIKELIHOODS))
def test_the_measure_is_that_of_the_support(name: str) -> None:
    """A likelihood of single values is a probability, one of an interval a density: `MEASURES` says so of each."""
    _, volume = SUPPORT[name]
    assert set(MEASURES) == set(LIKELIHOODS)
    assert (MEASURES[name] == PROBABILITY) == bool((volume == 1).all())


@pytest.mark.parametrize("prior", list(PRIORS))
@pytest.mark.parametrize("inference", ["bottom_up", "top_down"])
@pytest.mark.parametrize("widths", [(3, 1), (4,), (4, 2)])
def test_every_prior_keeps_its_contract(prior: str, inference: str, widths: tuple[int, ...]) -> None:
    """Mass, shapes, samples, noise and gradients are those of a distribution over z_T."""

    def make() -> nn.Module:
        params = model_params(prior=prior, inference=inference, widths=widths, depth=len(widths))
        built = build(params, torch.full((6,), 0.4)).double()
        with torch.no_grad():
            for value in built.parameters():
                value += 0.4 * torch.randn_like(value)
        return built.generative[-1]

    check_prior(make)


@pytest.mark.parametrize("posterior", ["gaussian", "full", "iaf"])
def test_every_posterior_keeps_its_contract(posterior: str) -> None:
    """Shapes, draws, densities, noise and gradients are those of a distribution over a level's units."""
    if posterior != "iaf":
        check_posterior({"gaussian": LATENT, "full": FULL}[posterior])
        return
    family = InverseAutoregressive(3, 2, (8,)).double()
    check_posterior(family)
    with torch.no_grad():
        for value in family.parameters():
            value += 0.4 * torch.randn_like(value)
    with pytest.raises(
        AssertionError, match="the mean at `bias` of 0"
    ):  # the last check: of a start, which this is not
        check_posterior(family)


def test_the_top_of_a_diffusion_keeps_the_contract_of_a_prior() -> None:
    """p(z_T) is N(0, I) over the units of the data."""
    check_prior(lambda: build(model_params(inference="diffusion", depth=3), torch.full((1,), 0.4)).generative[-1])


@pytest.mark.parametrize("network", NETWORKS.values(), ids=list(NETWORKS))
@pytest.mark.parametrize("image", [None, Image("input", (1, 4, 4)), Image("output", (3, 7, 5))], ids=str)
def test_every_network_keeps_its_contract(network: Network, image: Image | None) -> None:
    """Shapes, independent rows, the last bias and gradients are as the models need them."""
    check_network(network, image)


@pytest.mark.parametrize("network", list(DECODERS))
@pytest.mark.parametrize("shape", [(1, 4, 4), (3, 7, 5)], ids=str)
def test_every_network_of_a_diffusion_keeps_its_contract(network: str, shape: Shape) -> None:
    """Raw numbers are 0 at the start; rows are independent, levels broadcast, and every weight has a gradient."""
    units = math.prod(shape)
    params = model_params(inference="diffusion", network=network, hidden=((6, 4),), activation="silu")
    built = DECODERS[network](shape, 2 * units, params).double()
    x, level = torch.randn(2, 3, 2 * units).double(), torch.randn(2, 3, FEATURES).double()
    assert built(x, level).shape == (2, 3, 2 * units)
    assert not built(x, level).any()
    with torch.no_grad():
        for weights in built.parameters():
            weights += 0.3 * torch.randn_like(weights)
    y = built(x, level)
    torch.testing.assert_close(built(x[1:, 2:], level[1:, 2:]), y[1:, 2:])
    torch.testing.assert_close(built(x, level[0, 0]), built(x, level[0, 0].expand(2, 3, -1)))
    y.square().sum().backward()
    assert all(weights.grad is not None and weights.grad.any() for weights in built.parameters())


@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=list(OBJECTIVES))
def test_every_objective_keeps_its_contract(objective: Callable[[ELBO, float], Tensor]) -> None:
    """It is one number an example, of its own terms alone, the elbo for one draw at beta 1."""
    check_objective(objective)


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=list(SCHEDULES))
def test_every_schedule_keeps_its_contract(schedule: Callable[[float], float]) -> None:
    """It starts at 1 and never rises."""
    check_schedule(schedule)


# --- What breaks a contract


class Unnormalized(Normal):
    """A Gaussian whose density lacks its constant."""

    def expand(self, batch_shape: Any, _instance: Any = None) -> Unnormalized:
        """Return the same with more leading dimensions."""
        return Unnormalized(self.loc.expand(batch_shape), self.scale.expand(batch_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """Return -r^2 / 2 - log sigma."""
        return super().log_prob(value) + 0.5 * math.log(2 * math.pi)


def fixed(make: Callable[[Tensor], Distribution]) -> Family:
    """Return a family of one raw number a unit, its mean."""
    return Family(1, make, lambda mean: mean)


LINE = interval(-40.0, 40.0)
BROKEN: dict[str, tuple[Callable[[], None], str]] = {
    "a density without its constant": (
        lambda: check_likelihood(fixed(lambda mu: Independent(Unnormalized(mu, mu * 0 + 1), 1)), LINE),
        "the density summed over the support: off by 1.5",
    ),
    "a density that is not summed over units": (
        lambda: check_likelihood(fixed(lambda mu: Normal(mu, mu * 0 + 1)), LINE),
        "event_shape of 3 units",
    ),
    "a bias that forgets the mean": (
        lambda: check_likelihood(replace(LATENT, bias=lambda mean: LATENT.bias(0 * mean)), LINE),
        "the mean at `bias`: off by 0.9",
    ),
    "a sigma that overflows": (
        lambda: check_likelihood(fixed(lambda mu: Independent(Normal(mu, mu.exp()), 1)), LINE),
        "is not finite at raw numbers of",
    ),
    "a prior with a batch": (lambda: check_prior(lambda: Batched()), "batch_shape: the shape is [3]"),
    "a network without a bias at its end": (
        lambda: check_network(lambda i, o, *_, **__: nn.Sequential(nn.Linear(i, o), nn.Linear(o, o, bias=False))),
        "the last module has no `bias`",
    ),
    "an objective over the batch": (
        lambda: check_objective(lambda bound, beta: bound.elbo - bound.elbo.mean()),
        "the objective of an example alone",
    ),
    "an objective without its log k": (
        lambda: check_objective(lambda bound, beta: torch.logsumexp(bound.log_weight, 0) - 0.1),
        "the objective of one draw at beta 1, the elbo: off by 0.1",
    ),
    "a schedule that rises": (lambda: check_schedule(lambda progress: 1 + progress), "the factor rises"),
}


class Batched(StandardNormal):
    """A prior with a leading dimension that it should not have."""

    def __init__(self) -> None:
        super().__init__(2)

    def forward(self) -> Distribution:
        """Return three standard normals."""
        return super().forward().expand((3,))


@pytest.mark.parametrize(("check", "message"), BROKEN.values(), ids=list(BROKEN))
def test_what_breaks_a_contract_is_named(check: Callable[[], None], message: str) -> None:
    """Each is an `AssertionError` that says which property does not hold."""
    with pytest.raises(AssertionError) as error:
        check()
    assert message in str(error.value)
