"""Contracts of what can be registered: likelihoods, priors, posteriors, networks, objectives, learning rate schedules.

Each function checks one member and raises `AssertionError` with the property that does not hold. A part of your own
(`pipeline.extensions`) is tested as those of this project are:

    from pipeline.testing import check_likelihood, interval
    check_likelihood(my_family, interval(0.0, 1.0))

They need no test framework and draw from torch's global random state.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution

from pipeline.distributions import Family, InverseAutoregressive, reparameterize
from pipeline.models import Image
from pipeline.models.networks import Network
from pipeline.objectives import ELBO

__all__ = [
    "check_likelihood",
    "check_network",
    "check_objective",
    "check_posterior",
    "check_prior",
    "check_schedule",
    "interval",
    "points",
]

Support = tuple[Float[Tensor, " points"], Float[Tensor, " points"]]
"""Points of one unit's support and the volume of each, by which functions of x are summed or integrated."""

DRAWS = 20_000
LARGEST = 5  # raw numbers of a pixel whose extremes are tried in all combinations
ERRORS = 6.0  # standard errors that a mean of draws may be off


def points(values: Float[Tensor, " points"]) -> Support:
    """Return the support of a discrete unit: these values, each of volume 1."""
    values = values.double()
    return values, torch.ones_like(values)


def interval(low: float, high: float, cells: int = 400) -> Support:
    """Return the support of a continuous unit: Gauss-Legendre nodes in cells that are narrower towards both ends."""
    nodes, weights = np.polynomial.legendre.leggauss(20)
    ends = low + (high - low) * (1 - np.cos(np.linspace(0, np.pi, cells + 1))) / 2
    start, width = ends[:-1, None], np.diff(ends)[:, None]
    return torch.tensor((start + width * (nodes + 1) / 2).ravel()), torch.tensor((width / 2 * weights).ravel())


def check_likelihood(
    family: Family,
    support: Support,
    *,
    tolerance: float = 1e-6,
    bias_tolerance: float = 0.08,
    moment_tolerance: float | None = None,
) -> None:
    """Check a family of distributions over vectors.

    Args:
        family: the family; its raw numbers are drawn from N(0, 1).
        support: of one unit, by `points` or `interval`; with several channels its points are taken in all combinations.
        tolerance: of the mass, mean and deviation over the support.
        bias_tolerance: by which the mean at `bias` may differ from that of the data, pixels between 0.1 and 0.9.
        moment_tolerance: of the mean and the deviation, where it is another.

    Raises:
        AssertionError: the family breaks the contract; the message says in what.
    """
    numbers, channels = family.per_unit, family.channels
    x, volume = (torch.cartesian_prod(*[axis] * channels).view(-1, channels) for axis in support)
    volume, off = volume.prod(-1), tolerance if moment_tolerance is None else moment_tolerance
    shape, raw = (3 * channels,), torch.randn(numbers * 3).double()
    _shape(family.distribution(raw).event_shape, shape, f"event_shape of {3 * channels} units")
    for _ in range(3):
        p = family.distribution(torch.randn(numbers).double())
        mass = (volume * p.log_prob(x).exp())[:, None]
        _close(mass.sum(), 1.0, tolerance, "the density summed over the support")
        mean = (mass * x).sum(0)
        _close(p.mean, mean, off, "the mean")
        _close(p.stddev, ((mass * (x - mean) ** 2).sum(0)).sqrt(), off, "the standard deviation")
    raw = torch.randn(4, 1, numbers * 3).double()
    p = family.distribution(raw)
    value = x[torch.randint(len(x), (4, 5, 3))].transpose(-1, -2)
    density = p.log_prob(value.flatten(-2))
    _shape(density.shape, (4, 5), "log_prob of [4, 5, 3] at raw numbers [4, 1, 3 units]")
    pixels = raw.unflatten(-1, (numbers, 3))
    alone = [family.distribution(pixels[..., pixel]).log_prob(value[..., pixel]) for pixel in range(3)]
    _close(density, torch.stack(alone).sum(0), tolerance, "log_prob of a vector, the sum over its units")
    _shape(p.expand((2, 4, 1)).sample().shape, (2, 4, 1, *shape), "a sample of a distribution expanded to [2, 4, 1]")
    _check_samples(family.distribution(torch.randn(numbers * 3).double()))
    mean = torch.tensor([0.1, 0.3, 0.5, 0.9]).double().repeat(channels)
    _close(family.distribution(family.bias(mean)).mean, mean, bias_tolerance, "the mean at `bias`")
    if numbers <= LARGEST:
        signs = torch.tensor(list(product([-1, 0, 1], repeat=numbers)))
    else:
        signs = torch.randint(-1, 2, (3**LARGEST, numbers))
    for size, dtype in product((1e2, 1e4), (torch.float32, torch.float64)):
        raw = (size * signs).to(dtype).requires_grad_()
        p = family.distribution(raw)
        ends = torch.stack([x.min(), x.max()]).to(dtype)[:, None, None].expand(2, 1, channels)
        density = p.log_prob(ends)
        (gradient,) = torch.autograd.grad(density.sum(), raw)
        for name, number in {"log_prob": density, "mean": p.mean, "stddev": p.stddev, "its gradient": gradient}.items():
            _require(bool(number.isfinite().all()), f"{name} is not finite at raw numbers of {size:g} in {dtype}")


