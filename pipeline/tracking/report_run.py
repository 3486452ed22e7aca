"""The run of a study's report, whose artifacts are the page and its tables: one run, whose files are replaced."""

from __future__ import annotations

from contextlib import ExitStack

from pipeline.files import sha256
from pipeline.run_folders import now
from pipeline.study import Study
from pipeline.tracking.run import Run
from pipeline.tracking.server import NOTE
from pipeline.tracking.tracker import Tracker

__all__ = ["log_report"]

SHOWN = ("report.html", "table.md", "results.csv")


def log_report(study: Study, tracker: Tracker | None = None) -> None:
    """Log the report to the study's run; where MLflow is away, it waits for `cave sync`.

    An experiment of DVC in a folder of its own (`dvc exp run --temp`) logs no report: it is not the project's.
    """
    if study.root != study.shared_root:
        return
    tracker = tracker or Tracker(study)
    key = f"{study.unique_name}/report"
    with ExitStack() as released:
        folder = tracker.open(key, released)
        start = {"type": "start", "time": now(), "address": tracker.server.identity, "origin": {}}
        if folder.entries:
            folder.log.append(start)
        else:
            about = f"All variants compared: `report.html` among the artifacts.\n\n{study.how('report')}"
            tags = {"stage": "report", "study": study.name, NOTE: about}
            tags |= {"mlflow.source.name": "cave: report", "mlflow.source.type": "LOCAL"}
            folder.begin(tracker.header("run", key, name=f"report of {study.name}", tags=tags), {}, start)
        run = Run(tracker, folder)
        released.pop_all()
    with run.closing():
        paths = [study.report / name for name in SHOWN]
        run.log_result("report", sha256(path.read_bytes() for path in paths)[:12], {}, {"": paths})
        run.finish()
