"""Training: the loop, its step, the schedules of the learning rate, and the terms that it logs."""

from pipeline.training.loop import STATE, Record, best_record, fit, milestones
from pipeline.training.schedules import SCHEDULES
from pipeline.training.terms import NonFiniteError, terms

__all__ = ["SCHEDULES", "STATE", "NonFiniteError", "Record", "best_record", "fit", "milestones", "terms"]
