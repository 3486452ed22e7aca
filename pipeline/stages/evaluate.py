"""Stage `evaluate`: every bound on the test set, of final models and milestones, and images of a model."""

from __future__ import annotations

import shutil
from pathlib import Path

from pipeline import processes, tracking
from pipeline.display import shown
from pipeline.environment import Resources
from pipeline.files import exclusive
from pipeline.jobs.evaluate_seed import evaluate_part, parts, scratch_folder
from pipeline.jobs.evaluation_files import write_evaluation
from pipeline.study import Study
from pipeline.tracking import Tracker, mark_current

__all__ = ["main", "run"]


def run(study: Study, variant: str, resources: Resources | None = None) -> None:
    """Evaluate every seed's model, then write the results of all of them."""
    resources = resources or Resources.read()
    with exclusive(study.locks / "evaluate" / variant / "all", f"{variant}: evaluation"):
        tracker = Tracker(study).require()
        scratch = scratch_folder(study, variant)
        shutil.rmtree(scratch, ignore_errors=True)  # parts that an evaluation with other settings has left

        def work(part: str) -> None:  # which alone takes the device: it may be for one process at a time
            evaluate_part(study, variant, part, processes.device(resources.device))

        with shown(study.stage_title("evaluate", variant), "part"):
            processes.map_in_workers("evaluate", study, variant, parts(study), work, resources)
        shutil.rmtree(scratch, ignore_errors=True)
        write_evaluation(study, variant)
        tracker.backlog.flush_at_exit()
        mark_current(study, tracker)


def main(variant: str, *names: str) -> None:
    """Run the stage, or a worker that evaluates the parts of these names."""
    study, resources = Study.at(Path.cwd()), Resources.read()
    if not names:
        tracking.import_mlflow(tracking.tracking_uri(study))
        processes.prefork(len(parts(study)), resources)
        for line in study.notices(variant, "evaluate"):
            print(line, flush=True)
        run(study, variant, resources)
        return
    processes.become_worker(resources)
    for name in names:
        evaluate_part(study, variant, name, processes.device(resources.device))
