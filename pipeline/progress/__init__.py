"""Progress of long work: at least a line every 30 seconds, with the time that is left, or a status for a display.

`reporting` names the piece of work; within it, `track_progress` goes through the steps of a loop, however deep below.
Where a display was connected (`connect`), it gets the status of the work a few times a second, and no line is printed
for progress alone. Without one, a line is printed when the last one is 30 seconds old: by the loop, or, where none
takes a step in time, by a thread. Outside of `reporting` notes alone are printed.

    mhvae seed 0: annealing, 40 of 100 temperatures, about 40 s left
"""

from pipeline.progress.reporter import EVERY, Reporter, connect
from pipeline.progress.status import Status, seconds_text, time_left
from pipeline.progress.work import counting, line_printed, print_note, reporting, track_progress

__all__ = [
    "EVERY",
    "Reporter",
    "Status",
    "connect",
    "counting",
    "line_printed",
    "print_note",
    "reporting",
    "seconds_text",
    "time_left",
    "track_progress",
]
