"""Commands that serve a page: when a browser is opened, and Optuna's dashboard with its notes."""

from __future__ import annotations

import os
import socket
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest

from pipeline.addresses import FINAL, runs_page
from pipeline.cli import serve
from pipeline.errors import InputError
from pipeline.links import Experiment, Runs
from pipeline.sweep.compat import set_internal
from pipeline.sweep.dashboard import annotate
from tests.workshop import make_study


def test_a_browser_is_opened_once_the_server_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is opened at the address where a user sits at a terminal with a screen, and nowhere else."""
    opened = tmp_path / "opened"
    seen = {"terminal": False, "screen": True, "plain": False}
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(isatty=lambda: seen["terminal"], flush=lambda: None))
    monkeypatch.setattr(serve, "has_screen", lambda: seen["screen"])
    monkeypatch.setattr(serve, "plain_output", lambda: seen["plain"])
    monkeypatch.setattr("webbrowser.open", opened.write_text)
    with monkeypatch.context() as patched:
        patched.setattr(os, "fork", lambda: pytest.fail("a browser was to be opened"))
        serve._open_when_ready("http://x", 1)
        for other in ({"screen": False}, {"plain": True}):
            seen |= {"terminal": True, "screen": True, "plain": False} | other
            serve._open_when_ready("http://x", 1)
    seen |= {"terminal": True, "screen": True, "plain": False}
    with socket.create_server(("127.0.0.1", 0)) as server:
        serve._open_when_ready("http://here", server.getsockname()[1])
        deadline = time.monotonic() + 30
        while not (opened.exists() and opened.read_text()) and time.monotonic() < deadline:
            time.sleep(0.02)
    assert opened.read_text() == "http://here"


def test_a_server_is_opened_at_the_view(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where MLFLOW_TRACKING_URI names a server, `cave ui` starts none and opens the study's page of that one."""
    opened, study = list[str](), make_study(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://runs.example:5000")
    monkeypatch.setattr(serve, "existing_study", lambda name: study)
    monkeypatch.setattr(serve, "_is_seen", lambda: True)
    monkeypatch.setattr("pipeline.tracking.mark_current", lambda study: True)
    monkeypatch.setattr("pipeline.links.experiment", lambda study: Experiment("7", False, True, frozenset({FINAL})))
    monkeypatch.setattr("webbrowser.open", opened.append)
    serve.ui()
    assert opened == [f"http://runs.example:5000{runs_page('7', FINAL)}"]
    serve.ui(no_browser=True)
    assert len(opened) == 1


def test_the_dashboard_is_an_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package, one line says how to install it; a study without searches gets one, too."""
    study = make_study(tmp_path)
    monkeypatch.setattr(serve, "existing_study", lambda name: study)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'platos-cave\[dashboard\]'"):
        serve.dashboard()


def test_searches_and_trials_have_notes_that_lead_to_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The study's own get them, those of others do not, and a note of a user's own stays."""
    study, notes = make_study(tmp_path), dict[str, str]()

    def save_note(noted: optuna.Study | optuna.Trial, note: str) -> None:
        name = noted.study_name if isinstance(noted, optuna.Study) else f"{noted.study.study_name}/{noted.number}"
        notes[name] = note

    fake: Any = SimpleNamespace(save_note=save_note)
    monkeypatch.setitem(sys.modules, "optuna_dashboard", fake)
    runs = Runs(f"http://runs{runs_page('7', FINAL)}", "", True, "7")
    with pytest.raises(InputError, match="has no searches yet in Optuna at sqlite:///"):
        annotate(study, runs)
    storage = optuna.storages.RDBStorage(f"sqlite:///{tmp_path / 'optuna.db'}")
    for name in (f"{study.name}/vae-1", f"{study.name}/vae-2", "other/vae-1"):
        search = optuna.create_study(storage=storage, study_name=name)
        for run_id in ("a", "b", None):
            set_internal(search.ask(), "mlflow_run_id", run_id)
    number = search._study_id
    storage.set_study_system_attr(number - 1, "dashboard:note_str:0", "my own")
    storage.set_study_system_attr(
        number - 1, f"dashboard:{storage.get_all_trials(number - 1)[0]._trial_id}:note_str:0", "own"
    )
    assert annotate(study, runs) == {f"{study.name}/vae-1": number - 2, f"{study.name}/vae-2": number - 1}
    assert notes.pop(f"{study.name}/vae-1").startswith(f"Runs in MLflow: {runs.address}\n")
    pages = {
        run_id: f"Run in MLflow: http://runs/#/experiments/7/runs/{run_id}?workflowType=machine_learning"
        for run_id in "ab"
    }
    assert notes == {
        f"{study.name}/vae-1/0": pages["a"], f"{study.name}/vae-1/1": pages["b"], f"{study.name}/vae-2/1": pages["b"]
    }  # fmt: skip
    storage.engine.dispose()