def check_prior(make: Callable[[], nn.Module]) -> None:
    """Check a prior p(z_T), the module that `make` returns; the density is integrated where it has one unit.

    Raises:
        AssertionError: the prior breaks the contract; the message says in what.
    """
    prior = make().double()
    p: Distribution = prior()
    _shape(p.batch_shape, (), "batch_shape")
    _require(len(p.event_shape) == 1, f"event_shape is {tuple(p.event_shape)}, not that of a vector")
    _shape(p.log_prob(torch.randn(4, 2, *p.event_shape).double()).shape, (4, 2), "log_prob of [4, 2, units]")
    _shape(p.expand((5,)).sample().shape, (5, *p.event_shape), "a sample of the prior expanded to [5]")
    if p.event_shape == (1,):
        z, volume = interval(-60.0, 60.0, 16000)
        _close((volume * p.log_prob(z[:, None]).exp()).sum(), 1.0, 1e-6, "the density integrated over the line")
    _check_samples(p)
    z = reparameterize(p, torch.randn(DRAWS, *p.event_shape).double())
    _require(bool(z.isfinite().all()), "reparameterized noise is not finite")
    error = p.stddev / DRAWS**0.5
    _require(bool(((z.mean(0) - p.mean).abs() < ERRORS * error).all()), "reparameterized noise has another mean")
    if list(prior.parameters()):
        p.log_prob(torch.randn(50, *p.event_shape).double()).sum().backward()
        _check_gradients(prior)


def check_posterior(family: Family | InverseAutoregressive) -> None:
    """Check the family of a level's posterior; its units may depend on each other.

    Raises:
        AssertionError: the family breaks the contract; the message says in what.
    """
    numbers = family.raw_numbers(3)
    raw = torch.randn(4, 1, numbers).double().requires_grad_()
    q: Distribution = family.distribution(raw)
    _shape(q.batch_shape, (4, 1), f"batch_shape of raw numbers [4, 1, {numbers}]")
    _shape(q.event_shape, (3,), "event_shape of 3 units")
    _shape(q.log_prob(torch.randn(4, 5, 3).double()).shape, (4, 5), "log_prob of [4, 5, 3] at raw numbers [4, 1, ...]")
    z = q.expand((2, 4, 1)).rsample()
    _shape(z.shape, (2, 4, 1, 3), "a draw of a distribution expanded to [2, 4, 1]")
    (gradient,) = torch.autograd.grad(q.log_prob(z[0]).sum() + z.square().sum(), raw)
    _require(bool(gradient.isfinite().all()) and bool(gradient.any()), "the gradient of a draw is 0 or not finite")
    q = family.distribution(raw.detach()[0, 0])
    _check_samples(q)
    z = reparameterize(q, torch.randn(DRAWS, 3).double())
    off = (z.mean(0) - q.mean).abs() / (q.stddev / DRAWS**0.5)
    _require(bool((off < ERRORS).all()), "reparameterized noise has another mean")
    start = family.distribution(family.bias(torch.zeros(3).double()))
    _close(start.mean, 0.0, 1e-6, "the mean at `bias` of 0")


