"""Annealed importance sampling and bidirectional Monte Carlo of log p(x), for a model of any depth."""

from pipeline.annealing.chains import SCHEDULES, Weights, anneal, tune
from pipeline.annealing.hamiltonian import Phase, leapfrog, transition
from pipeline.annealing.measure import annealed, warning
from pipeline.annealing.paths import PATHS, Path
from pipeline.annealing.sandwich import Sandwich, Settings, sandwich

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
