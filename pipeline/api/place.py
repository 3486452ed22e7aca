"""Where models from Python are logged: in the project around the working directory, or in that folder itself."""

from __future__ import annotations

from pathlib import Path

from pipeline.environment import shared_root
from pipeline.errors import InputError
from pipeline.location import nearest_project
from pipeline.params import Params
from pipeline.project import default_params
from pipeline.study import Study, is_name

__all__ = ["EXPERIMENT", "study_here"]

EXPERIMENT = "fit"  # of trainings from Python, where none is named


def study_here(experiment: str = EXPERIMENT, params: Params | None = None) -> Study:
    """Return a study of one variant without files of its own, named as an experiment in MLflow."""
    if not is_name(experiment):
        raise InputError(f"log: '{experiment}' given; allowed: a name of lower-case letters, digits, - and _")
    root = (nearest_project(Path.cwd()) or Path.cwd()).resolve()
    if experiment == "default" or (root / "experiments" / experiment / "params.yaml").exists():
        raise InputError(f"log: '{experiment}' is a study; allowed: another name")
    own = (params or default_params()).override({"variants": {EXPERIMENT: {}}})
    return Study(own, root, root, root / "experiments" / experiment, shared_root(root))
