"""Training: the loop, its step, the optimizer and the gradients."""

from pipeline.training.loop import SCHEDULES, STATE, NonFiniteError, Record, best_record, fit, milestones, terms

__all__ = ["SCHEDULES", "STATE", "NonFiniteError", "Record", "best_record", "fit", "milestones", "terms"]
