"""Stage `sweep`: search a variant's space. `--worker` is what the coordinator starts."""

from __future__ import annotations

import sys
from pathlib import Path

from pipeline import processes, sweep, tracking
from pipeline.environment import Resources
from pipeline.errors import DisconnectedError
from pipeline.processes.entry import EXIT_RESTART
from pipeline.study import Study

__all__ = ["main", "run"]


def run(study: Study, variant: str, resources: Resources | None = None) -> None:
    """Run the search with as many workers as there are cores, or CAVE_WORKERS."""
    resources = resources or Resources.read()
    count = processes.worker_count(study.params.sweep.trials, resources)
    best = sweep.run(sweep.Sweep(study, variant, resources=resources), count)
    tracking.mark_current(study)
    if best["trial"] is None:
        print(f"{variant}: its space is empty, so that its settings are taken as they are")
        return
    print(f"{variant}: best trial {best['trial']}, {best['metric']} {best['value']:.3f}, {best['params']}")


def main(variant: str, *options: str) -> None:
    """Run the stage, or one of its workers, as the command line says."""
    study, resources = Study.at(Path.cwd()), Resources.read()
    if "--worker" in options:
        processes.become_worker(resources)
        try:
            sweep.work(sweep.Sweep(study, variant, sweep.RECONNECT_TIMEOUT, resources))
        except DisconnectedError as error:
            print(f"{variant}: a worker starts again: {error}", file=sys.stderr, flush=True)
            sys.exit(EXIT_RESTART)
    else:
        tracking.ready(tracking.tracking_uri(study))
        processes.prefork(study.params.sweep.trials, resources)
        for line in study.notes(variant):
            print(line, flush=True)
        run(study, variant, resources)
