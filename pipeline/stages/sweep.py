"""Stage `sweep`: search a variant's space. `--worker` is what the coordinator starts."""

from __future__ import annotations

import sys
from pathlib import Path

from pipeline import launch
from pipeline.errors import guarded
from pipeline.study import Study
from pipeline.sweep import Sweep

__all__ = ["run"]


def run(study: Study, variant: str) -> None:
    """Run the search with as many workers as there are cores, or CAVE_WORKERS."""
    count = launch.workers(study.params.sweep.trials)
    best = Sweep(study, variant).run(count)
    print(f"{variant}: best trial {best['trial']}, valid/elbo {best['valid/elbo']:.3f}, {best['params']}")


def _main() -> None:
    variant, *words = sys.argv[1:]
    study = Study.at(Path.cwd())
    if "--worker" in words:
        launch.become_worker()
        Sweep(study, variant).work()
    else:
        run(study, variant)


if __name__ == "__main__":
    guarded(_main)
