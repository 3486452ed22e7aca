"""Plato's cave: VAE, HVAE and Markovian HVAE of any depth, each bound taken apart term by term."""

from __future__ import annotations

import gc
import os
import sys
from typing import TYPE_CHECKING

__all__ = ["__version__", "load"]
__version__ = "0.1.0"

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.models import HierarchicalVAE

# OpenMP reads these when PyTorch is loaded. Its threads spin while they wait, and keep the core from a thread that has
# work; passive threads sleep. A user who has set one of the variables has chosen already.
if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"} & os.environ.keys():
    os.environ["OMP_WAIT_POLICY"] = "passive"

if sys.argv[:1] == ["-m"]:  # one of the package's own programs begins, whose imports leave no garbage
    gc.disable()  # until `pipeline.errors.run_main`
    from pipeline.location import use_project_code

    use_project_code()  # before other modules of what may be the wrong copy are imported


def load(path: str | Path) -> HierarchicalVAE:
    """Give back the model saved in folder `path` (see `pipeline.models.checkpoint.load`)."""
    from pipeline.models import checkpoint

    return checkpoint.load(path)
