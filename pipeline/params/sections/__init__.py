"""The sections of `params.yaml`: which keys there are, of what type, within what range, and what they mean."""

from pipeline.params.sections.data import CaveParams, DataParams, published_binary
from pipeline.params.sections.evaluate import DecomposeParams, EvaluateParams, OutlierParams, ReportParams
from pipeline.params.sections.model import (
    DENSITY,
    DEQUANTIZED,
    INFORMATIVE,
    MEASURES,
    MOST_UNITS,
    PROBABILITY,
    ModelParams,
    halvings,
    measure_of,
)
from pipeline.params.sections.sweep import CompareParams, SweepParams
from pipeline.params.sections.train import TrainParams

__all__ = [
    "DENSITY",
    "DEQUANTIZED",
    "INFORMATIVE",
    "MEASURES",
    "MOST_UNITS",
    "PROBABILITY",
    "CaveParams",
    "CompareParams",
    "DataParams",
    "DecomposeParams",
    "EvaluateParams",
    "ModelParams",
    "OutlierParams",
    "ReportParams",
    "SweepParams",
    "TrainParams",
    "halvings",
    "measure_of",
    "published_binary",
]
