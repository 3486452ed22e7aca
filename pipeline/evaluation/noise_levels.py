"""The bound of a diffusion, of any number of levels and without end, in memory that does not grow with the levels.

    -elbo = E -log p(x | z_1) + sum_t E KL(q(z_t | z_t+1, x) || p(z_t | z_t+1)) + KL(q(z_T | x) || p(z_T))

Every term needs one draw of its own level, and none of the others. An image has `REPLICATES` estimates of the sum with
noise of their own: of few terms (`TERMS`, `ALL_TERMS`) all of them; of more, and without end, `TERMS` that are spread
over the bins of training (`pipeline.training.sampled`), each weighed by 1 / its share. The mean of the estimates is
without bias, and their variance gives its error, that of the draws, the images held fixed.

A chain of at most `FEW` levels is drawn as a whole instead, so that L_k is known (`pipeline.evaluation.bounds`); its
bound by `bound_terms` stands in the table of `bound_by_levels` alone. Otherwise nll is -elbo, an upper bound of
-log p(x) by an amount that is not known, and the gap L_1 - elbo is 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from pipeline.data.images import to_unit_interval
from pipeline.evaluation.bounds import bits_per_dimension, measure_draws
from pipeline.evaluation.estimates import Estimate, Measured
from pipeline.evaluation.noise_information import information_by_log_snr
from pipeline.models import HierarchicalVAE
from pipeline.models.diffusion import Diffusion, log_linear_levels
from pipeline.models.grid import optimal_levels
from pipeline.models.noise_chains import at_levels, chain_of
from pipeline.models.noising import noised, prior_kl, rate_density
from pipeline.models.rows import rows_within
from pipeline.params import EvaluateParams
from pipeline.progress import track_progress
from pipeline.randomness import seeded
from pipeline.training.sampled import Drawn, draw_terms, term_values

__all__ = ["FEW", "bound_by_levels", "bound_terms", "evaluate_diffusion", "rate_curve"]

FEW = 50  # levels of a chain that is drawn as a whole
REPLICATES = 4
TERMS = 256  # that are drawn of a chain of more
ALL_TERMS = 500_000  # levels times images up to which all terms are taken
ROWS = 2000  # of a pass of the decoder
POINTS = 57  # of the curve: steps of a quarter of log SNR between the usual ends
PLACED = 500  # training images that optimal levels are chosen on
OPTIMAL = 50  # levels for which they are


@torch.no_grad()
def evaluate_diffusion(
    model: HierarchicalVAE,
    test: Shaped[Tensor, "n units"],
    scale: int,
    params: EvaluateParams,
    *,
    discrete: bool,
    stream: str = "",
) -> Measured:
    """Measure the bounds of a diffusion on the frozen test set; the keys are those of `pipeline.evaluation.evaluate`.

    Its rates by level, which are many, are a curve instead (`rate_curve`).
    """
    diffusion = model.diffusion
    assert diffusion is not None
    x = to_unit_interval(test, scale)
    if not diffusion.continuous and model.depth <= FEW:
        measured = measure_draws(model, test, scale, params, f"bounds {stream}")
        estimates = {name: value for name, value in measured.estimates.items() if not name.startswith("rate/")}
        images = {name: value for name, value in measured.images.items() if not name.startswith("rate/")}
    else:
        with seeded(params.seed, f"bounds {stream}"):
            values, variances = bound_terms(model, x)
        estimates = {name: Estimate.mean(value.double(), variances[name].double()) for name, value in values.items()}
        estimates |= {"iwae/1": estimates["elbo"], "gap": Estimate(0.0, 0.0), "nll/reliable": Estimate(0.0, None)}
        estimates["nll"] = Estimate(-estimates["elbo"].value, estimates["elbo"].se)
        images = values | {"nll": -values["elbo"], "gap": torch.zeros(len(x), device=x.device)}
    if discrete:
        estimates["bpd"] = bits_per_dimension(estimates["nll"], test.shape[1])
        images["bpd"] = images["nll"] / (test.shape[1] * math.log(2))
    return Measured(estimates, images)


@torch.no_grad()
def bound_terms(
    model: HierarchicalVAE, x: Float[Tensor, "batch units"]
) -> tuple[dict[str, Float[Tensor, " batch"]], dict[str, Float[Tensor, " batch"]]]:
    """Return elbo, reconstruction and kl of each image, in nats, and the variances of their Monte Carlo errors."""
    diffusion = model.diffusion
    if diffusion is None:
        raise ValueError("levels of noise are those of a diffusion")
    whole = not diffusion.continuous and (model.depth <= TERMS or model.depth * len(x) <= ALL_TERMS)
    count = model.depth if whole else TERMS
    rows = rows_within(model, x, ROWS)
    parts = []
    for batch in track_progress(x.split(max(1, rows // count)), "levels of noise", "passes", long=True):
        terms = _all_terms(diffusion, len(batch)) if whole else None
        parts.append(torch.stack([_estimate(diffusion, batch, count, terms, rows) for _ in range(REPLICATES)]))
    estimates = torch.cat(parts, -1)  # [replicates, 2, images]
    named = {"elbo": -estimates.sum(1), "reconstruction": -estimates[:, 0], "kl": estimates[:, 1]}
    values = {name: value.mean(0) for name, value in named.items()}
    return values, {name: value.var(0) / REPLICATES for name, value in named.items()}


def _all_terms(diffusion: Diffusion, images: int) -> Drawn:
    """Return every term of a chain once for each image, the terms of an image one after another."""
    levels = diffusion.log_snr
    index = torch.arange(len(levels), device=levels.device).repeat(images)
    return Drawn(index, index == 0, levels[index], levels[(index - 1).clamp(min=0)], torch.ones_like(levels)[index])


def _estimate(
    diffusion: Diffusion, x: Float[Tensor, "batch units"], count: int, terms: Drawn | None, rows: int
) -> Float[Tensor, "2 batch"]:
    """Return an estimate of -log p(x | z_1), and one of the KL divergence, of each image, from `count` terms each.

    `terms` are those of all images, or None where they are drawn; a pass of the decoder has so many rows.
    """
    if terms is None:
        offsets = torch.rand(len(x), 1, dtype=x.dtype, device=x.device)
        uniform = (torch.arange(count, dtype=x.dtype, device=x.device) + offsets) / count
        drawn = draw_terms(diffusion, uniform.flatten())
        drawn = Drawn(*drawn[:4], weight=drawn.weight / count)
    else:
        drawn = terms
    images = torch.arange(len(x), device=x.device).repeat_interleave(count)
    cost = torch.cat(
        [
            part.weight * term_values(diffusion, part, x[image])
            for part, image in zip(_parts(drawn, rows), images.split(rows), strict=True)
        ]
    )
    first = cost.masked_fill(~drawn.first, 0).view(len(x), count).sum(1)
    later = cost.masked_fill(drawn.first, 0).view(len(x), count).sum(1)
    last = diffusion.ends[1] if diffusion.continuous else diffusion.log_snr[-1]
    return torch.stack([first, later + prior_kl(x, last)])


def _parts(drawn: Drawn, rows: int) -> list[Drawn]:
    """Return the terms in passes of so many rows."""
    return [Drawn(*parts) for parts in zip(*(part.split(rows) for part in drawn), strict=True)]


@torch.no_grad()
def bound_by_levels(
    model: HierarchicalVAE,
    x: Float[Tensor, "batch units"],
    train: Float[Tensor, "_ units"],
    counts: Sequence[int | Literal["continuous"]],
) -> list[dict[str, Any]]:
    """Return the bound of the same decoder in chains of other numbers of levels: a row for each, and each grid.

    Of up to `OPTIMAL` levels, those that are best for `PLACED` training images are a second grid beside equal steps of
    log SNR.
    """
    diffusion = model.diffusion
    assert diffusion is not None
    rows = []
    for count in counts:
        grids: dict[str, HierarchicalVAE] = {}
        if count == "continuous":
            grids["continuous"] = model if diffusion.continuous else _without_end(diffusion, x.shape[1])
        else:
            first, last = diffusion.ends.tolist()
            grids["log_linear"] = at_levels(model, log_linear_levels(count, first, last).to(x))
            if 1 < count <= OPTIMAL:
                grids["optimal"] = at_levels(model, optimal_levels(model, train[:PLACED], count))
        for grid, chain in grids.items():
            values, variances = bound_terms(chain, x)
            row: dict[str, Any] = {"levels": count, "grid": grid, "images": len(x)}
            for name, value in values.items():
                estimate = Estimate.mean(value.double(), variances[name].double())
                row |= {name: estimate.value, f"{name}_se": estimate.se}
            rows.append(row)
    return rows


def _without_end(own: Diffusion, units: int) -> HierarchicalVAE:
    """Return the diffusion without end that has the same decoder and ends."""
    other = Diffusion(own.decoder, own.ends.detach(), own.positions.clone(), own.denoising, continuous=True)
    return chain_of(other.to(own.ends.device), units).eval()


@torch.no_grad()
def rate_curve(model: HierarchicalVAE, x: Float[Tensor, "batch units"]) -> list[dict[str, float]]:
    """Return by log SNR the error E||y - E[y | z]||^2 of the decoder, and the nats a unit of log SNR that it costs.

    y = 2 x - 1. With one draw of z for each image; errors are standard errors of the mean over images. `information` is
    I(n; z) over these images (`pipeline.evaluation.noise_information`).
    """
    diffusion = model.diffusion
    assert diffusion is not None
    rows = []
    levels = log_linear_levels(POINTS, *diffusion.ends.tolist()).to(x)
    information = information_by_log_snr(x, levels)
    for log_snr, said in zip(levels, information, strict=True):
        density = torch.cat(
            [
                rate_density(log_snr, diffusion.decoder.likelihood(noised(part, log_snr), log_snr), part).sum(-1)
                for part in x.split(rows_within(model, x, ROWS))
            ]
        ).double()
        se = (density.std() / math.sqrt(len(x))).item() if len(x) > 1 else math.nan
        error = 2 * density / log_snr.exp()
        rows.append(
            {
                "log_snr": log_snr.item(),
                "squared_error": error.mean().item(),
                "rate": density.mean().item(),
                "se": se,
                "information": said.value,
                "information_se": said.error,
            }
        )
    return rows
