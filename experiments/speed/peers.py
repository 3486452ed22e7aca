"""Other programs that do the same work: each in a process of its own that measures when it is asked, and else waits.

Pythae and JAX lie in an environment of their own, `.cache/peers`, made by pip on the first call.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from experiments.speed.models import Chain

__all__ = ["PEERS", "Peer", "PeerError", "environment", "peer"]

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PACKAGES = ["jax", "optax", "pythae"]
PEERS: dict[str, tuple[str, Callable[[Chain], bool]]] = {  # its program, and whether it has the model
    "JAX": ("with_jax.py", lambda chain: True),
    "pythae": ("with_pythae.py", lambda chain: chain.levels == 1),
}


class PeerError(Exception):
    """Why a peer cannot be measured."""


class Peer:
    """A program that answers; its first answer is its versions."""

    def __init__(self, process: subprocess.Popen[str], log: IO[bytes]) -> None:
        self.process, self.log = process, log
        self.versions: dict[str, str] = self._answer()

    def __call__(self, **request: Any) -> float:
        """Return what is measured for a request."""
        with suppress(BrokenPipeError):  # then there is no answer either
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        return float(self._answer())

    def _answer(self) -> Any:
        if line := self.process.stdout.readline():
            return json.loads(line)
        self.log.seek(0)
        said = self.log.read().decode(errors="replace").strip().splitlines() or ["it ended"]
        raise PeerError(said[-1][:200])


@contextmanager
def peer(program: str, python: str | Path = sys.executable, **environment: str) -> Iterator[Peer]:
    """Start a program of this folder, and end it."""
    words, pipe = [str(python), str(HERE / program)], subprocess.PIPE
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen(
            words, env=os.environ | environment, stdin=pipe, stdout=pipe, stderr=log, text=True
        ) as process,
    ):
        try:
            yield Peer(process, log)
        finally:
            with suppress(BrokenPipeError):
                process.stdin.close()


def environment() -> Path:
    """Return the interpreter of the peers' environment, which is made where it is not there yet.

    Raises:
        PeerError: pip or venv has failed.
    """
    folder = ROOT / ".cache" / "peers"
    python, ready = folder / "bin" / "python", folder / ".ready"
    if not ready.exists():
        print(f"making the peers' environment in {folder.relative_to(ROOT)} (a few minutes the first time)", flush=True)
        pins = (ROOT / "constraints.txt").read_text().splitlines()
        torch = next(line for line in pins if line.startswith("torch=="))  # the same as this project's
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        for words in ([sys.executable, "-m", "venv", str(folder)], [*pip, torch], [*pip, torch, *PACKAGES]):
            done = subprocess.run(words, capture_output=True, text=True)
            if done.returncode:
                raise PeerError((done.stderr.strip().splitlines() or ["venv or pip failed"])[-1][:200])
        ready.touch()
    return python
