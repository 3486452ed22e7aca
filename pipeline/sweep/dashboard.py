"""Optuna's dashboard of a study's searches, with notes that lead to MLflow."""

from __future__ import annotations

import optuna

from pipeline.errors import InputError
from pipeline.study import Study
from pipeline.sweep.compat import study_id
from pipeline.sweep.database import Database

__all__ = ["annotate", "serve"]

HEAD = "Runs in MLflow: "  # what a note of ours begins with; one of a user stays
NOTE = "dashboard:note_str:0"


def annotate(study: Study, runs: str) -> dict[str, int]:
    """Write a note with the address of the study's runs into each of its searches; return their numbers by name.

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
        note = f"{HEAD}{runs or '`cave ui` shows them'}\n\nEvery trial is a run named after its number."
        noted = storage.get_study_system_attrs(study_id(record)).get(NOTE, HEAD)
        if str(noted).startswith(HEAD) and noted != note:
            save_note(search, note)
    return {record.study_name: study_id(record) for record in searches}


def serve(study: Study, port: int) -> None:
    """Serve the dashboard on this machine alone until it is stopped."""
    from optuna_dashboard import run_server

    run_server(Database.of(study).storage(), host="127.0.0.1", port=port)
