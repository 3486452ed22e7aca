"""Training: the loop, its step, the schedules of the learning rate, and the terms that it logs."""

from pipeline.log import Record
from pipeline.training.loop import best_record, fit, initial_model, print_progress, report_epoch
from pipeline.training.schedules import SCHEDULES
from pipeline.training.state import milestones
from pipeline.training.terms import NonFiniteError, terms

__all__ = [
    "SCHEDULES",
    "NonFiniteError",
    "Record",
    "best_record",
    "fit",
    "initial_model",
    "milestones",
    "print_progress",
    "report_epoch",
    "terms",
]
