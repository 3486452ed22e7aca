"""Workers on this machine, each in its own session: the terminal's signals reach their parent alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import final

from pipeline import display
from pipeline.display import Pipe
from pipeline.environment import PARENT, STATUS, Resources
from pipeline.processes import machine, preforked, signals
from pipeline.processes.preforked import PreforkedWorker

__all__ = ["Local", "Process"]


@final
class Process:
    """A worker process."""

    def __init__(
        self, command: Sequence[str], folder: Path, environment: Mapping[str, str], output: Pipe | None = None
    ) -> None:
        words, own = [sys.executable, "-m", *command], {**environment, PARENT: str(os.getpid())}
        sink = output.sink if output else None
        self.process = subprocess.Popen(words, env=own, cwd=folder, start_new_session=True, stdout=sink, stderr=sink)
        self.output = output
        if output:
            output.close_sink()
        signals.children.add(self.process)

    def poll(self) -> int | None:
        """Return the exit code of a process that has ended: below 0 for a signal."""
        code = self.process.poll()
        if code is not None:
            signals.children.discard(self.process)
            display.close(self.output)
        return code

    def interrupt(self) -> None:
        """Ask for a clean end."""
        self.process.send_signal(signal.SIGINT)

    def kill(self) -> None:
        """End it at once."""
        self.process.kill()


@final
class Local:
    """Starts processes here: on the GPUs' slots where there are GPUs, else on the cores."""

    def __init__(self, resources: Resources) -> None:
        self.pins = machine.slots(resources)
        self.slots = len(self.pins) or machine.cores()

    def start(
        self, command: Sequence[str], folder: Path, environment: Mapping[str, str], slot: int
    ) -> Process | PreforkedWorker:
        """Start a Python module with its arguments."""
        pin = self.pins[slot % len(self.pins)] if self.pins else {}
        watched = {STATUS: "1"} if display.current() else {}
        if not pin and (spare := preforked.acquire(environment)) is not None:
            worker: Process | PreforkedWorker = spare
            spare.start(command, folder, {**environment, **watched, PARENT: str(os.getpid())})
        else:
            worker = Process(command, folder, {**environment, **watched, **pin}, Pipe() if watched else None)
        if worker.output and (picture := display.current()):
            picture.add(worker.output)
        return worker

    def close(self) -> None:
        """Do nothing: local processes are no cluster that has to be left."""
