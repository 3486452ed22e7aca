"""The searches of a study that is removed, in Optuna's database."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

from optuna.trial import TrialState

from pipeline.addresses import coordinator_lock, lock_folder, worker_lock
from pipeline.errors import InputError
from pipeline.redaction import reason
from pipeline.study import Study
from pipeline.sweep.compat import FrozenStudy, internal, study_id
from pipeline.sweep.database import Database, Storage
from pipeline.sweep.locks import locks

__all__ = ["Searches"]


@dataclass(frozen=True)
class Searches:
    """All searches of a study, whatever their settings; nothing is made that is not there."""

    study: Study

    @cached_property
    def _database(self) -> Database:
        return Database.of(self.study)

    @cached_property
    def _storage(self) -> Storage | None:
        file = self._database.file
        return None if file is not None and not file.exists() else self._database.storage()

    def names(self) -> list[str]:
        """Return the names of the searches in Optuna."""
        return [study.study_name for study in self._studies()]

    def trials(self) -> int:
        """Return how many trials were ever begun."""
        with self._translate_storage_errors():
            storage = self._storage
            assert storage is not None or not self._studies()
            return sum(
                len(storage.get_all_trials(study_id(study), deepcopy=False)) for study in self._studies() if storage
            )

    def at_work(self) -> list[str]:
        """Return the names of the searches that a process works on."""
        busy = []
        with self._translate_storage_errors():
            held = locks(self._database) if self._studies() else None
            for study in self._studies():
                assert held is not None
                assert self._storage is not None
                running = self._storage.get_all_trials(study_id(study), deepcopy=False, states=(TrialState.RUNNING,))
                owners = [str(internal(trial, "worker", "none")) for trial in running]
                names = [
                    coordinator_lock(study.study_name),
                    *(worker_lock(study.study_name, owner) for owner in owners),
                ]
                busy += [study.study_name] if held.held(names) else []
        return busy

    def remove(self) -> int:
        """Delete the searches with their trials; return how many there were."""
        with self._translate_storage_errors():
            study = self._studies()
            for search in study:
                assert self._storage is not None
                self._storage.delete_study(study_id(search))
        if self._database.file is not None:
            shutil.rmtree(lock_folder(self._database.file) / self.study.name, ignore_errors=True)
        return len(study)

    def _studies(self) -> list[FrozenStudy]:
        with self._translate_storage_errors():
            storage = self._storage
            studies = [] if storage is None else storage.get_all_studies()
        return [study for study in studies if study.study_name.startswith(f"{self.study.name}/")]

    @contextmanager
    def _translate_storage_errors(self) -> Iterator[None]:
        try:
            yield
        except InputError:
            raise
        except Exception as error:  # whatever the database's driver raises
            raise InputError(f"Optuna at {self._database} cannot be used: {reason(error)}") from None
