"""The files that a project begins with, and the default values of all parameters.

`defaults.yaml` and `stages.yaml` are the root's `params.yaml` and `dvc.yaml`: links to them here, copies in a wheel.
"""

from pipeline.project.defaults import default_params

__all__ = ["default_params"]
