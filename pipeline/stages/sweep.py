"""Stage `sweep`: search a variant's space. `--worker` is what the coordinator starts."""

from __future__ import annotations

import sys
from pathlib import Path

from pipeline import processes, sweep, tracking
from pipeline.errors import DisconnectedError
from pipeline.processes.entry import EXIT_RESTART, run_main
from pipeline.study import Study

__all__ = ["main", "run"]


def run(study: Study, variant: str) -> None:
    """Run the search with as many workers as there are cores, or CAVE_WORKERS."""
    count = processes.workers(study.params.sweep.trials)
    best = sweep.run(sweep.Sweep(study, variant), count)
    tracking.mark_current(study)
    if best["trial"] is None:
        print(f"{variant}: its space is empty, so that its settings are taken as they are")
        return
    print(f"{variant}: best trial {best['trial']}, {best['metric']} {best['value']:.3f}, {best['params']}")


def main() -> None:
    """Run the stage, or one of its workers, as the command line says."""
    variant, *words = sys.argv[1:]
    study = Study.at(Path.cwd())
    if "--worker" in words:
        processes.become_worker()
        try:
            sweep.work(sweep.Sweep(study, variant, sweep.PATIENCE))
        except DisconnectedError as error:
            print(f"{variant}: a worker starts again: {error}", file=sys.stderr, flush=True)
            sys.exit(EXIT_RESTART)
    else:
        tracking.import_mlflow(tracking.tracking_uri(study))
        processes.prefork(study.params.sweep.trials)
        for line in study.notes(variant):
            print(line, flush=True)
        run(study, variant)


if __name__ == "__main__":
    run_main(main)
