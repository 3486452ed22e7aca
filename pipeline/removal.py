"""The removal of a study: its searches and its experiment first, then its scratch, and its folder last.

Whatever kills this half way, the folder is there until the end, so that the same command finishes the work. Nothing is
followed that leads outside: of a link, the link alone is removed.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from pipeline.errors import InputError
from pipeline.files import exclusive, file_lock
from pipeline.log import STATE
from pipeline.run_folders import study_folders
from pipeline.run_folders.git import git
from pipeline.study import Study, is_name
from pipeline.text import plural

T = TypeVar("T")

__all__ = ["Removal", "discard", "was_begun"]


@dataclass(frozen=True)
class Removal:
    """A study that is to be removed, and all that belongs to it."""

    study: Study  # its parameters are the root's: its own may be unreadable

    @classmethod
    def of(cls, root: Path, name: str) -> Removal:
        """Return the removal of a study by its name; `InputError` for what is none, and for the root's own study."""
        default = Study.at(root)
        folder = root / "experiments" / name
        if not is_name(name):
            raise InputError(f"study: '{name}' given; allowed: a name that `cave study list` shows")
        if default.out == folder.resolve() or default.name == name:
            raise InputError(f"study: {name} is that of the root's params.yaml, and cannot be removed")
        if folder.is_dir() and not folder.is_symlink() and not (folder / "params.yaml").is_file():
            raise InputError(f"study: experiments/{name} has no params.yaml, so that it is no study")
        return cls(replace(default, folder=folder, out=folder))

    @property
    def folder(self) -> Path:
        """The study's folder, or a link to it."""
        return self.study.folder

    def exists(self) -> bool:
        """Return whether anything of the study is left on this machine."""
        in_project = self.folder.is_symlink() or self.folder.exists()
        return in_project or any(path.exists() for path in self._scratch()) or any(study_folders(self.study))

    def belongings(self) -> list[str]:
        """Say in a line each what would be removed; a store that cannot be reached is named with its reason."""
        where = f"experiments/{self.study.name}"
        lines = []
        if self.folder.is_symlink():
            lines.append(f"the link {where}; what it leads to, {os.readlink(self.folder)}, stays")
        elif self.folder.exists():
            lines.append(f"the folder {where}")
        if any(path.exists() for path in self._scratch()) or any(study_folders(self.study)):
            lines.append("its states of unfinished work")
        stores = [_tried(described, "") for described in (self._experiment, self._searches)]
        return lines + [line or f"not: {reason}" for line, reason in stores if line or reason]

    def remove(self, *, runs: bool = True) -> list[str]:
        """Remove all of it; return the reasons why a part of it stays, of stores that cannot be reached.

        Without `runs`, its experiment, its searches and the folders of its runs stay.

        Raises `InputError` where a process is working in the study.
        """
        from pipeline.sweep import Searches
        from pipeline.tracking import remove_experiments, remove_run_folders

        study, searches = self.study, Searches(self.study)
        with ExitStack() as held:
            held.enter_context(file_lock(study.creation_lock))
            for path in self._locks():
                held.enter_context(exclusive(path, f"study {study.name}", wait=False))
            none: list[str] = []
            busy, reason = _tried(searches.at_work, none)
            if busy:
                raise InputError(f"study {study.name}: a process is working on sweep {busy[0]}")
            reasons = [reason]
            if runs:
                remove_run_folders(study)
                reasons = [reason or _tried(searches.remove, 0)[1], _tried(lambda: remove_experiments(study), 0)[1]]
            for path in self._scratch():
                shutil.rmtree(path, ignore_errors=True)
            _remove_folder(self.folder)
            shutil.rmtree(study.locks, ignore_errors=True)
            (study.creation_lock).unlink(missing_ok=True)
        return [reason for reason in reasons if reason]

    def tracked(self) -> bool:
        """Return whether git has files of the study, so that it can bring them back."""
        return bool(git(self.study.root, "ls-files", "--", str(self.folder)))

    def _scratch(self) -> list[Path]:
        staging = self.folder.with_name(f".{self.study.name}.new")  # left by a command that was killed
        return [staging, *_states(self.study)]

    def _locks(self) -> list[Path]:
        """Return the locks of stages that were ever held."""
        return [path for path in sorted(self.study.locks.rglob("*")) if path.is_file()]

    def _experiment(self) -> str:
        from pipeline.tracking import Tracker, experiments

        names = experiments(self.study)
        address = Tracker(self.study).server.address
        return f"MLflow experiment {names[0]} at {address}, which is marked as deleted" if names else ""

    def _searches(self) -> str:
        from pipeline.sweep import Searches

        count = len(Searches(self.study).names())
        return f"{plural(count, 'search')} in Optuna, with all trials" if count else ""


def _states(study: Study) -> list[Path]:
    """Return the folders of a study's unfinished work, other than those of its runs."""
    cache = study.cache
    return [cache / "train" / study.unique_name, cache / "evaluate" / study.unique_name]


def _tried(act: Callable[[], T], instead: T) -> tuple[T, str]:
    """Return what `act` returns, and, where it raises `InputError`, something else and the reason."""
    try:
        return act(), ""
    except InputError as error:
        return instead, str(error)


def was_begun(study: Study) -> bool:
    """Return whether a study has results, the state of an epoch, or a trial: something that would be lost."""
    from pipeline.sweep import Searches

    if any(folder.is_dir() for folder in (study.out / "train", study.out / "sweep")):
        return True
    if any((folder / STATE).exists() for folder in study_folders(study)):
        return True
    try:
        return Searches(study).trials() > 0
    except InputError:
        return True


def discard(study: Study) -> None:
    """Remove a study that was made by a command that then failed before its first epoch.

    Where an earlier study of the same name has logged results, or MLflow cannot be asked, what is in the stores stays.
    """
    from pipeline.tracking import has_results

    earlier, reason = _tried(lambda: has_results(study), True)
    Removal.of(study.root, study.name).remove(runs=not (earlier or reason))


def _remove_folder(folder: Path) -> None:
    """Remove a folder, its parameters last: until then it is a study that can be removed again."""
    try:
        if folder.is_symlink():
            folder.unlink()
        elif folder.exists():
            for path in folder.iterdir():
                if path.name == "params.yaml":
                    continue
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()
            (folder / "params.yaml").unlink(missing_ok=True)
            folder.rmdir()
    except OSError as error:
        raise InputError.of_disk(error, error.filename or folder, "removed") from None
