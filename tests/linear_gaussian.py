"""Chains in which everything is linear and Gaussian, so that every term of the bound has a closed form.

With v = (z_0, ..., z_T), z_0 = x, a chain is v = F v + c + e, e ~ N(0, Q), F strictly above the block diagonal (for
`nearest`, the first blocks above it alone). Hence v ~ N((I - F)^-1 c, (I - F)^-1 Q (I - F)^-T), and every conditional
follows from that joint Gaussian. The log-weights are quadratic in the noise of the posterior, so that draws whose noise
has exactly the first two moments of N(0, I) (`cubature`) give their exact mean.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal

from pipeline.distributions import StandardNormal
from pipeline.models import HierarchicalVAE

Parents = Literal["nearest", "every"]


class GivenNoise(MultivariateNormal):
    """A normal whose draws are mean + L noise, the noise [draws, 1 or batch, d] given."""

    noise: Tensor

    def expand(self, batch_shape, _instance=None):
        new = super().expand(batch_shape, _instance)
        new.noise = self.noise
        return new

    def rsample(self, sample_shape=()):
        assert sample_shape == ()
        return self.loc + self.noise.expand(*self.loc.shape) @ self.scale_tril.flatten(0, -3)[0].mT


class Affine(nn.Module):
    """N(sum_i weights_i parents_i + offset, covariance), the nearest parent first; draws use `noise` if it is set."""

    def __init__(self, weights: Sequence[Tensor], offset: Tensor, covariance: Tensor) -> None:
        super().__init__()
        self.weights, self.offset, self.covariance = list(weights), offset, covariance
        self.noise: Tensor | None = None

    def forward(self, *parents: Tensor) -> MultivariateNormal:
        assert len(parents) == len(self.weights)
        mean = self.offset + sum(z @ weight.mT for z, weight in zip(parents, self.weights, strict=True))
        scale = torch.linalg.cholesky(self.covariance)
        if self.noise is None:
            return MultivariateNormal(mean, scale_tril=scale)
        distribution = GivenNoise(mean, scale_tril=scale)
        distribution.noise = self.noise
        return distribution


class Diagonal(nn.Module):
    """N(weight parent + offset, diag sigma^2) with weights that are learned; draws use `noise` if it is set."""

    def __init__(self, weight: Tensor, offset: Tensor, sigma: Tensor) -> None:
        super().__init__()
        self.weight, self.offset = nn.Parameter(weight.clone()), nn.Parameter(offset.clone())
        self.log_sigma = nn.Parameter(sigma.log())
        self.noise: Tensor | None = None

    @property
    def weights(self) -> list[Tensor]:
        """The weight of the only parent."""
        return [self.weight]

    @property
    def covariance(self) -> Tensor:
        """The covariance given the parent."""
        return (2 * self.log_sigma).exp().expand(len(self.offset)).diag()

    def forward(self, parent: Tensor) -> Distribution:
        mean = parent @ self.weight.mT + self.offset
        sigma = self.log_sigma.exp().expand(len(self.offset))
        if self.noise is None:
            return Independent(Normal(mean, sigma.expand_as(mean)), 1)
        distribution = GivenNoise(mean, scale_tril=sigma.diag())
        distribution.noise = self.noise
        return distribution


@dataclass(frozen=True)
class Chain:
    """A linear-Gaussian model whose inference is exact, and the joint N(mean, covariance) of its nodes [x, z_1:T]."""

    model: HierarchicalVAE
    widths: tuple[int, ...]
    mean: Tensor
    covariance: Tensor

    @property
    def latents(self) -> slice:
        """Where z_1:T lies in the joint."""
        return slice(self.widths[0], sum(self.widths))

    def log_p(self, x: Tensor) -> Tensor:
        """Return log p(x) of each example."""
        d = self.widths[0]
        return MultivariateNormal(self.mean[:d], self.covariance[:d, :d]).log_prob(x)

    def prior(self) -> MultivariateNormal:
        """Return p(z_1:T)."""
        return MultivariateNormal(self.mean[self.latents], self.covariance[self.latents, self.latents])

    def posterior(self, x: Tensor) -> MultivariateNormal:
        """Return p(z_1:T | x) of each example."""
        observed, expected = range(self.widths[0]), range(self.widths[0], sum(self.widths))
        weight, offset, covariance = condition(self.mean, self.covariance, expected, observed)
        return MultivariateNormal(x @ weight.mT + offset, covariance)

    def perturbed(self, scale: float) -> HierarchicalVAE:
        """Return the model with a posterior that is wrong in every weight, offset and variance."""

        def wrong(rung: Affine) -> Affine:
            weights = [weight + scale * torch.randn_like(weight) for weight in rung.weights]
            noise = torch.eye(len(rung.offset)) + scale * torch.randn_like(rung.covariance)
            covariance = noise @ rung.covariance @ noise.mT + 0.1 * scale * torch.eye(len(rung.offset))
            return Affine(weights, rung.offset + scale * torch.randn_like(rung.offset), covariance)

        return HierarchicalVAE(self.model.generative, map(wrong, self.model.inference), self.model.parents)


def condition(mean: Tensor, covariance: Tensor, expected: Iterable[int], observed: Iterable[int]) -> tuple[Tensor, ...]:
    """Return weight, offset and covariance of p(wanted | known) in the Gaussian N(mean, covariance)."""
    a, b = (torch.tensor(list(units), dtype=torch.long) for units in (expected, observed))
    weight = torch.linalg.solve(covariance[b][:, b], covariance[b][:, a]).mT
    rest = covariance[a][:, a] - weight @ covariance[b][:, a]
    return weight, mean[a] - weight @ mean[b], (rest + rest.mT) / 2


def _covariance(d: int) -> Tensor:
    factor = 0.5 * torch.randn(d, d)
    return factor @ factor.mT + 0.2 * torch.eye(d)


def chain(widths: Sequence[int], parents: Parents) -> Chain:
    """Draw a chain at random, `widths` being those of x, z_1, ..., z_T."""
    depth = len(widths) - 1
    generative: list[nn.Module] = []
    for t in range(depth):
        weights = [torch.randn(widths[t], widths[s]) / widths[s] ** 0.5 for s in _ancestors(t, depth, parents)]
        generative.append(Affine(weights, torch.randn(widths[t]), _covariance(widths[t])))
    return exact([*generative, StandardNormal(widths[depth])], widths, parents)


def exact(generative: Sequence[nn.Module], widths: Sequence[int], parents: Parents) -> Chain:
    """Return the chain of these conditionals, the last of them N(0, I), with its exact posterior as inference."""
    depth, starts = len(widths) - 1, _starts(widths)
    mean, covariance = joint(generative, widths, parents)
    inference = []
    for t in range(1, depth + 1):
        observed = range(t - 1, -1, -1) if parents == "every" else [t - 1]
        units = [unit for s in observed for unit in range(starts[s], starts[s + 1])]
        weight, at, rest = condition(mean, covariance, range(starts[t], starts[t + 1]), units)
        inference.append(Affine(weight.split([widths[s] for s in observed], dim=1), at, rest))
    return Chain(HierarchicalVAE(generative, inference, parents), tuple(widths), mean, covariance)


def joint(generative: Sequence[nn.Module], widths: Sequence[int], parents: Parents) -> tuple[Tensor, Tensor]:
    """Return mean and covariance of the nodes [x, z_1:T] of a chain, differentiable in its weights."""
    depth, total, starts = len(widths) - 1, sum(widths), _starts(widths)
    linear, offset, noise = torch.zeros(total, total), torch.zeros(total), torch.eye(total)
    for t, rung in enumerate(generative[:-1]):
        rows = slice(starts[t], starts[t + 1])
        for s, weight in zip(_ancestors(t, depth, parents), rung.weights, strict=True):
            linear[rows, starts[s] : starts[s + 1]] = weight
        offset[rows], noise[rows, rows] = rung.offset, rung.covariance
    inverse = torch.linalg.inv(torch.eye(total) - linear)
    return inverse @ offset, inverse @ noise @ inverse.mT


def _ancestors(t: int, depth: int, parents: Parents) -> Sequence[int]:
    return range(t + 1, depth + 1) if parents == "every" else [t + 1]


def _starts(widths: Sequence[int]) -> list[int]:
    return [sum(widths[:t]) for t in range(len(widths) + 1)]


def inferred(model: HierarchicalVAE, x: Tensor) -> MultivariateNormal:
    """Return q(z_1:T | x) of each example as one Gaussian."""
    widths = [x.shape[1], *(len(rung.offset) for rung in model.inference)]
    starts = [sum(widths[:t]) - widths[0] for t in range(len(widths) + 1)]
    total = starts[-1]
    linear, offset, noise = torch.zeros(total, total), torch.zeros(len(x), total), torch.zeros(total, total)
    for t, rung in enumerate(model.inference, start=1):
        rows = slice(starts[t], starts[t + 1])
        offset[:, rows] = rung.offset
        noise[rows, rows] = rung.covariance
        for s, weight in zip(range(t - 1, -1, -1), rung.weights, strict=False):
            if s == 0:
                offset[:, rows] += x @ weight.mT
            else:
                linear[rows, starts[s] : starts[s + 1]] = weight
    inverse = torch.linalg.inv(torch.eye(total) - linear)
    return MultivariateNormal(offset @ inverse.mT, inverse @ noise @ inverse.mT)


def cubature(model: HierarchicalVAE) -> int:
    """Make the posterior draw +-sqrt(n) along each of its n axes of noise, and return the 2 n draws that takes."""
    widths = [len(rung.offset) for rung in model.inference]
    n = sum(widths)
    points = n**0.5 * torch.cat([torch.eye(n), -torch.eye(n)])
    for rung, noise in zip(model.inference, points.split(widths, dim=1), strict=True):
        rung.noise = noise[:, None]
    return 2 * n


class Says(nn.Module):
    """Evidence N(W x + c, diag s^2) of a level; d is x itself."""

    def __init__(self, rung: nn.Module) -> None:
        super().__init__()
        self.rung = rung

    def forward(self, d: Tensor) -> tuple[Tensor, Distribution]:
        return d, self.rung(d)


def best(linear: Chain) -> HierarchicalVAE:
    """Return the chain with the best diagonal q: the posterior's means, and as precisions its precisions' diagonals."""
    rungs = [
        Diagonal(rung.weights[0], rung.offset, torch.linalg.inv(rung.covariance).diagonal() ** -0.5)
        for rung in linear.model.inference
    ]
    return HierarchicalVAE(linear.model.generative, rungs, "nearest")


def level_gaps(linear: Chain) -> Tensor:
    """Return 1/2 (sum log L_ii - log det L) of each level, L being the precision of p(z_t | z_t-1)."""
    precisions = [torch.linalg.inv(rung.covariance) for rung in linear.model.inference]
    return torch.stack([0.5 * (p.diagonal().log().sum() - p.logdet()) for p in precisions])
