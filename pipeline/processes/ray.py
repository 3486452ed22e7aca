"""Workers on a Ray cluster: a task a slot, which runs the worker as a process of its own and waits for its end.

Ray never sees trials, only workers; a worker, a task or a node that dies is a worker that was killed, and is started
again by whoever started it, so that no task is retried by Ray. The study's folder, the Python environment and the
stores must be the same on every node. Settings travel as the task's arguments, which Ray shows nowhere; a
password is that of the node's own environment, where it has one.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, final

from pipeline.environment import Resources, child_variables, set_variables
from pipeline.errors import InputError
from pipeline.processes.local import Process
from pipeline.processes.signals import POLL
from pipeline.redaction import SECRETS, reason, redacted
from pipeline.startup import OPENMP

__all__ = ["Ray"]

PASSED = ("CAVE_", "MLFLOW_", "DVC_", "PG", "PYTHONPATH", *OPENMP)  # how the variables begin that a worker gets
CONNECT_TIMEOUT = 10.0  # seconds for the cluster to answer
JOIN_TIMEOUT = 30.0  # seconds to be connected to it
TRY = "import sys, ray; ray.init(address=sys.argv[1], log_to_driver=False)"
WORKER_GONE = -signal.SIGKILL  # the exit code of a worker whose task or node is gone


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
            return WORKER_GONE
        except RayTaskError as error:  # the task's own code: where a node lacks ours, say
            raise InputError(f"ray: a task failed: {error.cause or error}") from None
        except RayError:
            return WORKER_GONE

    def interrupt(self) -> None:
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

    def __init__(self, resources: Resources) -> None:
        ray = _connect(resources.ray_address)
        whole = ray.cluster_resources()
        gpus = 0.0 if resources.device == "cpu" or not whole.get("GPU") else 1.0
        self.cpus = 1.0 if resources.cpus_per_worker is None else resources.cpus_per_worker
        self.gpus = gpus if resources.gpus_per_worker is None else resources.gpus_per_worker
        room = [
            int(whole.get(kind, 0) / each + 1e-9) for kind, each in (("CPU", self.cpus), ("GPU", self.gpus)) if each
        ]
        self.slots = max(1, min(room, default=1))
        options = {"num_cpus": self.cpus, "num_gpus": self.gpus, "max_retries": 0, "name": "cave worker"}
        self.task = ray.remote(**options)(_work)

    def start(self, command: Sequence[str], folder: Path, environment: Mapping[str, str], slot: int) -> Task:
        """Hand a worker to the cluster, which starts it when there is room."""
        names = [name for name in environment if name.startswith(PASSED) and name not in SECRETS]
        variables = {name: environment[name] for name in names}
        variables.setdefault("CAVE_THREADS", str(max(1, int(self.cpus))))
        return Task(self.task.remote(list(command), str(folder), variables))

    def close(self) -> None:
        """Leave the cluster, and end one of this process's own."""
        import ray

        ray.shutdown()


def _connect(address: str) -> Any:
    variables = {"RAY_USAGE_STATS_ENABLED": "0"}  # send no usage statistics
    if address == "local":
        variables["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # binds Ray to 127.0.0.1
    set_variables(variables)
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
                socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT).close()
            if address != "local":
                _try(address)
            ray.init(address=address, logging_level="error", **options)
        except Exception as error:  # whatever it raises
            raise InputError(f"CAVE_RAY_ADDRESS: no cluster at '{redacted(address)}': {reason(error)}") from None
        finally:
            signal.signal(signal.SIGTERM, before)  # which it takes
    return ray


def _try(address: str) -> None:
    """Connect in a process of its own, which can be ended: to a cluster that answers half, Ray connects for minutes."""
    try:
        tried = subprocess.run(
            [sys.executable, "-c", TRY, address], timeout=JOIN_TIMEOUT, capture_output=True, text=True
        )
    except subprocess.TimeoutExpired:
        raise TimeoutError(f"not joined within {JOIN_TIMEOUT:.0f} s; run `ray status` there") from None
    if tried.returncode != 0:
        raise ConnectionError((tried.stderr.strip().splitlines() or ["no reason was given"])[-1])


def _work(command: list[str], folder: str, variables: dict[str, str]) -> int:
    """Run a worker on a node, and return its exit code."""
    import ray

    if not Path(folder).is_dir():
        print(f"error: {folder} is not there on node {ray.util.get_node_ip_address()}", file=sys.stderr, flush=True)
        return 2
    pin = {"CUDA_VISIBLE_DEVICES": ",".join(map(str, ray.get_gpu_ids()))}
    worker = None
    try:
        worker = Process(command, Path(folder), child_variables(variables, pin))
        while (code := worker.poll()) is None:
            time.sleep(POLL)
    except BaseException:  # cancelled: by what Ray raises here
        if worker is not None and worker.poll() is None:
            worker.interrupt()
            worker.process.wait()
        raise
    return code
