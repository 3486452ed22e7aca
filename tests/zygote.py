"""A process that has imported everything and forks a child for each order: a stage without the seconds of its imports.

It reads orders, one JSON object a line: the module of a stage, its words, the folder, environment variables, a file for
what is said, and after how many seconds to kill the child, or none. It answers with the child's wait status.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

__all__ = ["Zygote"]


class Zygote:
    """The parent's side."""

    def __init__(self) -> None:
        root = Path(__file__).resolve().parents[1]
        environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.zygote"],
            cwd=root,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, module: str, *words: str, folder: Path, seconds: float | None = None, **environment: str) -> int:
        """Run a stage in a fresh child; return its exit code, below 0 for the signal that killed it."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        order = {"module": module, "words": words, "folder": str(folder), "seconds": seconds}
        self.process.stdin.write(json.dumps(order | {"environment": environment}) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def close(self) -> None:
        """End it."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()


def _child(order: dict[str, Any]) -> None:
    output = os.open("output", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ.update(order["environment"])
    sys.argv = [order["module"], *order["words"]]
    from pipeline.processes.entry import run_main

    try:
        run_main(lambda: sys.modules[order["module"]].main(*order["words"]))
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    sys.stdout.flush()
    os._exit(code)


def _wait(child: int, seconds: float | None) -> int:
    deadline = None if seconds is None else time.monotonic() + seconds
    while True:
        child_ended, status = os.waitpid(child, 0 if deadline is None else os.WNOHANG)
        if child_ended:
            return os.waitstatus_to_exitcode(status)
        if deadline is not None and time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            deadline = None
        time.sleep(0.002)


def main() -> None:
    """Import, then serve orders until there are none."""
    import matplotlib.pyplot  # noqa: F401
    import torch

    import pipeline.stages.sweep
    import pipeline.stages.train  # noqa: F401

    torch.set_num_threads(1)
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            os.chdir(order["folder"])
            _child(order)
        print(_wait(child, order["seconds"]), flush=True)


if __name__ == "__main__":
    main()
