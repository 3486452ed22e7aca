"""Every decomposition of one model on the frozen test set.

    levels     `kl_up/z_t`, `gap/z_t`, their `_bias`, `log_marginal/z1`; `width/z_t` on the model's own draws
    surgery    `mutual_information`, `marginal_kl`, ...: see there which exist for which model
    gaps       `approximation_gap`, `amortization_gap`, `inference_gap`, on the first images of the test set

All in nats per example. A tenth of 2,000 images, 300 simulations and 2,000 queries took 27 s of one CPU thread, for
10,000 images of 784 pixels, 5000 draws, levels of 50 and 25 units, hidden layers 200-200 and 100-100. Most of it is
log p(x), 0.09 s an image at 5000 draws.
"""

from __future__ import annotations

from jaxtyping import UInt8
from torch import Tensor

from pipeline.decompositions.estimates import mean_over_images
from pipeline.decompositions.gaps import gap_terms
from pipeline.decompositions.levels import level_terms, sandwich
from pipeline.decompositions.surgery import surgery, upper_information
from pipeline.evaluation import Estimate
from pipeline.models import HierarchicalVAE
from pipeline.params import DecomposeParams, EvaluateParams
from pipeline.training import images, seeded

__all__ = ["decompose"]

BATCH = 50  # images of one batch


def decompose(
    model: HierarchicalVAE,
    test: UInt8[Tensor, "n units"],
    scale: int,
    params: EvaluateParams,
    settings: DecomposeParams,
    *,
    stream: str = "",
) -> dict[str, Estimate]:
    """Take the bound of `model` apart on the test set; log p(x) stands on `params.draws` draws."""
    x = images(test, scale)
    with seeded(params.seed, f"levels {stream}"):
        levels = [
            level_terms(model, batch, draws=settings.level_draws, inner=settings.inner_draws, outer=params.draws)
            for batch in x[: settings.level_images].split(BATCH)
        ]
        results = mean_over_images(levels)
    with seeded(params.seed, f"sandwich {stream}"):
        results |= sandwich(model, settings.simulated, inner=settings.inner_draws, outer=params.draws)
    with seeded(params.seed, f"surgery {stream}"):
        results |= surgery(model, x, settings.queries)
        if model.depth > 1 and model.parents == "nearest":
            results |= upper_information(model, x, settings.queries, settings.path_draws)
    with seeded(params.seed, f"gaps {stream}"):
        gaps = [
            gap_terms(
                model,
                batch,
                steps=settings.gap_steps,
                draws=settings.gap_draws,
                rate=settings.gap_rate,
                k=params.draws,
            )
            for batch in x[: settings.gap_images].split(BATCH)
        ]
        results |= mean_over_images(gaps)
    return results
