"""What keeps a study from running or going on: each check looks for one thing, says what it found, and what mends it.

Nothing is changed by looking. A check that fails of itself is told as such, and the others go on.
"""

from pipeline.doctor.finding import Finding, Place, examine, table
from pipeline.doctor.rounds import CHECKS, place

__all__ = ["CHECKS", "Finding", "Place", "examine", "place", "table"]