def check_network(network: Network, image: Image | None = None) -> None:
    """Check a function that makes networks from [..., inputs] to [..., outputs], one side of which may be an image.

    Raises:
        AssertionError: the network breaks the contract; the message says in what.
    """
    pixels = 1 if image is None else math.prod(image.shape)
    inputs, outputs = (2 * pixels if image is not None and image.side == side else 4 for side in ("input", "output"))
    built = network(inputs, outputs, [5, 3], "tanh", image=image).double()
    x = torch.randn(2, 3, inputs).double()
    y = built(x)
    _shape(y.shape, (2, 3, outputs), f"the output of [2, 3, {inputs}] with {outputs} outputs")
    _close(built(x[1:, 2:]), y[1:, 2:], 1e-12, "the output of a row alone")
    bias = built[-1].bias
    if not isinstance(bias, Tensor) or bias.shape != (outputs,):
        raise AssertionError(f"the last module has no `bias` of {outputs} outputs")
    with torch.no_grad():
        bias.add_(1.0)
    _close(built(x), y + 1.0, 1e-12, "the output after 1 was added to the last bias")
    built(x).square().sum().backward()
    _check_gradients(built)


def check_objective(objective: Callable[[ELBO, float], Float[Tensor, " batch"]]) -> None:
    """Check a training objective of the terms of a bound and the weight `beta` of the rate.

    Raises:
        AssertionError: the objective breaks the contract; the message says in what.
    """
    for depth, draws in product((1, 3), (1, 5)):
        leaves = torch.randn(draws, 4).double().requires_grad_(), torch.randn(depth, draws, 4).double().requires_grad_()
        before = [leaf.detach().clone() for leaf in leaves]
        bound = ELBO(*leaves)
        value = objective(bound, 0.7)
        _shape(value.shape, (4,), "the objective of 4 examples")
        for n in range(4):
            alone = objective(ELBO(leaves[0][:, n : n + 1], leaves[1][..., n : n + 1]), 0.7)
            _close(value[n : n + 1], alone, 1e-12, "the objective of an example alone")
        for gradient in torch.autograd.grad(value.sum(), leaves):
            _require(
                bool(gradient.isfinite().all()) and bool(gradient.any()), "a gradient by the terms is 0 or not finite"
            )
        unchanged = all(map(torch.equal, before, leaves))
        _require(unchanged, "the terms of the bound were changed")
        if draws == 1:
            _close(objective(bound, 1.0), bound.elbo, 1e-12, "the objective of one draw at beta 1, the elbo")


def check_schedule(schedule: Callable[[float], float]) -> None:
    """Check a learning rate schedule: 1 at the start, above or at 0, and never rising.

    Raises:
        AssertionError: the schedule breaks the contract; the message says in what.
    """
    factors = [schedule(step / 1000) for step in range(1201)]
    _require(abs(factors[0] - 1) < 1e-12, f"the factor at the start is {factors[0]}, not 1")
    _require(min(factors) >= 0, f"the factor {min(factors)} is negative")
    rises = [step / 1000 for step in range(1200) if factors[step + 1] > factors[step] + 1e-12]
    _require(not rises, f"the factor rises after {rises[:1]} of the training")


def _check_samples(p: Distribution) -> None:
    x = p.sample((DRAWS,))
    _shape(x.shape, (DRAWS, *p.event_shape), "samples")
    _require(bool(p.log_prob(x).isfinite().all()), "log_prob is not finite at a sample")
    off = (x.mean(0) - p.mean).abs() / (p.stddev / DRAWS**0.5)
    _require(bool((off < ERRORS).all()), f"the mean of samples is {off.max():.1f} standard errors off")


def _check_gradients(module: nn.Module) -> None:
    for name, weights in module.named_parameters():
        useful = weights.grad is not None and bool(weights.grad.isfinite().all()) and bool(weights.grad.any())
        _require(useful, f"the gradient of {name} is missing, 0 or not finite")


def _close(value: Tensor, expected: Tensor | float, tolerance: float, what: str) -> None:
    expected = torch.as_tensor(expected, dtype=value.dtype).expand_as(value)
    off = (value - expected).abs().max().item()
    _require(off <= tolerance, f"{what}: off by {off:.2g}, more than {tolerance:g}")


def _shape(shape: tuple[int, ...], expected: tuple[int, ...], what: str) -> None:
    _require(tuple(shape) == expected, f"{what}: the shape is {list(shape)}, not {list(expected)}")


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise AssertionError(message)
