"""A real MLflow server that can be stopped and started, and a proxy before it that delays, refuses and cuts."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import threading
import time
import urllib.request
from pathlib import Path

from tests.workshop import _migrated
from tests.zygote import Program


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """`mlflow server` with its database and artifacts in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.database = folder / "mlflow.db"
        shutil.copy(_migrated(), self.database)
        self._process: Program | None = None

    def start(self) -> None:
        """Start it as `mlflow server` does, with one worker, and wait until it answers."""
        words = ["mlflow.server.fastapi_app:app", "--host", "127.0.0.1", "--port", str(self.port)]
        variables = {
            "_MLFLOW_SERVER_FILE_STORE": f"sqlite:///{self.database}",
            "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
            "_MLFLOW_SERVER_ARTIFACT_DESTINATION": str(self.folder / "artifacts"),
            "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
            "_MLFLOW_SGI_NAME": "uvicorn",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_TRACKING_URI": "",
        }
        self._process = Program(self.folder, "uvicorn", *words, **variables)
        deadline = time.monotonic() + 120
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5):
                    return
            except OSError:
                assert self._process.poll() is None, self._process.stderr
                assert time.monotonic() < deadline
                time.sleep(0.1)

    def stop(self) -> None:
        """Kill it, with what it has started."""
        if self._process is not None:
            os.killpg(self._process.pid, 9)
            self._process.wait()
            self._process = None


class Proxy:
    """Passes on what comes to its port; counts requests, and does to them what `fault` says."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.refuses = False  # every connection, also those that are open
        self.delay = 0.0  # seconds before each request goes on
        self.cuts: list[str] = []  # patterns of requests of which the answer is thrown away, each once
        self.requests: list[str] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self.refuses = True
        self._listening.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listening.accept()
            except OSError:
                return
            if self.refuses:
                near.close()
                continue
            try:
                far = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                near.close()
                continue
            cut = threading.Event()
            threading.Thread(target=self._pump, args=(near, far, cut, True), daemon=True).start()
            threading.Thread(target=self._pump, args=(far, near, cut, False), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, cut: threading.Event, asks: bool) -> None:
        try:
            while (data := source.recv(65536)) and not self.refuses:
                if asks:
                    for line in re.findall(rb"^([A-Z]+ \S+) HTTP/1.1\r$", data, re.MULTILINE):
                        self.requests.append(line.decode())
                        time.sleep(self.delay)
                        for pattern in [p for p in self.cuts if re.search(p, line.decode())]:
                            self.cuts.remove(pattern)
                            cut.set()
                elif cut.is_set():
                    break
                sink.sendall(data)
        except OSError:
            pass
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            if asks:
                end.close()
