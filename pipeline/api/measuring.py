"""The terms of a model's bound on images of the user, each with its error, as a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pipeline import evaluation
from pipeline.api.model import Model
from pipeline.api.settings import evaluation_params
from pipeline.errors import InputError
from pipeline.evaluation import Estimate
from pipeline.evaluation.decompose import anneal
from pipeline.evaluation.decompose import decompose as take_apart
from pipeline.evaluation.noise_levels import evaluate_diffusion
from pipeline.metric import Metric
from pipeline.report.frames import frame

if TYPE_CHECKING:
    from pipeline.report.frames import DataFrame

__all__ = ["decompose", "evaluate"]

COLUMNS = {"term": "str", "value": "float64", "se": "float64", "unit": "str"}


def evaluate(model: Model, x: Any, **settings: Any) -> DataFrame:
    """Return the test bounds of a model on images: by term its `value`, the standard error `se`, and its `unit`.

    docs/metrics.md explains the terms. `settings` are parameters of the section evaluate of params.yaml, as `draws`.

    >>> import pipeline as cave
    >>> model = cave.fit("digits", epochs=1, progress=False)
    >>> terms = cave.evaluate(model, model.sample(20), draws=100)
    >>> bool(abs(terms.value["reconstruction"] - terms.value["kl"] - terms.value["elbo"]) < 0.001)
    True
    """
    params = evaluation_params(settings, ("model", "x"))
    rows = model.rows(x, params.seed)
    measure = evaluation.evaluate if model.module.diffusion is None else evaluate_diffusion
    estimates = measure(model.module, rows, 1, params, discrete=model.discrete).estimates
    if model.dequantized_levels is not None:
        units = rows.shape[1]
        estimates["bpd"] = evaluation.bits_per_dimension(estimates["nll"], units, model.dequantized_levels)
    return _table(estimates)


def decompose(model: Model, x: Any, *, annealing: bool = False, **settings: Any) -> DataFrame:
    """Return the finer terms of a model on images: what each level costs and knows, and where the gap comes from.

    Columns and `settings` are those of `evaluate`, and the parameters of evaluate.decompose. `annealing` adds bounds of
    log p(x) by annealed importance sampling, which take as long as all the rest.

    >>> import pipeline as cave
    >>> model = cave.fit("digits", depth=2, epochs=1, progress=False)
    >>> few = dict(draws=20, level_images=4, level_draws=2, inner_draws=4, gap_images=4, gap_steps=2, simulated=4)
    >>> terms = cave.decompose(model, model.sample(20), **few)
    >>> [name for name in terms.index if name.startswith("chain_kl/")]
    ['chain_kl/z1', 'chain_kl/z2']
    """
    params = evaluation_params(settings, ("model", "x", "annealing"))
    if params.decompose is None:
        raise InputError("decompose: None given; allowed: a mapping of the parameters of evaluate.decompose")
    if model.module.diffusion is not None:
        raise InputError("model: a diffusion is not taken apart further; allowed: cave.evaluate, or another model")
    rows = model.rows(x, params.seed)
    estimates = take_apart(model.module, rows, 1, params, params.decompose).estimates
    if annealing:
        estimates = estimates | anneal(model.module, rows, 1, params, params.decompose)
    return _table(estimates)


def _table(estimates: Mapping[str, Estimate]) -> DataFrame:
    rows = [
        {"term": name, "value": each.value, "se": each.se, "unit": Metric.parse(name).unit}
        for name, each in estimates.items()
    ]
    return frame(rows, COLUMNS, index="term")
