"""Bringing a study up to date with the project's root: its copy of `dvc.yaml`, and its derived `params.yaml`.

What no commit has of a file that is replaced is saved beside it first, with the ending `.before`.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.cli.new_study import copy_pipeline
from pipeline.errors import InputError
from pipeline.files import write_bytes, write_text
from pipeline.params import Params
from pipeline.params.derived import STUDY_FILE, derive, derived_text, differences, differing_paths, outdated
from pipeline.params.writing import dump_mapping
from pipeline.run_folders.git import git
from pipeline.study import pipeline_text

__all__ = ["refresh_params", "refresh_pipeline", "save_uncommitted"]


def refresh_pipeline(root: Path, folder: Path) -> str:
    """Make a study's `dvc.yaml` a copy of the root's; return a line where it was not one."""
    path = folder / "dvc.yaml"
    if not path.is_symlink() and path.read_bytes() == pipeline_text(root, folder):
        return ""
    saved = "" if path.is_symlink() else save_uncommitted(root, path)
    copy_pipeline(root, folder)
    return f"{path.relative_to(root)} is now a copy of the root's dvc.yaml{saved}"


def refresh_params(root: Path, folder: Path, defaults: Params) -> str:
    """Derive a study's `params.yaml` from `study.yaml` and the defaults; return a line where it was another.

    A study without `study.yaml`, which an earlier version has made, gets one with the values of its `params.yaml`.
    """
    path = folder / "params.yaml"
    params = derive(defaults, folder)
    if params is not None and not outdated(defaults, folder):
        return ""
    try:
        old = Params.read_values(path)
    except InputError as error:
        if params is None:
            raise InputError(f"{folder.relative_to(root)}/{error}") from None
        changed = "which could not be read"
    else:
        if params is None:
            write_text(folder / STUDY_FILE, dump_mapping(differences(old, defaults)))
            return f"{(folder / STUDY_FILE).relative_to(root)} is written: the values of params.yaml that are its own"
        changed = f"with other values of {', '.join(differing_paths(params, old))}"
    saved = save_uncommitted(root, path)
    write_text(path, derived_text(params))
    return f"{path.relative_to(root)} is written anew, {changed}{saved}"


def save_uncommitted(root: Path, path: Path) -> str:
    """Copy a file to `<name>.before`, unless the last commit has it as it is; return the end of a line that says so."""
    if not path.exists() or git(path.parent, "cat-file", "blob", f"HEAD:./{path.name}") == path.read_bytes():
        return ""
    copy = path.with_name(f"{path.name}.before")
    write_bytes(copy, path.read_bytes())
    return f"; what it was is in {copy.relative_to(root)}"
