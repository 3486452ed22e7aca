"""The stages of `dvc.yaml`, a module each; `python -m pipeline.stages NAME [ARGUMENT ...]` runs one."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable

from pipeline.errors import InputError

__all__ = ["STAGES", "load_stage", "main"]

STAGES = ("fetch", "prepare", "sweep", "train", "evaluate", "report")


def load_stage(name: str) -> Callable[..., None]:
    """Import a stage and return its `main`.

    Raises:
        InputError: there is no stage of this name.
    """
    if name not in STAGES:
        raise InputError(f"stage: '{name}' given; allowed: {', '.join(STAGES)}")
    return importlib.import_module(f"pipeline.stages.{name}").main  # type: ignore[no-any-return]


def main() -> None:
    """Run the stage, or one of its workers, that the command line names."""
    name, *arguments = sys.argv[1:] or [""]
    load_stage(name)(*arguments)
