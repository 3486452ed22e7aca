"""Making a study: a folder in `experiments/` with its own parameters and a copy of the root's `dvc.yaml`."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pipeline.environment import shared_root
from pipeline.errors import InputError
from pipeline.files import file_lock, write_bytes, write_text
from pipeline.params import Params
from pipeline.params.derived import write_settings
from pipeline.processes.signals import ignore_signals
from pipeline.study import Study, creation_lock, is_name, pipeline_text

__all__ = ["copy_pipeline", "create_study"]


def create_study(
    root: Path,
    name: str,
    overrides: Mapping[str, Any],
    *,
    pipeline: bool = True,
    fill: Callable[[Study], object] = lambda study: None,
) -> Study:
    """Make the folder `experiments/<name>` with its own parameters and, for `pipeline`, a copy of `dvc.yaml`.

    All is checked first, and `fill`, which may bring data, is called while the new folder still has a hidden name:
    where anything fails, nothing is left. In a folder that is there, other parameters are an `InputError`; a budget
    of trials may change.
    """
    folder, params = _plan(root, name, overrides)
    defaults = Params.read_values(root / "params.yaml")
    with file_lock(creation_lock(shared_root(root), name)):
        if (folder / "params.yaml").exists():
            write_settings(folder, params, defaults)
            _complete(root, folder, pipeline)
            study = Study.at(folder)
            fill(study)
            return study
        staging = folder.with_name(f".{name}.new")
        shutil.rmtree(staging, ignore_errors=True)  # a process that was killed has left it
        try:
            write_settings(staging, params, defaults)
            _complete(root, staging, pipeline)
            fill(Study.at(staging))
            _rename(staging, folder)
        except BaseException:
            with ignore_signals():
                shutil.rmtree(staging, ignore_errors=True)
            raise
    return Study.at(folder)


def _plan(root: Path, name: str, overrides: Mapping[str, Any]) -> tuple[Path, Params]:
    """Return the folder and the parameters of a study that is to be made; all that could be wrong is checked."""
    folder = root / "experiments" / name
    if not is_name(name):
        raise InputError(f"study: '{name}' given; allowed: lower-case letters, digits, - and _")
    params = Params.read(root / "params.yaml", overrides)
    if (root / params.out).resolve() == folder.resolve():
        raise InputError(f"study: '{name}' is the study of the root's params.yaml; choose another name")
    # The budget's values are in place already, and what `overrides` set is not to be set back.
    params = params.override({"root": "../..", "out": ".", "budget": "default", "budgets": {"default": {}}})
    if (folder / "params.yaml").exists():
        budget = {f"sweep.{key}": getattr(params.sweep, key) for key in ("searches", "trials", "max_failures")}
        if Params.read(folder / "params.yaml").override(budget) != params:
            raise InputError(f"study: experiments/{name} is there with other parameters; choose another name")
    return folder, params


def _complete(root: Path, folder: Path, pipeline: bool) -> None:
    """Put what else belongs to a study into its folder."""
    copy = folder / "dvc.yaml"
    if not pipeline:
        write_text(folder / ".gitignore", "/raw\n/data\n/outliers\n/train\n")  # what DVC would keep out of git
    elif copy.is_symlink() or not copy.exists():
        copy_pipeline(root, folder)


def _rename(staging: Path, folder: Path) -> None:
    try:
        staging.rename(folder)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise InputError.of_disk(error, folder) from None
        raise InputError(
            f"study: experiments/{folder.name} is there and is no study (it has no params.yaml); choose another name"
        ) from None


def copy_pipeline(root: Path, folder: Path) -> bool:
    """Make a study's `dvc.yaml` a copy of the root's, also where it was a link; return whether it was not one yet."""
    copy = folder / "dvc.yaml"
    try:
        content = pipeline_text(root, folder)
        if not copy.is_symlink() and copy.exists() and copy.read_bytes() == content:
            return False
    except OSError as error:
        raise InputError.of_disk(error, error.filename, "read") from None
    write_bytes(copy, content)
    return True
