"""Figures: the only door to matplotlib.

Each function returns a `matplotlib.figure.Figure` made without pyplot, so that no back end and no global state is
touched; `save` writes it. Images are arrays [.., h, w] in [0, 1]. Bounds and rates are in nats per example.
"""

from pipeline.figures.charts import bounds, curves, gaps_by_level, rates_by_epoch, rates_by_level
from pipeline.figures.images import levels, reconstructions, samples
from pipeline.figures.style import colour, png, save
from pipeline.figures.sweeps import depth_width_map

__all__ = [
    "bounds",
    "colour",
    "curves",
    "depth_width_map",
    "gaps_by_level",
    "levels",
    "png",
    "rates_by_epoch",
    "rates_by_level",
    "reconstructions",
    "samples",
    "save",
]
