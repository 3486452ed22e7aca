"""All checks in the order they are made, from the ground up: installation, disk, stores, project, unfinished work."""

from __future__ import annotations

from pathlib import Path

from pipeline.doctor import databases, disk, environment, places, project, servers, unfinished
from pipeline.doctor.finding import Check, Target
from pipeline.environment import shared_root
from pipeline.errors import InputError
from pipeline.study import Study

__all__ = ["CHECKS", "find_target"]

CHECKS: dict[str, Check] = {
    "python": environment.python,
    "libraries": environment.libraries,
    "variables": environment.variables,
    "device": environment.device,
    "code": places.code,
    "space": disk.space,
    "writing": disk.writing,
    "file system": disk.network,
    "leftovers": disk.leftovers,
    "databases": databases.databases,
    "schema": databases.schema,
    "experiment": databases.experiment,
    "artifacts": places.artifacts,
    "tracking": servers.tracking,
    "optuna": servers.optuna,
    "data mirror": servers.mirror,
    "params": project.params,
    "git": project.git_state,
    "dvc.yaml": project.pipelines,
    "dvc.lock": project.dvc_lock,
    "DVC's locks": project.dvc_busy,
    "unpublished": unfinished.unpublished,
    "trials": unfinished.trials,
    "runs": unfinished.runs,
    "worktrees": unfinished.worktrees,
}


def find_target(root: Path, folder: Path) -> Target:
    """Return where a study lies, also where its parameters cannot be read."""
    try:
        study = Study.at(folder)
    except InputError:
        return Target(root, folder, shared_root(root), None)
    return Target(study.root, study.folder, study.shared_root, study.out)
