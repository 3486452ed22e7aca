"""What the family of posteriors costs, and what one network for all examples costs, in all and by level.

    log p(x) - elbo = [log p(x) - L(q*)] + [L(q*) - L(q)] = approximation_gap + amortization_gap,

L(q) the bound of the trained q and L(q*) that of the best q of the same family for each example by itself.
Cremer, Li, Duvenaud, "Inference Suboptimality in Variational Autoencoders" (2018), https://arxiv.org/abs/1801.03558
By level: `approximation_gap/z_t` is `gap/z_t` of q* (decomposition (d), see `levels`), `amortization_gap/z_t` is
`gap/z_t` of q less that of q*. The former are 0 or more. Of the latter only the sum is: q* may spend at one level what
it gains at another.

q* here: at every level t and for every example n,

    q*(z_t | .) = N(mu_t(.) + sigma_t(.) shift_tn, diag (sigma_t(.) exp(log_scale_tn))^2),

mu_t and sigma_t being those of the trained network, or, in the ladder, of the evidence that it merges with p; shift =
log_scale = 0 is the trained q, where Adam starts. At the level drawn first this is every diagonal Gaussian, free for
each example; at the others, how mu_t and sigma_t depend on the levels drawn before stays the network's, so that what
that dependence lacks counts as approximation. The model is left as it is.

Adam climbs L(q*) in rounds, each from `rate` down a cosine and each of twice as many steps as the one before, along the
gradient through the draws alone: the score of q, of mean 0, is left out (`pipeline.objectives.stopped`). What a round
leaves is the noise of its steps, which falls as one over their number, so that a doubling gains about what it leaves.
After each round L(q*) is measured at the same random numbers as before. The best q* is kept, and the first doubling
that gains less than 0.01 nats is the last one. `gap_unconverged` is what the last doubling gained, on average over
images. Where `steps` ended the search it says by how much the approximation gap may still be too large and the
amortization gap too small, and a line is printed. The sum of both gaps is not touched by it.

log p(x) is the log mean of 2k weights, half of them at draws from q and half at draws from q*, whose proposal is the
mixture of both: w = p(x, z) / (q(z) / 2 + q*(z) / 2). Where the best diagonal q is narrower than the posterior its own
weights may have no variance; those of the mixture are at most twice those of q. The estimate is from below, and the
approximation and inference gap with it. Standard errors are those of the draws at the q* that was found; another
optimization finds another.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from pipeline.evaluation.bounds import Estimate, Measured, jackknife
from pipeline.evaluation.estimates import PerImage, of_batches, of_draws
from pipeline.evaluation.levels import level_terms, log_mean_exp
from pipeline.models import HierarchicalVAE
from pipeline.objectives import elbo, stopped
from pipeline.progress import note, watched
from pipeline.training import SCHEDULES

__all__ = ["gap_terms", "measure_gaps", "refine"]

ROWS = 2000  # rows of one pass, draws times images
BATCH = 50  # images of one batch
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
        given = self.rung(*parents)
        if isinstance(given, tuple):
            return given[0], self._moved(given[1])
        return self._moved(given)

    def _moved(self, q: Distribution) -> Distribution:
        times = q.mean.shape[-2] // len(self.shift)
        shift, scale = self.shift.repeat(times, 1), self.log_scale.exp().repeat(times, 1)
        mean = q.mean + q.stddev * shift
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
    rungs = [_Refined(rung, torch.zeros_like(q_t.mean[0])) for rung, q_t in zip(model.inference, factors, strict=True)]
    refined = HierarchicalVAE(model.generative, rungs, model.parents, model.direction)
    free = [tensor for rung in rungs for tensor in (rung.shift, rung.log_scale)]
    optimizer = torch.optim.Adam(free, lr=rate, betas=(0.9, 0.99))
    seed = int(torch.randint(2**31, ()))
    best = before = _bound(refined, x, seed)
    kept = [tensor.detach().clone() for tensor in free]
    gain, taken, converged = torch.zeros_like(best), 0, False
    for number, length in enumerate(_rounds(steps)):
        for step in watched(range(length), "inference gaps", "steps of a round"):
            optimizer.param_groups[0]["lr"] = rate * SCHEDULES["cosine"](step / length)
            optimizer.zero_grad(set_to_none=True)
            with torch.enable_grad():
                loss = -stopped(refined, x, draws).elbo.sum()
            loss.backward(inputs=free)
            optimizer.step()
        taken, after = taken + length, _bound(refined, x, seed)
        gain = after - before
        converged = number > 0 and gain.mean().item() < CONVERGED
        if after.mean() > best.mean():
            best, kept = after, [tensor.detach().clone() for tensor in free]
        if converged:
            break
        before = after
    with torch.no_grad():
        for tensor, value in zip(free, kept, strict=True):
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
        per_pass = max(1, ROWS // len(x))
        sizes = [min(per_pass, COMPARED - done) for done in range(0, COMPARED, per_pass)]
        return torch.cat([elbo(model, x, size).log_weight for size in sizes])


def measure_gaps(
    model: HierarchicalVAE,
    x: Float[Tensor, "n units"],
    *,
    steps: int,
    draws: int,
    rate: float,
    k: int,
    level_draws: int,
    inner: int,
) -> Measured:
    """Return every term of `gap_terms` over all images."""
    settings = {"steps": steps, "draws": draws, "k": k, "level_draws": level_draws, "inner": inner}
    found = of_batches([gap_terms(model, batch, rate=rate, **settings) for batch in x.split(BATCH)])
    unconverged = found.estimates[
        "gap_unconverged"
    ].value  # another search ends elsewhere, which no error of draws says
    return found | Measured({"gap_unconverged": Estimate(unconverged, None)})


def gap_terms(
    model: HierarchicalVAE,
    x: Float[Tensor, "batch units"],
    *,
    steps: int,
    draws: int,
    rate: float,
    k: int,
    level_draws: int,
    inner: int,
) -> PerImage:
    """Return `approximation_gap`, `amortization_gap` and their sum `inference_gap` of each image, in nats.

    `inference_gap` is `gaps/log_marginal` less `gaps/elbo`, of the same images and draws. `k` (at least 2) fresh draws
    stand behind each bound, all of them behind log p(x). The gaps by level have draws of their own, `level_draws` and
    `inner` of them as in `level_terms`.
    """
    search = refine(model, x, steps=steps, draws=draws, rate=rate)
    refined = search.model
    if not search.converged:
        gained = f"the last round of them gained {search.gain.mean():.3f} nats an image"
        note(f"q* has not converged in {search.steps} steps: {gained}; raise evaluate.decompose.gap_steps")
    with torch.no_grad():
        trained, best, pooled = _weights(model, refined, x, k)
        log_p, error = evidence = log_mean_exp(pooled), jackknife(pooled)
        before, before_error = of_draws(trained)
        after, after_error = of_draws(best)
        # log p(x) shares its draws with the bound that it is compared with.
        above_best, above_trained = (jackknife(pooled, bound) for bound in (best, trained))
        ours, theirs = (
            level_terms(q, x, draws=level_draws, inner=inner, outer=k, evidence=evidence)[0] for q in (model, refined)
        )
    results: PerImage = {
        "approximation_gap": (log_p - after, above_best),
        "amortization_gap": (after - before, after_error + before_error),
        "inference_gap": (log_p - before, above_trained),
        "gap_unconverged": (search.gain, search.variance),
        "gaps/elbo": (before, before_error),
        "gaps/log_marginal": (log_p, error),
    }
    for t in model.order:
        (gap, gap_error), (least, least_error) = ours[f"gap/z{t}"], theirs[f"gap/z{t}"]
        assert gap_error is not None
        assert least_error is not None
        shared = error if t == model.order[0] else 0.0  # log p(x) is the same in both
        results[f"approximation_gap/z{t}"] = (least, least_error)
        results[f"amortization_gap/z{t}"] = (gap - least, gap_error + least_error - 2 * shared)
    return results


def _weights(
    model: HierarchicalVAE, refined: HierarchicalVAE, x: Float[Tensor, "batch units"], k: int
) -> tuple[Float[Tensor, "k batch"], Float[Tensor, "k batch"], Float[Tensor, "k batch"]]:
    """Return the log-weights of k draws from q and of k from q*, and those of the mixture as the proposal.

    Of the latter each is the mean of a pair: the weights of one draw from q and of one from q*.
    """
    per_pass = max(1, ROWS // len(x))
    parts: list[list[Tensor]] = [[], [], []]
    for done in range(0, k, per_pass):
        mixed = []
        for side, (source, other) in enumerate(((model, refined), (refined, model))):
            z, q = source.posterior(x, min(per_pass, k - done))
            own, across = (_log_density(factors, z[1:]) for factors in (q, other.posterior_at(z)))
            log_p = _log_density(source.joint(z), z)
            parts[side].append(log_p - own)
            mixed.append(log_p - torch.logaddexp(own, across) + math.log(2))
        parts[2].append(torch.logaddexp(*mixed) - math.log(2))
    trained, best, pooled = (torch.cat(part) for part in parts)
    return trained, best, pooled


def _log_density(factors: Sequence[Distribution], z: Sequence[Tensor]) -> Tensor:
    """Return the sum of the log-densities of all factors at the nodes, [draws, batch]."""
    terms = [factor.log_prob(z_t) for factor, z_t in zip(factors, z, strict=True)]
    return torch.stack(torch.broadcast_tensors(*terms)).sum(0)
