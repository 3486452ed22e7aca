"""A sweep on a Ray cluster of two nodes keeps its promises, whichever process of it is killed."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest

from pipeline import processes
from pipeline.environment import Resources
from pipeline.errors import InputError
from pipeline.study import Study
from tests.small import ROOT
from tests.test_interrupts import STOPPED, ended, prepared, running, start, until
from tests.workshop import check_sweep, rows

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed: pip install 'platos-cave[ray]'"),
]

SWEEP = ["pipeline.stages", "sweep", "mhvae"]
COMMON = {
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": "0123456789abcdef" * 4,
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # the cluster is on 127.0.0.1, which Ray would take for another address
}


class Nodes:
    """The cluster's process: the first node, on which no worker finds room beside another, and those added."""

    def __init__(self, folder: Path) -> None:
        own = {"PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0", "PGPASSWORD": "of the node"}
        self.log = (folder / "log").open("w")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.ray_cluster"],
            cwd=folder,
            env=os.environ | own | COMMON,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            start_new_session=True,
        )
        self.address = self._line()

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline().strip()
        assert line, "the cluster did not start"
        return line

    def add(self) -> psutil.Process:
        """Add a node, and return the process on which all of its others depend."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return psutil.Process(int(self._line()))

    def end(self) -> None:
        self.process.communicate()
        self.log.close()


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    made = Nodes(tmp_path_factory.mktemp("ray"))
    yield made
    made.end()


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return prepared(tmp_path, **{"sweep.epochs": 30, "sweep.trials": 6})


def sweep(study: Study, nodes: Nodes) -> subprocess.Popen[str]:
    own = {"CAVE_LAUNCHER": "ray", "CAVE_RAY_ADDRESS": nodes.address, "CAVE_GPUS_PER_WORKER": "0"}
    return start(study.folder, *SWEEP, workers=2, **own, **COMMON)


def workers(study: Study) -> list[psutil.Process]:
    """Return the worker processes of a study, wherever they run."""
    records = []
    for process in psutil.process_iter(["cmdline", "cwd"]):
        words = process.info["cmdline"] or []
        if words[-1:] == ["--worker"] and process.info["cwd"] == str(study.folder):
            records.append(process)
    return records


def trials(study: Study) -> int:
    """Count the trials that are at work and have finished an epoch."""
    if not (study.shared_root / "optuna.db").exists():
        return 0
    query = "select count(distinct trial_id) from trials join trial_intermediate_values using (trial_id)"
    try:
        return int(rows(study.shared_root / "optuna.db", f"{query} where state = 'RUNNING'")[0][0])
    except Exception:
        return 0  # the tables are not there yet


@pytest.mark.nightly
def test_a_killed_worker_costs_nothing(study: Study, nodes: Nodes) -> None:
    """After kill -9 of a worker process in a trial, the sweep finishes exactly its trials, in one run each."""
    nodes.add()
    process = sweep(study, nodes)
    until(lambda: trials(study) == 2)
    workers(study)[0].kill()
    code, stderr = ended(process)
    assert code == 0, stderr
    check_sweep(study, "mhvae", 6)
    assert workers(study) == []


@pytest.mark.nightly
def test_a_killed_node_costs_nothing(study: Study, nodes: Nodes) -> None:
    """After kill -9 of a node in a trial, its worker ends too, and the other one goes on with the trial."""
    nodes.add()
    process = sweep(study, nodes)
    until(lambda: trials(study) == 2)
    raylets = {worker: worker.parents()[1] for worker in workers(study)}
    assert {raylet.name() for raylet in raylets.values()} == {"raylet"}
    head = psutil.Process(nodes.process.pid).children()
    worker, raylet = next((worker, raylet) for worker, raylet in raylets.items() if raylet not in head[:3])
    raylet.kill()
    until(lambda: not worker.is_running())
    code, stderr = ended(process)
    assert code == 0, stderr
    check_sweep(study, "mhvae", 6)


@pytest.mark.nightly
def test_a_stopped_sweep_leaves_no_worker(study: Study, nodes: Nodes) -> None:
    """SIGTERM ends the workers well: each run is closed, and the same command goes on."""
    nodes.add()
    process = sweep(study, nodes)
    until(lambda: trials(study) == 2)
    os.kill(process.pid, signal.SIGTERM)
    code, stderr = ended(process)
    assert code == 143
    assert stderr.endswith(STOPPED)
    assert workers(study) == []
    assert running(study.folder) == 0
    assert ended(sweep(study, nodes))[0] == 0
    check_sweep(study, "mhvae", 6)


@pytest.mark.nightly
def test_workers_elsewhere_end_with_what_has_started_them(study: Study, nodes: Nodes) -> None:
    """After kill -9 of the stage, its workers on the cluster are gone, and the same command finishes its trials."""
    nodes.add()
    process = sweep(study, nodes)
    until(lambda: trials(study) == 2)
    process.kill()
    process.communicate()
    until(lambda: workers(study) == [])
    assert ended(sweep(study, nodes))[0] == 0
    check_sweep(study, "mhvae", 6)


@pytest.mark.nightly
def test_workers_get_their_gpu_and_their_settings(tmp_path: Path, nodes: Nodes) -> None:
    """Ray says which GPU; settings come along, and a password is that of the node."""
    code = "import json, os, sys\nopen(sys.argv[1], 'w').write(json.dumps(dict(os.environ)))\n"
    (tmp_path / "writes.py").write_text(code)
    starts = (
        "from pathlib import Path\nfrom pipeline import processes\n"
        "from pipeline.environment import Resources\nfrom pipeline.processes.entry import run_main\n"
        "run_main(lambda: processes.run([['writes', str(n)] for n in range(3)], Path.cwd(), Resources.read()))\n"
    )
    (tmp_path / "starts.py").write_text(starts)
    own = {
        "CAVE_LAUNCHER": "ray",
        "CAVE_RAY_ADDRESS": nodes.address,
        "CAVE_CPUS_PER_WORKER": "0.1",
        "CAVE_GPUS_PER_WORKER": "0.5",
        "MLFLOW_TRACKING_URI": "http://127.0.0.1:9",
        "PGPASSWORD": "of the command",
        "OTHER": "stays",
    }
    code_, stderr = ended(start(tmp_path, "starts", **own, **COMMON))
    assert code_ == 0, stderr
    for number in range(3):
        records = json.loads((tmp_path / str(number)).read_text())
        assert records["CUDA_VISIBLE_DEVICES"] in ("0", "1")
        assert records["MLFLOW_TRACKING_URI"] == "http://127.0.0.1:9"
        assert records["CAVE_THREADS"] == "1"
        assert records["PGPASSWORD"] == "of the node"
        assert "OTHER" not in records


@pytest.mark.nightly
@pytest.mark.parametrize("ray_address", ["HOST:PORT", pytest.param("auto", marks=pytest.mark.nightly)])
def test_a_cluster_that_answers_and_says_nothing_is_given_up(ray_address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Ray itself would try for minutes, a time limit ends it with one line, however the address was given."""
    monkeypatch.setattr("pipeline.processes.ray.JOIN_TIMEOUT", 5.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("CAVE_RAY_ADDRESS", address if ray_address == "HOST:PORT" else ray_address)
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(InputError, match=r"CAVE_RAY_ADDRESS: no cluster at '.*': not joined within 5 s"):
            processes.LAUNCHERS["ray"](Resources.read())


def test_why_a_cluster_is_not_joined_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Ray says of an address that is none is the end of the one line."""
    monkeypatch.setenv("CAVE_RAY_ADDRESS", "nonsense")
    with pytest.raises(InputError, match=r"CAVE_RAY_ADDRESS: no cluster at 'nonsense': \w+Error: .*") as caught:
        processes.LAUNCHERS["ray"](Resources.read())
    assert "Traceback" not in str(caught.value)


def test_no_cluster_is_told_in_one_line(tmp_path: Path) -> None:
    """An address where nothing listens is an input error."""
    lines = [
        "from pipeline import processes",
        "from pipeline.processes.entry import run_main",
        "from pipeline.environment import Resources; run_main(lambda: processes.LAUNCHERS['ray'](Resources.read()))",
    ]
    (tmp_path / "starts.py").write_text("\n".join(lines))
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        code, stderr = ended(start(tmp_path, "starts", CAVE_RAY_ADDRESS=address))
    assert code == 2
    assert stderr.startswith(f"error: CAVE_RAY_ADDRESS: no cluster at '{address}': ")
    assert stderr.count("\n") == 1
