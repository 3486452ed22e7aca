"""Evaluation: bounds with their errors, decompositions, annealing, and what the latent variables know."""

from pipeline.evaluation.bounds import bits_per_dimension, evaluate
from pipeline.evaluation.estimates import Estimate, Measured

__all__ = ["Estimate", "Measured", "bits_per_dimension", "evaluate"]
