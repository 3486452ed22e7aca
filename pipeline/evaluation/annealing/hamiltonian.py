"""Hamiltonian Monte Carlo: a transition that leaves a density f invariant, for many chains at once.

A phase is a position eps and a momentum r ~ N(0, I), of energy H = -log f(eps) + |r|^2 / 2. A leapfrog step is

    r <- r + step/2 grad log f(eps),    eps <- eps + step r,    r <- r + step/2 grad log f(eps)

It keeps volumes, is its own inverse after r <- -r, and its energy error is of order step^2. Hence a Metropolis
test, one per chain, with probability min(1, exp(H - H')), makes f invariant exactly. The step may be drawn at
random as long as it is drawn without regard to the state; that keeps trajectories from closing upon themselves.

Neal, "MCMC using Hamiltonian dynamics" (2011), https://arxiv.org/abs/1206.1901
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

__all__ = ["Phase", "leapfrog", "transition"]

LogDensity = Callable[[Tensor], Tensor]
"""log f of positions [chains, batch, units], up to a constant: [chains, batch], in nats."""

JITTER = 0.2  # a chain's step is uniform within this fraction of the tuned one


@dataclass(frozen=True)
class Phase:
    """Positions and momenta, with log f and its gradient at the positions."""

    eps: Float[Tensor, "chains batch units"]
    momentum: Float[Tensor, "chains batch units"]
    log_f: Float[Tensor, "chains batch"]
    gradient: Float[Tensor, "chains batch units"]

    @classmethod
    def at(cls, log_f: LogDensity, eps: Tensor, momentum: Tensor) -> Phase:
        """Return the phase at `eps` and `momentum`."""
        with torch.enable_grad():
            eps = eps.detach().requires_grad_()
            value = log_f(eps)
            (gradient,) = torch.autograd.grad(value.sum(), eps)
        return cls(eps.detach(), momentum, value.detach(), gradient)

    @property
    def energy(self) -> Float[Tensor, "chains batch"]:
        """Return H = -log f + |r|^2 / 2."""
        return self.momentum.square().sum(-1) / 2 - self.log_f


def leapfrog(log_f: LogDensity, phase: Phase, step: Float[Tensor, "*#shape"], count: int) -> Phase:
    """Take `count` leapfrog steps of size `step`, which broadcasts to [chains, batch]."""
    step = step[..., None]
    for _ in range(count):
        momentum = phase.momentum + step / 2 * phase.gradient
        phase = Phase.at(log_f, phase.eps + step * momentum, momentum)
        phase = Phase(phase.eps, momentum + step / 2 * phase.gradient, phase.log_f, phase.gradient)
    return phase


def transition(
    log_f: LogDensity, eps: Float[Tensor, "chains batch units"], step: Float[Tensor, "*#shape"], count: int
) -> tuple[Float[Tensor, "chains batch units"], Float[Tensor, "chains batch"]]:
    """Move every chain once, leaving f invariant: return the positions and the probabilities of acceptance.

    A trajectory that ends at a non-finite energy is rejected.
    """
    before = Phase.at(log_f, eps, torch.randn_like(eps))
    jitter = 1 + JITTER * (2 * torch.rand_like(before.log_f) - 1)
    after = leapfrog(log_f, before, step * jitter, count)
    probability = (before.energy - after.energy).exp().clamp(max=1).nan_to_num(nan=0.0)
    accepted: Bool[Tensor, "chains batch"] = torch.rand_like(probability) < probability
    return torch.where(accepted[..., None], after.eps, before.eps), probability
