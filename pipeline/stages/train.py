"""Stage `train`: a model for each seed, with the best settings of the seed's search. Workers get some of the seeds."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

from pipeline import processes, tracking
from pipeline.display import shown
from pipeline.environment import Resources
from pipeline.files import exclusive, write_csv
from pipeline.jobs.cached_models import restore_models
from pipeline.jobs.final_models import mean_curve, trained
from pipeline.jobs.train_seed import train_seed
from pipeline.run_folders import study_folders
from pipeline.study import Study

__all__ = ["main", "run"]


def run(study: Study, variant: str, resources: Resources | None = None, *, anew: bool = True) -> None:
    """Train every seed, then write the curve that DVC plots: means over seeds, of the epochs that all of them ran.

    Without `anew`, models that are there, trained with the same settings, data and code, are left as they are.
    """
    with exclusive(study.locks / "train" / variant / "all", f"{variant}: training"):
        if not anew and trained(study, variant):  # perhaps by a process that was waited for
            print(f"{variant}: its models are there, trained with the same settings, data and code", flush=True)
            return
        with shown(study.stage_title("train", variant), "seed"):
            _run(study, variant, resources or Resources.read())


def _run(study: Study, variant: str, resources: Resources) -> None:
    tracker = tracking.Tracker(study).require()
    restored = restore_models(study, variant)
    seeds = [str(seed) for seed in study.params.train.seeds if seed not in restored]
    work = partial(train_seed, study, variant, resources=resources)
    processes.map_in_workers("train", study, variant, seeds, lambda seed: work(int(seed)), resources)
    write_csv(study.curves(variant), mean_curve(study, variant))
    tracker.backlog.discard_states(*study_folders(study, f"{study.unique_name}/{variant}/"))
    shutil.rmtree(study.cache / "train" / study.unique_name / variant, ignore_errors=True)
    tracker.backlog.flush_at_exit()
    tracking.mark_current(study, tracker)


def main(variant: str, *seeds: str) -> None:
    """Run the stage, or one of its workers, as the command line says."""
    study, resources = Study.at(Path.cwd()), Resources.read()
    if not seeds:
        tracking.import_mlflow(tracking.tracking_uri(study))
        processes.prefork(len(study.params.train.seeds), resources)
        for line in study.notices(variant):
            print(line, flush=True)
        run(study, variant, resources)
        return
    processes.become_worker(resources)
    for seed in seeds:
        train_seed(study, variant, int(seed), resources)
