"""Figures: the only door to matplotlib.

Each function returns a `matplotlib.figure.Figure` made without pyplot, so that no back end and no global state is
touched; `save` writes it. Images are arrays [.., h, w] in [0, 1]. Bounds and rates are in nats per example.
"""

from pipeline.figures.charts import bounds, curves, rates_by_epoch, rates_by_level
from pipeline.figures.decompositions import gaps_by_level, inference_gaps, surgery
from pipeline.figures.factors import factors
from pipeline.figures.images import levels, reconstructions, samples
from pipeline.figures.milestones import milestones
from pipeline.figures.sandwich import sandwich
from pipeline.figures.style import colour, coloured, png, save
from pipeline.figures.sweeps import depth_width_map, rate_distortion
from pipeline.figures.trade_off import TradeOff, trade_off

__all__ = [
    "TradeOff",
    "bounds",
    "colour",
    "coloured",
    "curves",
    "depth_width_map",
    "factors",
    "gaps_by_level",
    "inference_gaps",
    "levels",
    "milestones",
    "png",
    "rate_distortion",
    "rates_by_epoch",
    "rates_by_level",
    "reconstructions",
    "samples",
    "sandwich",
    "save",
    "surgery",
    "trade_off",
]
