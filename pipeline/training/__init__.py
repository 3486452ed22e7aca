"""Training: the loop, its step, the optimizer and the gradients."""

from pipeline.training.loop import (
    SCHEDULES,
    NonFiniteError,
    Record,
    best_record,
    fit,
    initial_model,
    milestones,
    print_progress,
    terms,
)

__all__ = [
    "SCHEDULES",
    "NonFiniteError",
    "Record",
    "best_record",
    "fit",
    "initial_model",
    "milestones",
    "print_progress",
    "terms",
]
