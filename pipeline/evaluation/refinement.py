"""q*, the best posterior of the trained q's family for each example by itself, and the search for it.

At every level t and for every example n,

    q*(z_t | .) = N(mu_t(.) + sigma_t(.) shift_tn, diag (sigma_t(.) exp(log_scale_tn))^2),

mu_t and sigma_t being those of the trained network, or, in the ladder, of the evidence that it merges with p; shift =
log_scale = 0 is the trained q, where Adam starts. At the level drawn first this is every diagonal Gaussian, free for
each example; at the others, how mu_t and sigma_t depend on the levels drawn before stays the network's, so that what
that dependence lacks counts as approximation. Levels that a prior diffusion adds keep their q, which has no weights.
The model is left as it is.

Adam maximizes L(q*) in rounds, each from `rate` down a cosine and each of twice as many steps as the one before, along
the gradient through the draws alone: the score of q, of mean 0, is left out (`pathwise_terms`). What a round leaves is
the noise of its steps, which falls as one over their number, so that a doubling gains about what it leaves. After each
round L(q*) is measured at the same random numbers as before. The best q* is kept, and the first doubling that gains
less than 0.01 nats is the last one. `gap_unconverged` is what the last doubling gained, on average over images. Where
`steps` ended the search it says by how much the approximation gap may still be too large and the amortization gap too
small, and a line is printed. The sum of both gaps is not touched by it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from pipeline.distributions import Correction
from pipeline.evaluation.passes import DECODED_ROWS, passes
from pipeline.models import HierarchicalVAE, Noising, rows_within
from pipeline.objectives import elbo, pathwise_terms
from pipeline.progress import track_progress
from pipeline.training.schedules import SCHEDULES

__all__ = ["refine"]

FEWEST = 30  # steps of the first round, at least, where the others allow it
CONVERGED = 0.01  # nats: the search ends after a doubling that gains less
COMPARED = 1000  # draws of each image behind the gain of a doubling


class _Refined(nn.Module):
    """A rung of the inference whose diagonal Gaussian is moved and scaled for each example of one batch."""

    def __init__(self, rung: nn.Module, shift: Float[Tensor, "batch units"]) -> None:
        super().__init__()
        self.rung = rung
        self.shift = nn.Parameter(shift)
        self.log_scale = nn.Parameter(torch.zeros_like(shift))

    def forward(self, *parents: Tensor) -> Distribution | tuple[Tensor, Distribution]:
        """Return q*(z_t | parents), or the ladder's step with its evidence moved.

        The last dimension but one of the parents is the batch, or the batch several times over.
        """
        out = self.rung(*parents)
        return (out[0], self._moved(out[1])) if isinstance(out, tuple) else self._moved(out)

    def _moved(self, q: Distribution) -> Distribution:
        times = q.mean.shape[-2] // len(self.shift)
        shift, scale = self.shift.repeat(times, 1), self.log_scale.exp().repeat(times, 1)
        mean = q.mean + q.stddev * shift
        if isinstance(q, Correction):
            return Correction(mean, q.stddev * scale)
        return Independent(Normal(mean, q.stddev * scale, validate_args=False), 1, validate_args=False)


@dataclass(frozen=True)
class Search:
    """The model with q*, and what the last doubling of a round's steps gained for each image, with its variance."""

    model: HierarchicalVAE
    gain: Float[Tensor, " batch"]
    variance: Float[Tensor, " batch"]
    steps: int
    converged: bool


def refine(model: HierarchicalVAE, x: Float[Tensor, "batch units"], *, steps: int, draws: int, rate: float) -> Search:
    """Return the model with q* for the examples x, after `steps` of Adam at most, of `draws` each, from `rate`.

    Raises:
        TypeError: a posterior factor is not a diagonal Gaussian.
    """
    with torch.no_grad():
        factors = model.posterior(x)[1]
    for q_t in factors:
        if not (isinstance(q_t, Independent) and isinstance(q_t.base_dist, Normal)):
            raise TypeError(f"refinement needs diagonal Gaussian posteriors, not {q_t}")
    rungs = [
        rung if isinstance(rung, Noising) else _Refined(rung, torch.zeros_like(q_t.mean[0]))
        for rung, q_t in zip(model.inference, factors, strict=True)
    ]
    refined = HierarchicalVAE(model.generative, rungs, model.parents, model.direction, model.diffusion)
    free = [tensor for rung in rungs if isinstance(rung, _Refined) for tensor in (rung.shift, rung.log_scale)]
    optimizer = torch.optim.Adam(free, lr=rate, betas=(0.9, 0.99))
    seed = int(torch.randint(2**31, ()))
    best = before = _bound(refined, x, seed)
    best_values = [tensor.detach().clone() for tensor in free]
    gain, taken, converged = torch.zeros_like(best), 0, False
    for number, length in enumerate(_rounds(steps)):
        for step in track_progress(range(length), "inference gaps", "steps of a round"):
            optimizer.param_groups[0]["lr"] = rate * SCHEDULES["cosine"](step / length)
            optimizer.zero_grad(set_to_none=True)
            with torch.enable_grad():
                loss = -pathwise_terms(refined, x, draws).elbo.sum()
            loss.backward(inputs=free)
            optimizer.step()
        taken, after = taken + length, _bound(refined, x, seed)
        gain = after - before
        converged = number > 0 and gain.mean().item() < CONVERGED
        if after.mean() > best.mean():
            best, best_values = after, [tensor.detach().clone() for tensor in free]
        if converged:
            break
        before = after
    with torch.no_grad():
        for tensor, value in zip(free, best_values, strict=True):
            tensor.copy_(value)
    return Search(refined, gain.mean(0), gain.var(0) / len(gain), taken, converged)


def _rounds(steps: int) -> list[int]:
    """Return the numbers of steps of the rounds, each twice the one before, that make up `steps`."""
    count = max(2, int(math.log2(steps / FEWEST + 1)))
    first = steps // (2**count - 1)
    if not first:
        return [steps] if steps else []
    lengths = [first * 2**number for number in range(count)]
    return [*lengths[:-1], steps - sum(lengths[:-1])]


@torch.no_grad()
def _bound(model: HierarchicalVAE, x: Float[Tensor, "batch units"], seed: int) -> Float[Tensor, "draws batch"]:
    """Return the log-weights of draws that depend on the seed and on q alone."""
    with torch.random.fork_rng(devices=[x.device] if x.device.type == "cuda" else []):
        torch.manual_seed(seed)
        sizes = passes(COMPARED, len(x), rows_within(model, x, DECODED_ROWS))
        return torch.cat([elbo(model, x, size).log_weight for size in sizes])
