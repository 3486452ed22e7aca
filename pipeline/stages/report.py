"""Stage `report`: the comparison of all variants, as table, page and figures; and on the terminal."""

from __future__ import annotations

import sys
from pathlib import Path

from pipeline import report
from pipeline.display import shown
from pipeline.errors import InputError
from pipeline.progress import reporting
from pipeline.study import Study
from pipeline.tracking import Tracker, log_report, mark_current

__all__ = ["main", "run"]


def run(study: Study) -> None:
    """Write the report, print its table, and have MLflow show its verdict."""
    with shown(study.stage_title("report")), reporting("report"):
        report.write(study)
        try:
            tracker = Tracker(study)
            log_report(study, tracker)
            mark_current(study, tracker)  # whose models are described by the report's cards
        except InputError as error:  # the report itself is written
            print(f"{study.name}: MLflow does not get the report: {error}", file=sys.stderr, flush=True)
    print(report.table_text(study))


def main() -> None:
    """Run the stage of the study in the working directory."""
    run(Study.at(Path.cwd()))
