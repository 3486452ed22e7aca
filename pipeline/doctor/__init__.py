"""Checks of what keeps a study from running: each finds one kind of problem, and names the command to fix it.

Nothing is changed by looking. A check that fails itself is reported as such, and the others go on.
"""

from pipeline.doctor.finding import Finding, Target, examine, table
from pipeline.doctor.rounds import CHECKS, find_target

__all__ = ["CHECKS", "Finding", "Target", "examine", "find_target", "table"]
