"""Flows: standard normal noise carried over by invertible maps, with exact densities.

    z = f(eps),  eps ~ N(0, I)              log p(z) = log N(eps; 0, I) - log |det df/deps|

f is a chain of autoregressive maps, in each of which a network of the units before it moves a unit, in turn from the
first unit to the last and back. One way through a map is one pass through its network; the other way has one unit after
another, which takes as many passes as there are units, and is exact too, up to rounding.

    FlowPrior                p(z_T), rational-quadratic splines; from z to eps is the short way, so that a density costs
                             one pass and a sample one a unit
    InverseAutoregressive    q(z_t | .) = mu + sigma f(eps; h), affine maps of eps; from eps to z is the short way, so
                             that a draw and its density cost one pass, and the density of another z one a unit

mu, sigma and h are the numbers that the network of a level puts out. All maps start as the identity, so that the prior
starts at N(0, I) and the posterior at N(mu, diag sigma^2).

Durkan et al., "Neural Spline Flows" (2019), https://arxiv.org/abs/1906.04032
Kingma et al., "Improving Variational Inference with Inverse Autoregressive Flow" (2016), https://arxiv.org/abs/1606.04934
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Size, Tensor, nn
from torch.distributions import Distribution

from pipeline.distributions.families import LATENT, diag_gaussian
from pipeline.distributions.gaussian import DiagGaussian
from pipeline.params import MOST_UNITS

__all__ = ["FlowDistribution", "FlowPrior", "InverseAutoregressive"]

BINS = 8  # of a spline, which covers [-5, 5]; outside it is the identity
MOMENT_DRAWS = 64  # of each distribution of a batch
MOST_MOMENT_DRAWS = 2**14  # of a single distribution


class FlowDistribution(Distribution):
    """The distribution of shift + scale f(eps), f a map of the last dimension whose parameters have leading dimensions.

    `transform` is f, one of torch's transforms with zuko's `call_and_ladj`.

    The mean and the variance have no closed form. They are those of draws of their own, from noise and its negative,
    new in every object: the means of `mean` and of `mean`^2 + `variance` over objects are E z and E z^2.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012 (torch's own form)
    has_rsample = True

    def __init__(
        self,
        transform: Any,
        shift: Float[Tensor, "*batch units"],
        scale: Float[Tensor, "*batch units"],
        batch_shape: Size | None = None,
    ) -> None:
        self.transform, self.shift, self.scale = transform, shift, scale
        self._drawn: tuple[Tensor, Tensor] | None = None
        leading = shift.shape[:-1] if batch_shape is None else batch_shape
        super().__init__(leading, shift.shape[-1:], validate_args=False)

    def expand(self, batch_shape: Any, _instance: None = None) -> FlowDistribution:
        """Return the same distribution with more leading dimensions."""
        return FlowDistribution(self.transform, self.shift, self.scale, Size(batch_shape))

    def rsample(self, sample_shape: Any = Size()) -> Tensor:  # noqa: B008 (torch's own form)
        """Draw f(eps), eps ~ N(0, I), and keep its log-density for `log_prob`."""
        shape = self._extended_shape(Size(sample_shape))
        return self.at_noise(torch.randn(shape, dtype=self.shift.dtype, device=self.shift.device))

    def at_noise(self, noise: Float[Tensor, "*batch units"]) -> Float[Tensor, "*batch units"]:
        """Return the value that this noise is carried over to."""
        moved, log_det = self.transform.call_and_ladj(noise)
        value: Tensor = self.shift + self.scale * moved
        self._drawn = value, _normal(noise) - log_det - self.scale.log().sum(-1)
        return value

    def noise_of(self, value: Float[Tensor, "*batch units"]) -> Float[Tensor, "*batch units"]:
        """Return the noise that is carried over to `value`."""
        noise: Tensor = self.transform.inv((value - self.shift) / self.scale)
        return noise

    def log_prob(self, value: Float[Tensor, "*#batch units"]) -> Float[Tensor, "*#batch"]:
        """Return the log-density in nats; of the tensor that was drawn last, the one that the draw came with."""
        if self._drawn is not None and value is self._drawn[0]:
            drawn = self._drawn[1]
            if drawn.requires_grad or not torch.is_grad_enabled():
                return drawn
        noise, log_det = self.transform.inv.call_and_ladj((value - self.shift) / self.scale)
        log_density: Tensor = _normal(noise) + log_det - self.scale.log().sum(-1)
        return log_density.expand(torch.broadcast_shapes(self.batch_shape, value.shape[:-1]))

    @cached_property
    @torch.no_grad()
    def _moments(self) -> tuple[Tensor, Tensor]:
        count = max(MOMENT_DRAWS, MOST_MOMENT_DRAWS // max(1, self.shift[..., 0].numel()))
        noise = torch.randn(count // 2, *self.shift.shape, dtype=self.shift.dtype, device=self.shift.device)
        z = self.shift + self.scale * self.transform(torch.cat([noise, -noise]))
        return z.mean(0), z.var(0, correction=0)

    @property
    def mean(self) -> Tensor:
        """Return the mean of draws."""
        return self._moments[0].expand(self._extended_shape())

    @property
    def variance(self) -> Tensor:
        """Return the variance of the same draws, divided by their number."""
        return self._moments[1].expand(self._extended_shape())


class FlowPrior(nn.Module):
    """p(z_T) as a flow of rational-quadratic splines, that starts at N(0, I): a conditional without parents."""

    zero: Tensor

    def __init__(self, units: int, transforms: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.flow = _spline_maps(units, transforms, hidden)
        self.register_buffer("zero", torch.zeros(units), persistent=False)

    def forward(self) -> Distribution:
        """Return the flow over `units` dimensions."""
        return FlowDistribution(self.flow().inv, self.zero, torch.ones_like(self.zero))


class InverseAutoregressive(nn.Module):
    """The family mu + sigma f(eps; h), which has weights of its own; used in the place of a `Family`."""

    channels = 1
    per_unit = 3

    def __init__(self, units: int, transforms: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.flow = _affine_maps(units, transforms, hidden)

    def raw_numbers(self, units: int) -> int:
        """Return the number of raw numbers: mu, that of sigma, and h, one a unit each."""
        return self.per_unit * units

    def distribution(self, raw: Float[Tensor, "*batch three_units"]) -> Distribution:
        """Return the flow with these raw numbers."""
        *gaussian, context = raw.chunk(3, dim=-1)
        base = diag_gaussian(torch.cat(gaussian, dim=-1))
        assert isinstance(base, DiagGaussian)
        return FlowDistribution(self.flow(context), base.mu, base.sigma)

    def bias(self, mean: Float[Tensor, " units"]) -> Float[Tensor, " three_units"]:
        """Return the raw numbers of this mean and sigma 1."""
        return torch.cat([LATENT.bias(mean), torch.zeros_like(mean)])


def _normal(noise: Tensor) -> Tensor:
    return -(noise.square().sum(-1) + noise.shape[-1] * math.log(2 * math.pi)) / 2


def _spline_maps(units: int, transforms: int, hidden: Sequence[int]) -> nn.Module:
    univariate = _zuko("transforms").MonotonicRQSTransform
    shapes = [(BINS,), (BINS,), (BINS - 1,)]
    return _maps(units, transforms, hidden, univariate=univariate, shapes=shapes)


def _affine_maps(units: int, transforms: int, hidden: Sequence[int]) -> nn.Module:
    return _maps(units, transforms, hidden, context=units)


def _maps(units: int, transforms: int, hidden: Sequence[int], **options: Any) -> nn.Module:
    """Return autoregressive maps that are the identity, in turn from the first unit to the last and back.

    Their masks depend on values, so that they are made on the CPU also where a model is built without memory.

    Raises:
        ValueError: there are too many units.
    """
    if units > MOST_UNITS:
        raise ValueError(f"a flow has at most {MOST_UNITS} units, not {units}")
    lazy, flows = _zuko("lazy"), _zuko("flows")
    with torch.device("cpu"):
        orders = [torch.arange(units), torch.arange(units).flip(0)]
        maps = [
            flows.MaskedAutoregressiveTransform(
                units, order=orders[number % 2], hidden_features=hidden, activation=nn.SiLU, **options
            )
            for number in range(transforms)
        ]
    for each in maps:
        last = each.hyper[-1].parameters() if hasattr(each, "hyper") else each.phi
        for weights in last:
            nn.init.zeros_(weights)
    built: nn.Module = lazy.LazyComposedTransform(*maps)
    return built


def _zuko(module: str) -> Any:
    """Return a module of zuko, which is imported where a flow is built.

    Its import turns the checks of arguments of all of torch's distributions off; they are turned on again.
    """
    from importlib import import_module

    before = {name: Distribution.__dict__[name] for name in ("_validate_args", "arg_constraints")}
    imported = import_module(f"zuko.{module}")
    for name, value in before.items():
        setattr(Distribution, name, value)
    return imported
