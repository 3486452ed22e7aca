"""Data sets: fetched and verified, split by a named protocol, binarized, and stored as arrays with a digest."""

from pipeline.data.dataset import Dataset, Remote, Shape
from pipeline.data.download import fetch
from pipeline.data.protocols import PROTOCOLS, check
from pipeline.data.registry import DATASETS
from pipeline.data.splits import Splits, binarize, image_shape, load, prepare
from pipeline.data.suggestions import suggest_settings
from pipeline.data.summary import misfits, survey

__all__ = [
    "DATASETS",
    "PROTOCOLS",
    "Dataset",
    "Remote",
    "Shape",
    "Splits",
    "binarize",
    "check",
    "fetch",
    "image_shape",
    "load",
    "misfits",
    "prepare",
    "suggest_settings",
    "survey",
]
