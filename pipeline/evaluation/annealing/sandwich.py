"""Bounds of log p(x) from below and, where the posterior can be drawn from, from above.

Chains from the start of a path give log mean w, in expectation a lower bound of log p(x), for any x. An x simulated
from the model comes with one exact draw of its posterior, the latent values it was decoded from; chains from there back
to the start give -log mean w, in expectation an upper bound, and the two a sandwich. Real data have no such draw: for
them only the lower bound is valid, and the sandwich's width on simulated data says how far it may be off.

Grosse, Ghahramani, Adams, "Sandwiching the marginal likelihood using bidirectional Monte Carlo" (2015),
https://arxiv.org/abs/1511.02543
Wu, Burda, Salakhutdinov, Grosse, "On the quantitative analysis of decoder-based generative models" (2017),
https://arxiv.org/abs/1611.04273
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from pipeline.evaluation.annealing.chains import SCHEDULES, Weights, anneal, tune
from pipeline.evaluation.annealing.paths import PATHS, widths
from pipeline.evaluation.passes import passes
from pipeline.models import HierarchicalVAE, rows_within
from pipeline.randomness import seeded

__all__ = ["Sandwich", "Settings", "sandwich"]

ROWS = 2048  # rows of one pass, chains times images
TUNERS = 10  # chains an image that tune the step sizes


@dataclass(frozen=True)
class Settings:
    """How long, how many and how seeded the chains are; `start` names a path, `schedule` its temperatures."""

    temperatures: int = 1000
    chains: int = 100
    leapfrog: int = 10
    schedule: str = "sigmoid"
    start: str = "prior"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("temperatures", 1), ("chains", 2), ("leapfrog", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, not {getattr(self, name)}")
        for name, choices in (("schedule", SCHEDULES), ("start", PATHS)):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, not {getattr(self, name)!r}")


@dataclass(frozen=True)
class Sandwich:
    """The chains of each example, up from the start and, for simulated examples alone, down from the posterior."""

    x: Float[Tensor, "batch units"]
    up: Weights
    down: Weights | None

    @property
    def lower(self) -> Float64[Tensor, " batch"]:
        """Lower bound of log p(x), in nats."""
        return self.up.log_mean

    @property
    def upper(self) -> Float64[Tensor, " batch"]:
        """Upper bound of log p(x), in nats.

        Raises:
            ValueError: the examples are real, so that no exact draw of their posterior is known.
        """
        if self.down is None:
            raise ValueError("an upper bound needs simulated examples: pass their number instead of x")
        return -self.down.log_mean

    @property
    def width(self) -> Float64[Tensor, " batch"]:
        """Upper less lower bound, in nats; it raises as `upper` does."""
        return self.upper - self.lower

    @property
    def acceptance(self) -> Float64[Tensor, " batch"]:
        """Mean probability of acceptance over all moves."""
        parts = [self.up] if self.down is None else [self.up, self.down]
        return torch.stack([part.acceptance for part in parts]).mean(0)


@torch.no_grad()
def sandwich(
    model: HierarchicalVAE,
    data: Float[Tensor, "batch units"] | int,
    settings: Settings | None = None,
    *,
    stream: str = "",
) -> Sandwich:
    """Bound log p(x) of the examples in `data`, from below; or of as many simulated examples, from both sides.

    The examples, and the chains, are taken in passes of bounded memory. The caller's random state is left alone.
    Chains of given and of simulated examples, of another start, another number of temperatures or another `stream` draw
    different random numbers, so that their errors are independent.
    """
    settings = settings or Settings()
    kind = "simulated" if isinstance(data, int) else "given"
    with seeded(settings.seed, f"annealing {stream} {kind} {settings.start} {settings.temperatures}"):
        x, eps = simulate(model, data) if isinstance(data, int) else (data, None)
        per_pass = max(1, rows_within(model, x, ROWS) // settings.chains)
        starts = [None] * len(x) if eps is None else eps.split(per_pass)
        parts = [_bound(model, part, start, settings) for part, start in zip(x.split(per_pass), starts, strict=False)]
    up = _join([up for up, _ in parts])
    return Sandwich(x, up, None if eps is None else _join([down for _, down in parts if down is not None]))


def simulate(model: HierarchicalVAE, count: int) -> tuple[Float[Tensor, "count _"], Float[Tensor, "count _"]]:
    """Draw examples from (19) and return them with the eps they came from, an exact draw of each one's posterior."""
    levels = widths(model)
    eps = torch.randn(count, sum(levels)).to(model.sample(1)[0])
    _, p = model.decode_noncentered(eps.split(levels, dim=-1))
    return p[0].sample(), eps


def _bound(
    model: HierarchicalVAE, x: Float[Tensor, "batch _"], eps: Float[Tensor, "batch _"] | None, settings: Settings
) -> tuple[Weights, Weights | None]:
    path = PATHS[settings.start](model, x)
    betas = SCHEDULES[settings.schedule](settings.temperatures).to(x.device)
    steps = tune(path, path.draw(TUNERS), betas, settings.leapfrog)  # of f alone: tuning never sees `eps`
    up = _stack([anneal(path, path.draw(n), betas, steps, settings.leapfrog) for n in passes(settings.chains, 1, ROWS)])
    if eps is None:
        return up, None
    nodes, _ = model.decode_noncentered(eps.split(widths(model), dim=-1))
    exact = path.locate(eps, nodes)
    back, slow = betas.flip(0), steps.flip(0)
    starts = [exact.expand(n, *exact.shape) for n in passes(settings.chains, 1, ROWS)]
    return up, _stack([anneal(path, start, back, slow, settings.leapfrog) for start in starts])


def _stack(parts: list[Weights]) -> Weights:
    """Join chains of the same examples."""
    log_weight = torch.cat([part.log_weight for part in parts])
    accepted = torch.stack([part.acceptance * len(part.log_weight) for part in parts]).sum(0)
    return Weights(log_weight, accepted / len(log_weight))


def _join(parts: list[Weights]) -> Weights:
    """Join the chains of different examples."""
    return Weights(
        torch.cat([part.log_weight for part in parts], dim=1), torch.cat([part.acceptance for part in parts])
    )
