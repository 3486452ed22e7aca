"""Figures: the only door to matplotlib.

Each function returns a `Drawing`, a `matplotlib.figure.Figure` with its words, made without pyplot, so that no back end
and no global state is touched; `save` writes it as PNG, `svg` and `pdf` return it as vectors. Images are arrays
[.., h, w] in [0, 1]. Bounds and rates are in nats per example.
"""

from pipeline.figures.charts import bounds, curves, log_likelihoods, rates_by_epoch
from pipeline.figures.decompositions import gaps_by_level, inference_gaps, surgery
from pipeline.figures.factors import factors
from pipeline.figures.glance import Pair, bound_in_parts, differences
from pipeline.figures.images import levels, mosaic, reconstructions, samples
from pipeline.figures.latents import top_map, unit_nats
from pipeline.figures.milestones import milestones
from pipeline.figures.noise import bound_by_levels, by_log_snr
from pipeline.figures.sandwich import sandwich
from pipeline.figures.style import Drawing, colour, coloured, png, save
from pipeline.figures.sweeps import depth_width_map, history, importances, rate_distortion
from pipeline.figures.trade_off import TradeOff, trade_off
from pipeline.figures.vector import palette, pdf, svg

__all__ = [
    "Drawing",
    "Pair",
    "TradeOff",
    "bound_by_levels",
    "bound_in_parts",
    "bounds",
    "by_log_snr",
    "colour",
    "coloured",
    "curves",
    "depth_width_map",
    "differences",
    "factors",
    "gaps_by_level",
    "history",
    "importances",
    "inference_gaps",
    "levels",
    "log_likelihoods",
    "milestones",
    "mosaic",
    "palette",
    "pdf",
    "png",
    "rate_distortion",
    "rates_by_epoch",
    "reconstructions",
    "samples",
    "sandwich",
    "save",
    "surgery",
    "svg",
    "top_map",
    "trade_off",
    "unit_nats",
]
