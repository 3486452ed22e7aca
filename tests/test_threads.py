"""OpenMP's threads sleep while they wait, in every process that is started; a user's own choice stands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline import processes
from pipeline.environment import Resources
from pipeline.processes.ray import Ray
from tests.small import ROOT

pytestmark = pytest.mark.slow

VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
TORCH = f"""
import json, os
print(json.dumps({{name: os.environ[name] for name in {VARIABLES} if name in os.environ}}), flush=True)
os._exit(0)
"""
PROGRAMS = {
    "command": ["-m", "pipeline", "reproduce", "0"],
    "search": ["-m", "pipeline.stages", "sweep", "vae"],
    "training": ["-m", "pipeline.stages", "train", "vae"],
    "evaluation": ["-m", "pipeline.stages", "evaluate", "vae"],
    "library": ["-c", "import pipeline; pipeline.load('model')"],
}


def at_torch(folder: Path, words: list[str], **environment: str) -> dict[str, str]:
    """Return the variables of OpenMP that a program has when it loads PyTorch, in whose place stands a module."""
    (folder / "torch.py").write_text(TORCH)
    own = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    path = os.pathsep.join([str(folder), str(ROOT)])
    done = subprocess.run(
        [sys.executable, *words],
        cwd=ROOT,
        env=own | {"PYTHONPATH": path} | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    reported: dict[str, str] = json.loads(done.stdout)
    return reported


@pytest.mark.parametrize("program", PROGRAMS)
def test_waiting_threads_sleep(program: str, tmp_path: Path) -> None:
    """Before PyTorch is loaded, and with it OpenMP, every program has asked for threads that sleep."""
    assert at_torch(tmp_path, PROGRAMS[program]) == {"OMP_WAIT_POLICY": "passive"}


@pytest.mark.parametrize(
    ("name", "value"), [("OMP_WAIT_POLICY", "active"), ("GOMP_SPINCOUNT", "1000"), ("KMP_BLOCKTIME", "200")]
)
def test_a_user_has_chosen(name: str, value: str, tmp_path: Path) -> None:
    """A variable of OpenMP's waiting that is set already is left as it is, and no other is added."""
    assert at_torch(tmp_path, PROGRAMS["library"], **{name: value}) == {name: value}


def test_workers_inherit_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker process on this machine has what its parent has."""
    monkeypatch.setenv("OMP_WAIT_POLICY", "of the parent")
    code = "import os, pathlib; pathlib.Path('policy').write_text(os.environ['OMP_WAIT_POLICY'])"
    (tmp_path / "asked.py").write_text(code)
    processes.run([["asked"]], tmp_path, Resources())
    assert (tmp_path / "policy").read_text() == "of the parent"


@pytest.mark.parametrize("name", VARIABLES)
def test_workers_on_a_cluster_get_it(name: str, tmp_path: Path) -> None:
    """A worker on another node has what the sweep's own process has."""
    cluster = object.__new__(Ray)
    cluster.cpus, cluster.task = 1, SimpleNamespace(remote=lambda *words: words)
    _, _, environment = cluster.start(["worker"], tmp_path, {name: "1", "HOME": "/"}, 0).ref
    assert environment == {name: "1", "CAVE_THREADS": "1"}
