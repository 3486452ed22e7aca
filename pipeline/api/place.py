"""Where models from Python are logged: in the project around the working directory, or in that folder itself."""

from __future__ import annotations

from pathlib import Path

from pipeline.environment import shared_root
from pipeline.location import nearest_project
from pipeline.params import Params
from pipeline.project import default_params
from pipeline.study import Study

__all__ = ["EXPERIMENT", "study_here"]

EXPERIMENT = "fit"  # of trainings from Python, where none is named


def study_here(experiment: str = EXPERIMENT, params: Params | None = None) -> Study:
    """Return a study of one variant without files of its own, whose name is that of an experiment in MLflow."""
    root = (nearest_project(Path.cwd()) or Path.cwd()).resolve()
    own = (params or default_params()).override({"variants": {EXPERIMENT: {}}})
    return Study(own, root, root, root / "experiments" / experiment, shared_root(root))
