"""Notebooks: a bar shows how far a training is, and those of the documents run."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

import pipeline as cave
from tests.small import ROOT

NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
LARGEST = 200_000  # bytes of a notebook with its outputs


def test_a_notebook_gets_a_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """In a kernel one output is replaced again and again, up to the end, and only the last epoch gets a line."""
    texts: list[str] = []
    handle = SimpleNamespace(update=texts.append)
    ipython = ModuleType("IPython")
    monkeypatch.setattr(ipython, "get_ipython", lambda: SimpleNamespace(kernel=None), raising=False)
    display = SimpleNamespace(HTML=lambda text: text, display=lambda text, display_id: texts.append(text) or handle)
    monkeypatch.setattr(ipython, "display", display, raising=False)
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    cave.fit(np.zeros((20, 4, 4)), epochs=2, hidden=[[4]])
    assert 'value="0.000"' in texts[0]
    assert "fit images" in texts[0]
    assert "epoch 2 of 2, best valid/elbo" in texts[-1]
    assert texts[-1].endswith("done</div>")
    assert capsys.readouterr().out.count("epoch") == 1


@pytest.mark.nightly
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every cell runs, in an empty folder, without an error; the outputs that the file has are small."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    assert path.stat().st_size < LARGEST
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
