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

from pipeline.cli import serve
from pipeline.errors import InputError
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


def test_the_dashboard_is_an_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package, one line says how to install it; a study without searches gets one, too."""
    study = make_study(tmp_path)
    monkeypatch.setattr(serve, "existing_study", lambda name: study)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'platos-cave\[dashboard\]'"):
        serve.dashboard()


def test_a_search_has_a_note_that_leads_to_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The study's own searches get it, those of others do not, and a note of a user's own stays."""
    study, notes = make_study(tmp_path), dict[str, str]()

    def save_note(search: optuna.Study, note: str) -> None:
        notes[search.study_name] = note

    fake: Any = SimpleNamespace(save_note=save_note)
    monkeypatch.setitem(sys.modules, "optuna_dashboard", fake)
    with pytest.raises(InputError, match="has no searches yet in Optuna at sqlite:///"):
        annotate(study, "")
    storage = optuna.storages.RDBStorage(f"sqlite:///{tmp_path / 'optuna.db'}")
    for name in (f"{study.name}/vae-1", f"{study.name}/vae-2", "other/vae-1"):
        number = optuna.create_study(storage=storage, study_name=name)._study_id
    storage.set_study_system_attr(number - 1, "dashboard:note_str:0", "my own")
    assert annotate(study, "http://runs") == {f"{study.name}/vae-1": number - 2, f"{study.name}/vae-2": number - 1}
    assert list(notes) == [f"{study.name}/vae-1"]
    assert notes[f"{study.name}/vae-1"].startswith("Runs in MLflow: http://runs")
    storage.engine.dispose()
