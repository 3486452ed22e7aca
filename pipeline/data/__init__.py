"""Data sets: fetched and verified, split by a named protocol, binarized, and stored as arrays with a digest."""

from pipeline.data.dataset import Dataset, Remote
from pipeline.data.download import fetch
from pipeline.data.protocols import PROTOCOLS, check
from pipeline.data.registry import DATASETS
from pipeline.data.splits import Splits, binarize, load, prepare

__all__ = [
    "DATASETS",
    "PROTOCOLS",
    "Dataset",
    "Remote",
    "Splits",
    "binarize",
    "check",
    "fetch",
    "load",
    "prepare",
]
