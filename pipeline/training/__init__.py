"""Training: the loop, its step, the optimizer and the gradients."""

from pipeline.training.fit import SCHEDULES, STATE, NonFiniteError, Record, best_record, fit, milestones, terms

__all__ = ["SCHEDULES", "STATE", "NonFiniteError", "Record", "best_record", "fit", "milestones", "terms"]
