"""Workers on a Ray cluster: a task a slot, which runs the worker as a process of its own and waits for its end.

Ray never sees trials, only workers; a worker, a task or a node that dies is a worker that was killed, and is started
again by whoever started it, so that no task is retried by Ray. The study's folder, the Python environment and the
stores must be the same on every node. Settings travel as the task's arguments, which Ray shows nowhere; a
password is that of the node's own environment, where it has one.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, final

from pipeline.errors import InputError
from pipeline.processes import machine
from pipeline.processes.local import Process
from pipeline.processes.signals import POLL
from pipeline.redaction import SECRETS, redacted

__all__ = ["Ray"]

OPENMP = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")  # how threads wait, see `pipeline`
PASSED = ("CAVE_", "MLFLOW_", "DVC_", "PG", "PYTHONPATH", *OPENMP)  # how the variables begin that a worker gets
PATIENCE = 10.0  # seconds for the cluster to answer
LIMIT = 30.0  # seconds to be connected to it
TRY = "import os, ray; ray.init(address=os.environ.get('CAVE_RAY_ADDRESS', 'auto'), log_to_driver=False)"
LOST = -signal.SIGKILL  # what became of a worker of which nobody can tell


@final
class Task:
    """A task that stands for a worker process."""

    def __init__(self, ref: Any) -> None:
        self.ref = ref

    def poll(self) -> int | None:
        """Return the exit code of a worker that has ended: below 0 for a signal, or where its task or node died."""
        import ray
        from ray.exceptions import RayError, RayTaskError, TaskCancelledError

        if not ray.wait([self.ref], timeout=0)[0]:
            return None
        try:
            return int(ray.get(self.ref))
        except TaskCancelledError:
            return LOST
        except RayTaskError as error:  # the task's own code: where a node lacks ours, say
            raise InputError(f"ray: a task failed: {error.cause or error}") from None
        except RayError:
            return LOST

    def ask(self) -> None:
        """Ask for a clean end."""
        import ray

        ray.cancel(self.ref)

    def kill(self) -> None:
        """End it at once."""
        import ray

        ray.cancel(self.ref, force=True)


@final
class Ray:
    """Starts tasks on the cluster at CAVE_RAY_ADDRESS: `auto`, `local` for one of this process, or HOST:PORT."""

    def __init__(self) -> None:
        ray = _connect(os.environ.get("CAVE_RAY_ADDRESS", "auto"))
        whole = ray.cluster_resources()
        cpu = os.environ.get("CAVE_DEVICE", "auto") == "cpu"
        self.cpus = machine.number("CAVE_CPUS_PER_WORKER", 1)
        self.gpus = machine.number("CAVE_GPUS_PER_WORKER", 0 if cpu or not whole.get("GPU") else 1)
        room = [
            int(whole.get(kind, 0) / each + 1e-9) for kind, each in (("CPU", self.cpus), ("GPU", self.gpus)) if each
        ]
        self.slots = max(1, min(room, default=1))
        options = {"num_cpus": self.cpus, "num_gpus": self.gpus, "max_retries": 0, "name": "cave worker"}
        self.task = ray.remote(**options)(_work)

    def start(self, command: Sequence[str], folder: Path, environment: Mapping[str, str], slot: int) -> Task:
        """Hand a worker to the cluster, which starts it when there is room."""
        names = [name for name in environment if name.startswith(PASSED) and name not in SECRETS]
        given = {name: environment[name] for name in names}
        given.setdefault("CAVE_THREADS", str(max(1, int(self.cpus))))
        return Task(self.task.remote(list(command), str(folder), given))

    def close(self) -> None:
        """Leave the cluster, and end one of this process's own."""
        import ray

        ray.shutdown()


def _connect(address: str) -> Any:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # nothing is told to its makers
    if address == "local":
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # what binds Ray to 127.0.0.1, and does so here
    try:
        import ray
    except ImportError:
        raise InputError("CAVE_LAUNCHER: 'ray' is not installed; run: pip install 'platos-cave[ray]'") from None
    if not ray.is_initialized():
        before = signal.getsignal(signal.SIGTERM)
        options = {"include_dashboard": False} if address == "local" else {}
        try:
            host, _, port = address.rpartition(":")
            if host and port.isdigit() and "/" not in address:  # Ray would try for minutes
                socket.create_connection((host, int(port)), timeout=PATIENCE).close()
            if address != "local":
                _try()
            ray.init(address=address, logging_level="error", **options)
        except Exception as error:  # whatever it raises
            reason = redacted(" ".join(str(error).split()))[:200]
            raise InputError(f"CAVE_RAY_ADDRESS: no cluster at '{redacted(address)}': {reason}") from None
        finally:
            signal.signal(signal.SIGTERM, before)  # which it takes
    return ray


def _try() -> None:
    """Connect in a process of its own, which can be ended: to a cluster that answers half, Ray connects for minutes."""
    try:
        tried = subprocess.run([sys.executable, "-c", TRY], timeout=LIMIT, capture_output=True, text=True)
    except subprocess.TimeoutExpired:
        raise TimeoutError(f"not joined within {LIMIT:.0f} s; `ray status` there tells if it is well") from None
    if tried.returncode != 0:
        raise ConnectionError((tried.stderr.strip().splitlines() or ["no reason was given"])[-1])


def _work(command: list[str], folder: str, given: dict[str, str]) -> int:
    """Run a worker on a node, and return its exit code."""
    import ray

    if not Path(folder).is_dir():
        print(f"error: {folder} is not there on node {ray.util.get_node_ip_address()}", file=sys.stderr, flush=True)
        return 2
    pin = {"CUDA_VISIBLE_DEVICES": ",".join(map(str, ray.get_gpu_ids()))}
    worker = None
    try:
        worker = Process(command, Path(folder), {**os.environ, **given, **pin})
        while (code := worker.poll()) is None:
            time.sleep(POLL)
    except BaseException:  # cancelled: by what Ray raises here
        if worker is not None and worker.poll() is None:
            worker.ask()
            worker.process.wait()
        raise
    return code
