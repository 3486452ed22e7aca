"""The default values of all parameters, as this package has them wherever it is installed."""

from __future__ import annotations

import functools
from pathlib import Path

from pipeline.params import Params

__all__ = ["FILES", "default_params"]

FILES = Path(__file__).parent / "files"


@functools.cache
def default_params() -> Params:
    """Return the parameters of the package's own `params.yaml`, without its budget."""
    return Params.read_values(FILES / "params.yaml")
