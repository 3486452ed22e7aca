"""Stage `sweep`: search a variant's space. `--search=N --worker` is what the coordinator of search N starts."""

from __future__ import annotations

import sys
from pathlib import Path

from pipeline import processes, sweep, tracking
from pipeline.display import shown
from pipeline.environment import Resources
from pipeline.errors import DisconnectedError
from pipeline.processes.entry import EXIT_RESTART
from pipeline.study import Study

__all__ = ["main", "run"]


def run(study: Study, variant: str, resources: Resources | None = None) -> None:
    """Run the searches one after the other, with as many workers as there are cores, or CAVE_WORKERS."""
    resources = resources or Resources.read()
    count = processes.worker_count(study.params.trials(variant), resources)
    searches = study.params.sweep.searches
    with shown(study.stage_title("sweep", variant), "trial", study.params.sweep.metric):
        best_trials = sweep.run(sweep.Sweep(study, variant, resources=resources), count)
    tracking.mark_current(study)
    if best_trials[0]["trial"] is None:
        unused = f", and sweep.searches ({searches}) is not used" if searches > 1 else ""
        print(f"{variant}: its space is empty, so that its settings are taken as they are{unused}")
        return
    for number, best in enumerate(best_trials):
        label = f"{variant} search {number}" if searches > 1 else variant
        print(f"{label}: best trial {best['trial']}, {best['metric']} {best['value']:.3f}, {best['params']}")


def main(variant: str, *options: str) -> None:
    """Run the stage, or one of its workers, as the command line says."""
    study, resources = Study.at(Path.cwd()), Resources.read()
    if "--worker" in options:
        processes.become_worker(resources)
        search = next(int(option.removeprefix("--search=")) for option in options if option.startswith("--search="))
        try:
            sweep.work(sweep.Sweep(study, variant, sweep.RECONNECT_TIMEOUT, search, resources))
        except DisconnectedError as error:
            print(f"{variant}: a worker starts again: {error}", file=sys.stderr, flush=True)
            sys.exit(EXIT_RESTART)
    else:
        tracking.import_mlflow(tracking.tracking_uri(study))
        processes.prefork(study.params.trials(variant), resources)
        for line in study.notices(variant):
            print(line, flush=True)
        run(study, variant, resources)
