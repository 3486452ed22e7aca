"""Annealed importance sampling and bidirectional Monte Carlo of log p(x), for a model of any depth."""

from pipeline.evaluation.annealing.chains import SCHEDULES, Weights, anneal, tune
from pipeline.evaluation.annealing.hamiltonian import Phase, leapfrog, transition
from pipeline.evaluation.annealing.measure import annealed, warning
from pipeline.evaluation.annealing.paths import PATHS, Path
from pipeline.evaluation.annealing.sandwich import Sandwich, Settings, sandwich

__all__ = [
    "PATHS",
    "SCHEDULES",
    "Path",
    "Phase",
    "Sandwich",
    "Settings",
    "Weights",
    "anneal",
    "annealed",
    "leapfrog",
    "sandwich",
    "transition",
    "tune",
    "warning",
]
