"""Conditionals, bottom-up evidence and its merge with what is above.

    Conditional     a distribution of one rung given its parents
    Evidence        one step of the ladder's way up: d_t from d_{t-1}, and N(mu_hat_t, sigma_hat_t^2) from d_t
    Correction      a mean and a scale relative to those of what is above
    merge           N(z; m, s^2) ~ N(z; mu_p, sigma_p^2) N(z; mu_hat, sigma_hat^2), so s^-2 = sigma_p^-2 + sigma_hat^-2
                    and m / s^2 = mu_p / sigma_p^2 + mu_hat / sigma_hat^2

Sønderby et al., "Ladder Variational Autoencoders" (2016), equations (11)-(17), https://arxiv.org/abs/1602.02282
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, MixtureSameFamily, MultivariateNormal, Normal

from pipeline.distributions.families import LATENT, Family
from pipeline.distributions.flows import FlowDistribution, InverseAutoregressive
from pipeline.distributions.gaussian import DiagGaussian
from pipeline.distributions.values import ValueMixture

__all__ = ["BottomUpBlock", "Conditional", "Correction", "bottom_up_pass", "merge", "reparameterize", "to_noise"]


class Conditional(nn.Module):
    """A distribution of one rung given its parents, from a network and a family."""

    def __init__(self, network: nn.Module, family: Family | InverseAutoregressive) -> None:
        super().__init__()
        self.network = network
        self.family = family

    def forward(self, *parents: Float[Tensor, "*#batch _"]) -> Distribution:
        """Return the distribution given the parents, the nearest first; their leading dimensions broadcast."""
        if len(parents) > 1:
            leading = torch.broadcast_shapes(*(parent.shape[:-1] for parent in parents))
            context = torch.cat([parent.expand(*leading, -1) for parent in parents], dim=-1)
        else:
            (context,) = parents
        return self.family.distribution(self.network(context))


class BottomUpBlock(nn.Module):
    """One step of the bottom-up pass: the evidence of x on one level, from the deterministic unit d below it.

    The evidence is a `Correction` where it is `relative`.
    """

    def __init__(self, body: nn.Module, head: nn.Module, relative: bool = False) -> None:
        super().__init__()
        self.body = body
        self.head = head
        self.relative = relative

    def forward(self, below: Float[Tensor, "*batch _"]) -> tuple[Float[Tensor, "*batch _"], Distribution]:
        """Return d_t and N(mu_hat_t, sigma_hat_t^2)."""
        d = self.body(below)
        evidence = LATENT.distribution(self.head(d))
        return d, Correction(evidence.mean, evidence.stddev) if self.relative else evidence


class Correction(DiagGaussian):
    """What x says of a level given those above, in deviations of p(z_t | .): N(0, I) changes nothing."""


def bottom_up_pass(rungs: Iterable[Callable[..., Any]], x: Float[Tensor, "*batch _"]) -> list[Distribution]:
    """Run the ladder's blocks from x upwards; return the Gaussian over z_t that each level reads from x, z_1 first."""
    evidence, d = [], x
    for rung in rungs:
        d, evidence_t = rung(d)
        evidence.append(evidence_t)
    return evidence


def merge(p: Distribution, evidence: Distribution) -> Distribution:
    """Return the normal whose density is proportional to the product of two, each with a diagonal covariance.

    A `Correction` moves p by so many of its deviations, and multiplies these.
    """
    if isinstance(evidence, Correction):
        return DiagGaussian(p.mean + p.stddev * evidence.mean, p.stddev * evidence.stddev)
    precision, hat = p.variance.reciprocal(), evidence.variance.reciprocal()
    variance = 1 / (precision + hat)
    mean = variance * (p.mean * precision + evidence.mean * hat)
    return DiagGaussian(mean, variance.sqrt())


def reparameterize(p: Distribution, noise: Float[Tensor, "*batch units"]) -> Float[Tensor, "*batch units"]:
    """Carry N(0, I) over to `p`: mu + sigma * noise for a Gaussian, exactly also for a flow or a mixture of Gaussians.

    In a mixture the first unit's noise, as a uniform number, picks the component; where it falls within the
    component's share is uniform again, and becomes that unit's noise.

    Raises:
        ValueError: `p` is none of them.
    """
    if isinstance(p, FlowDistribution):
        return p.at_noise(noise)
    if isinstance(p, MultivariateNormal):
        return _shifted(p.loc, p.scale_tril, noise)
    if isinstance(p, Independent) and isinstance(p.base_dist, Normal):
        return p.mean + p.stddev * noise
    if isinstance(p, ValueMixture):
        return p.at_noise(noise)
    if not isinstance(p, MixtureSameFamily):
        raise ValueError(
            f"non-centred coordinates need a Gaussian, a flow or a mixture of Gaussians, not a {type(p).__name__}"
        )
    shares = p.mixture_distribution.probs.double()
    ends = shares.cumsum(-1)
    uniform = torch.special.ndtr(noise[..., 0].double())
    chosen = torch.searchsorted(ends, uniform).clamp(max=len(shares) - 1)
    within = ((uniform - ends[chosen] + shares[chosen]) / shares[chosen]).clamp(1e-12, 1 - 1e-12)
    first = torch.special.ndtri(within).to(noise.dtype)
    component, noise = p.component_distribution, torch.cat([first[..., None], noise[..., 1:]], dim=-1)
    if isinstance(component, MultivariateNormal):
        return _shifted(component.loc[chosen], component.scale_tril[chosen], noise)
    return component.mean[chosen] + component.stddev[chosen] * noise


def _shifted(mean: Tensor, tril: Tensor, noise: Tensor) -> Tensor:
    shifted: Tensor = mean + (tril @ noise[..., None])[..., 0]
    return shifted


def to_noise(p: Distribution, value: Float[Tensor, "*batch units"]) -> Float[Tensor, "*batch units"]:
    """Return the noise that `reparameterize` maps to `value` under a Gaussian or a flow `p`.

    Raises:
        ValueError: `p` is neither.
    """
    if isinstance(p, FlowDistribution):
        return p.noise_of(value)
    if isinstance(p, MultivariateNormal):
        centred = (value - p.loc)[..., None]
        noise: Tensor = torch.linalg.solve_triangular(p.scale_tril, centred, upper=False)[..., 0]
        return noise
    if isinstance(p, Independent) and isinstance(p.base_dist, Normal):
        return (value - p.mean) / p.stddev
    raise ValueError(f"the noise of a value is that of a Gaussian, not of a {type(p).__name__}")
