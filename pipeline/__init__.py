"""Plato's cave: VAE, HVAE and Markovian HVAE of any depth, each bound taken apart term by term."""

from __future__ import annotations

from typing import TYPE_CHECKING

__all__ = ["__version__", "load"]
__version__ = "0.1.0"

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.models import HierarchicalVAE


def load(path: str | Path) -> HierarchicalVAE:
    """Return the model saved in folder `path` (see `pipeline.models.checkpoint.load`)."""
    from pipeline.startup import set_thread_policy

    set_thread_policy()
    from pipeline.models import checkpoint

    return checkpoint.load(path)
