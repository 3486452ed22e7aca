"""The files that a project begins with, and the default values of all parameters.

`files/` leads to those of this repository, the root's `params.yaml` and `dvc.yaml` among them; a wheel has copies.
"""

from pipeline.project.defaults import default_params
from pipeline.project.making import MADE, project_around

__all__ = ["MADE", "default_params", "project_around"]
