"""The gradient of the common models, derived by hand; the tests hold it to be that of autograd."""

from pipeline.training.manual.gradient import ManualGradient

__all__ = ["ManualGradient"]
