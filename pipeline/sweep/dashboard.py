"""Optuna's dashboard of a study's searches, with notes that lead to MLflow."""

from __future__ import annotations

import optuna

from pipeline.errors import InputError
from pipeline.links import Runs
from pipeline.study import Study
from pipeline.sweep.compat import internal, reopen, storage_trial_id, study_id
from pipeline.sweep.database import Database

__all__ = ["annotate", "serve"]

HEADS = ("Runs in MLflow: ", "Run in MLflow: ")  # what notes of ours begin with; one of a user stays


def annotate(study: Study, runs: Runs) -> dict[str, int]:
    """Write notes with the addresses of their `runs` into the study's searches and trials.

    Returns the numbers of the searches by name.

    Raises:
        InputError: the study has no searches.
    """
    from optuna_dashboard import save_note

    database = Database.of(study)
    missing = f"study {study.name} has no searches yet in Optuna at {database}; `{study.command('sweep')}` makes them"
    if database.file is not None and not database.file.is_file():
        raise InputError(missing)
    storage = database.storage()
    searches = [record for record in storage.get_all_studies() if record.study_name.startswith(f"{study.name}/")]
    if not searches:
        raise InputError(missing)
    for record in searches:
        search = optuna.load_study(study_name=record.study_name, storage=storage)
        notes = storage.get_study_system_attrs(study_id(record))
        note = f"{HEADS[0]}{runs.address or '`cave ui` shows them'}\n\nEvery trial is a run named after its number."
        if _is_replaced(notes.get("dashboard:note_str:0"), note):
            save_note(search, note)
        for trial in search.get_trials(deepcopy=False) if runs.address else ():
            number, run_id = storage_trial_id(trial), internal(trial, "mlflow_run_id")
            note = f"{HEADS[1]}{runs.page(str(run_id))}"
            if run_id is not None and _is_replaced(notes.get(f"dashboard:{number}:note_str:0"), note):
                save_note(reopen(search, trial), note)
    return {record.study_name: study_id(record) for record in searches}


def _is_replaced(present: object, note: str) -> bool:
    """Return whether a note takes the place of the present one: of none, or of another of ours."""
    return present is None or (str(present).startswith(HEADS) and present != note)


def serve(study: Study, port: int) -> None:
    """Serve the dashboard on this machine alone until it is stopped."""
    from optuna_dashboard import run_server

    run_server(Database.of(study).storage(), host="127.0.0.1", port=port)
