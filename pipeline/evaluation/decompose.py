"""Every decomposition of one model on the frozen test set; those by annealing, half of the time, apart.

    levels     `chain_kl/z_t`, `gap/z_t`, their sums `levels/kl` and `levels/gap`, their `_bias`, `levels/elbo`,
               `log_marginal/z1`; `bound_width/z_t` on the model's own draws
    surgery    `mutual_information`, `marginal_kl`, `total_correlation`, together and by level
    gaps       `approximation_gap`, `amortization_gap`, `inference_gap`, in all and by level; `gaps/elbo` and
               `gaps/log_marginal` of the same images, and `gap_unconverged`, how far from its optimum q* may be
    annealing  `ais`, a lower bound of log p(x) beside `elbo` and L_k of the same images; `bdmc`, a two-sided one
               on images of the model itself

In nats per example. Levels, gaps and `ais` are of the first images of the test set, the surgery of random ones against
all, or, with `aggregate: train`, of random training images against all of those; `width` and `bdmc` are of images that
the model draws.
"""

from __future__ import annotations

from jaxtyping import Float, Shaped
from torch import Tensor

from pipeline.data.images import to_unit_interval
from pipeline.evaluation import annealing
from pipeline.evaluation.estimates import Estimate, Measured
from pipeline.evaluation.inference_gaps import measure_gaps
from pipeline.evaluation.latents import has_units_apart
from pipeline.evaluation.levels import measure_levels, two_sided_bound
from pipeline.evaluation.surgery import surgery
from pipeline.models import HierarchicalVAE
from pipeline.params import DecomposeParams, EvaluateParams, digest
from pipeline.randomness import seeded

__all__ = ["anneal", "decompose"]


def decompose(
    model: HierarchicalVAE,
    test: Shaped[Tensor, "n units"],
    scale: int,
    params: EvaluateParams,
    settings: DecomposeParams,
    *,
    stream: str = "",
    aggregate: Float[Tensor, "m units"] | None = None,
) -> Measured:
    """Take the bound of `model` apart on the test set; log p(x) stands on `params.draws` draws.

    Surgery and gaps are left out where a posterior is no diagonal Gaussian (`pipeline.extensions`). The terms of single
    images are those of levels and gaps. `aggregate` are the images that the surgery is of, in place of the test images.
    """
    x = to_unit_interval(test, scale)
    level = {"draws": settings.level_draws, "inner": settings.inner_draws}
    with seeded(params.seed, f"levels {stream}"):
        results = measure_levels(model, x[: settings.level_images], outer=params.draws, **level)
    with seeded(params.seed, f"sandwich {stream}"):
        results |= Measured(two_sided_bound(model, settings.simulated, inner=settings.inner_draws, outer=params.draws))
    with seeded(params.seed, f"posterior {stream}"):
        diagonal = has_units_apart(model, x[:1])
    if not diagonal:
        return results
    with seeded(params.seed, f"surgery {stream}"):
        results |= Measured(
            surgery(
                model,
                x if aggregate is None else aggregate,
                queries=settings.queries,
                paths=settings.path_draws,
                inner=settings.inner_draws,
                pairs=settings.pair_queries,
            )
        )
    with seeded(params.seed, f"gaps {stream}"):
        results |= measure_gaps(
            model,
            x[: settings.gap_images],
            steps=settings.gap_steps,
            draws=settings.gap_draws,
            rate=settings.gap_learning_rate,
            k=params.draws,
            level_draws=settings.level_draws,
            inner=settings.inner_draws,
        )
    return results


def anneal(
    model: HierarchicalVAE,
    test: Shaped[Tensor, "n units"],
    scale: int,
    params: EvaluateParams,
    settings: DecomposeParams,
    *,
    stream: str = "",
) -> dict[str, Estimate]:
    """Bound log p(x) of the first images of the test set by annealed importance sampling."""
    chains = annealing.Settings(
        temperatures=settings.ais_temperatures,
        chains=settings.ais_chains,
        leapfrog=settings.ais_leapfrog_steps,
        seed=int(digest([params.seed, stream], 7), 16),
    )
    few = to_unit_interval(test[: settings.ais_images], scale)
    return annealing.annealed(model, few, chains, simulated=settings.simulated, draws=params.draws)
