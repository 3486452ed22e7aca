"""Evaluation: bounds with their errors, decompositions, annealing, and what the latent variables know."""

from pipeline.evaluation.bounds import Estimate, Measured, bits_per_dimension, evaluate

__all__ = ["Estimate", "Measured", "bits_per_dimension", "evaluate"]
