"""Annealed importance sampling: chains along a path of densities, and the weights they gather.

Along inverse temperatures beta_0, ..., beta_K a chain starts at eps_0 ~ f_{beta_0} and moves by transitions that leave
f_{beta_1}, ..., f_{beta_{K-1}} invariant in turn. Its log-weight

    log w = sum_{k=1..K} (beta_k - beta_{k-1}) ratio(eps_{k-1})

is unbiased in the weight: E w = Z(beta_K) / Z(beta_0). From 0 up to 1 hence E w = p(x) and E log w <= log p(x).
From 1 down to 0, started at an exact draw of the posterior, E w = 1 / p(x) and -E log w >= log p(x): one code
goes both ways.

The guarantee needs transitions that do not depend on the chain they move. So the step sizes are tuned by chains of
their own, which are thrown away, and are frozen in the weighted ones.

Neal, "Annealed importance sampling" (2001), https://arxiv.org/abs/physics/9803008
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from pipeline.evaluation.annealing.hamiltonian import transition
from pipeline.evaluation.annealing.paths import Path
from pipeline.progress import track_progress

__all__ = ["SCHEDULES", "Weights", "anneal", "tune"]

TARGET = 0.65  # acceptance that tuning aims at: Neal (2011), section 4.4
GAIN = 0.5  # nats of log step per unit of acceptance missed
WARM = 30  # moves at the first temperature, before the steps count
LARGEST_STEP = 1.0  # half the stability limit under the prior N(0, I), in which no direction is narrower a priori


@dataclass(frozen=True)
class Weights:
    """What the chains gathered: log-weights in nats, and the mean probability of acceptance of all moves."""

    log_weight: Float64[Tensor, "chains batch"]
    acceptance: Float64[Tensor, " batch"]

    @property
    def log_mean(self) -> Float64[Tensor, " batch"]:
        """Return the log of the mean weight of each example."""
        return torch.logsumexp(self.log_weight, 0) - math.log(len(self.log_weight))


@torch.no_grad()
def tune(
    path: Path, eps: Float[Tensor, "chains batch units"], betas: Float64[Tensor, " temperatures"], leapfrog: int
) -> Float[Tensor, "moves batch"]:
    """Return a step size for every example and every beta but the first and last, at which about 0.65 is accepted.

    The chains at `eps`, drawn from the path's start, move along the temperatures with steps that follow
    their acceptance; neither they nor their weights may be used for anything else.
    """
    log_step = torch.full_like(eps[0, :, 0], math.log(LARGEST_STEP / 2))
    steps = []
    moves = betas[1:-1].tolist()
    for beta in track_progress([*moves[:1] * WARM, *moves], "tuning of annealing", "temperatures"):
        eps, probability = transition(path.at(beta), eps, log_step.exp(), leapfrog)
        log_step = (log_step + GAIN * (probability.mean(0) - TARGET)).clamp(max=math.log(LARGEST_STEP))
        steps.append(log_step.exp())
    return torch.stack(steps[-len(moves) :]) if moves else eps.new_zeros(0, eps.shape[1])


@torch.no_grad()
def anneal(
    path: Path,
    eps: Float[Tensor, "chains batch units"],
    betas: Float64[Tensor, " temperatures"],
    steps: Float[Tensor, "moves batch"],
    leapfrog: int,
) -> Weights:
    """Move the chains at `eps` along `betas`, up or down, with the given step sizes, and weigh them."""
    log_weight = eps.new_zeros(eps.shape[:2], dtype=torch.float64)
    acceptance = eps.new_zeros(eps.shape[1], dtype=torch.float64)
    for k, beta in enumerate(track_progress(betas.tolist()[1:], "annealing", "temperatures")):
        log_weight += (betas[k + 1] - betas[k]) * path.ratio(eps).double()
        if k < len(steps):
            eps, probability = transition(path.at(beta), eps, steps[k], leapfrog)
            acceptance += probability.double().mean(0) / len(steps)
    return Weights(log_weight, acceptance)


def _sigmoid(temperatures: int) -> Float64[Tensor, " _"]:
    """Logistic curve from -4 to 4, moved to run from 0 to 1: dense at both ends."""
    curve = torch.sigmoid(torch.linspace(-4, 4, temperatures + 1, dtype=torch.float64))
    return (curve - curve[0]) / (curve[-1] - curve[0])


def _geometric(temperatures: int) -> Float64[Tensor, " _"]:
    """0, then equal ratios from 1e-4 to 1: dense at the start."""
    return torch.cat(
        [torch.zeros(1, dtype=torch.float64), torch.logspace(0, -4, temperatures, dtype=torch.float64).flip(0)]
    )


SCHEDULES: dict[str, Callable[[int], Float64[Tensor, " _"]]] = {"sigmoid": _sigmoid, "geometric": _geometric}
"""Inverse temperatures beta_0 = 0, ..., beta_K = 1 of K intervals. `sigmoid`: Wu et al. (2017), appendix."""
