"""The default values of all parameters, as this package has them wherever it is installed."""

from __future__ import annotations

import functools
from pathlib import Path

from pipeline.params import Params

__all__ = ["DEFAULTS", "default_params"]

DEFAULTS = Path(__file__).parent / "defaults.yaml"


@functools.cache
def default_params() -> Params:
    """Return the parameters of the package's own `params.yaml`, without its budget."""
    return Params.read_values(DEFAULTS)
