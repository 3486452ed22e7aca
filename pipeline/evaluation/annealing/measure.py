"""Bounds on log p(x) by annealing: chains that are lengthened until their bound stops moving, and how exact they are.

The shortest chains are run from every start of `PATHS`; the start whose bound is higher is used from then on. The
number of temperatures is doubled until the bound rises by less than 0.05 nats, its standard error included, or until
the largest number is reached. What is reported are new chains of that start and number: these were chosen without
them, so that their value is, in expectation, a lower bound of log p(x), and its error that of independent draws.

    ais                    mean over the given images of log mean w over the chains            nats / example
    ais/elbo, ais/iwae     elbo and L_k of the same images                                     nats / example
    ais/gain               ais - ais/iwae; clearly below 0, the chains are too short           nats / example
    ais/temperatures       how many were used
    ais/from_posterior     1 where the chains start at q, 0 where they start at the prior
    bdmc/lower, bdmc/upper the same bound, and one from above, on images of the model, by as many temperatures
                           from the same start                                                 nats / example
    bdmc/width             bdmc/upper - bdmc/lower: the error of `ais` is at most this, in expectation, on images
                           that the model draws                                                nats / example
    ais/acceptance, bdmc/acceptance    mean probability that a move is accepted

The standard errors of `ais`, `ais/elbo`, `ais/iwae` and of their differences are over draws with the images held fixed;
those of `bdmc/*` and of the acceptances are over images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.evaluation.annealing.paths import PATHS
from pipeline.evaluation.annealing.sandwich import Sandwich, Settings, sandwich
from pipeline.evaluation.bounds import importance_bound, many_draws
from pipeline.evaluation.estimates import Estimate
from pipeline.models import HierarchicalVAE
from pipeline.randomness import seeded

__all__ = ["annealed", "lengthen", "warning"]

IMAGES = 50  # a batch of importance sampling
FEWEST = 10  # temperatures of the shortest chains, at most
TOLERANCE = 0.05  # nats


@dataclass(frozen=True)
class Run:
    """Chains of given images, the settings that made them, and their bound."""

    settings: Settings
    chains: Sandwich
    bound: Estimate


def annealed(
    model: HierarchicalVAE,
    x: Float[Tensor, "batch units"],
    settings: Settings | None = None,
    *,
    simulated: int = 10,
    draws: int = 5000,
    starts: Sequence[str] = tuple(PATHS),
) -> dict[str, Estimate]:
    """Bound log p(x) of the examples from below, and of `simulated` ones of the model from both sides.

    Beside the chains' bound stand `elbo` and L_k of the same examples at k = `draws` of the posterior. The number of
    temperatures in `settings` is the largest that may be used; the better one of `starts` replaces its start.
    """
    settings = settings or Settings()
    last = lengthen(model, x, settings, starts)
    own = sandwich(model, simulated, last.settings)
    with seeded(settings.seed, "importance"), torch.no_grad():
        log_weight = torch.cat([many_draws(model, rows, draws).log_weight for rows in x.split(IMAGES)], dim=1)
    iwae = Estimate.mean(*importance_bound(log_weight, draws))
    return {
        "ais": last.bound,
        "ais/elbo": Estimate.mean(log_weight.mean(0), log_weight.var(0) / draws),
        "ais/iwae": iwae,
        "ais/gain": last.bound - iwae,
        "ais/temperatures": Estimate(last.settings.temperatures, None),
        "ais/from_posterior": Estimate(float(last.settings.start == "posterior"), None),
        "ais/acceptance": Estimate.mean(last.chains.acceptance),
        "bdmc/lower": Estimate.mean(own.lower),
        "bdmc/upper": Estimate.mean(own.upper),
        "bdmc/width": Estimate.mean(own.width),
        "bdmc/acceptance": Estimate.mean(own.acceptance),
    }


def lengthen(
    model: HierarchicalVAE, x: Float[Tensor, "batch units"], settings: Settings, starts: Sequence[str] = tuple(PATHS)
) -> Run:
    """Return new chains of as many temperatures as are enough, from the better start."""

    def run(start: str, temperatures: int, stream: str = "trial") -> Run:
        own = replace(settings, start=start, temperatures=temperatures)
        chains = sandwich(model, x, own, stream=stream)
        return Run(own, chains, Estimate.mean(*importance_bound(chains.up.log_weight, own.chains)))

    first, *longer = _doublings(settings.temperatures)
    last = max((run(start, first) for start in starts), key=lambda run: run.bound.value)
    for temperatures in longer:
        shorter, last = last, run(last.settings.start, temperatures)
        gain = last.bound - shorter.bound
        if gain.value + gain.error < TOLERANCE:
            break
    return run(last.settings.start, last.settings.temperatures, "final")


def _doublings(most: int) -> list[int]:
    """Return numbers of temperatures up to `most`, each half of the next one, rounded up; there are two at least.

    >>> _doublings(100), _doublings(3)
    ([7, 13, 25, 50, 100], [2, 3])

    Raises:
        ValueError: `most` is 1, which cannot be halved.
    """
    if most < 2:
        raise ValueError(f"temperatures must be at least 2 to be halved, not {most}")
    counts = [-(-most // 2), most]
    while counts[0] > FEWEST:
        counts.insert(0, -(-counts[0] // 2))
    return counts


def warning(results: Mapping[str, Estimate]) -> str:
    """Return a warning where `ais` lies below L_k of the same images by twice its error or more, else an empty text."""
    gain = results.get("ais/gain")
    if gain is None or gain.value > -2 * gain.error:
        return ""
    return (
        f"annealing with {results['ais/temperatures'].value:.0f} temperatures lies {-gain.value:.3f} nats (se"
        f" {gain.error:.3f}) below L_k of the same images: its chains are too short; raise"
        " evaluate.decompose.ais_temperatures"
    )
