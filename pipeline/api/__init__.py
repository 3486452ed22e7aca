"""What `import pipeline as cave` offers: a model trained, loaded and measured in a line each, and results as tables."""

from pipeline.api.listing import results, runs
from pipeline.api.loading import load
from pipeline.api.measuring import decompose, evaluate
from pipeline.api.model import Model
from pipeline.api.training import fit, steps

__all__ = ["Model", "decompose", "evaluate", "fit", "load", "results", "runs", "steps"]
