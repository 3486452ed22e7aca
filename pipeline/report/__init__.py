"""The report: all variants of a study side by side, on the test set, from the files of the stages before it.

A number is the mean over seeds with an interval of the confidence `report.confidence`: over seeds and test images, as
crossed random effects (`paired`), where every image has the number, and otherwise over seeds, mean +- t s / sqrt(n)
(`intervals`). Variants are compared in pairs, over the same images (`paired`, `comparisons.csv`). One seed has
no interval. Bounds and rates are in nats per example. `results.csv` holds every seed's numbers by term and level,
`table.csv` their means and intervals with the protocol they were measured by; `table.md`, `report.html` and
`table_text` show a part.

This is the only door to pandas. It, scipy, jinja2 and matplotlib are loaded when they are first used, so that
`table_text` answers at once.
"""

from pipeline.report.comparison import Comparison, Result, build
from pipeline.report.folder import write
from pipeline.report.inputs import results
from pipeline.report.intervals import Interval, interval
from pipeline.report.search import search_text, write_search
from pipeline.report.terminal import overview, table_text

__all__ = [
    "Comparison",
    "Interval",
    "Result",
    "build",
    "interval",
    "overview",
    "results",
    "search_text",
    "table_text",
    "write",
    "write_search",
]
