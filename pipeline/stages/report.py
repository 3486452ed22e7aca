"""Stage `report`: the comparison of all variants, as table, page and figures; and on the terminal."""

from __future__ import annotations

from pathlib import Path

from pipeline import report
from pipeline.processes.entry import run_main
from pipeline.study import Study

__all__ = ["run"]


def run(study: Study) -> None:
    """Write the report and print its table."""
    report.write(study)
    print(report.table_text(study))


if __name__ == "__main__":
    run_main(lambda: run(Study.at(Path.cwd())))
