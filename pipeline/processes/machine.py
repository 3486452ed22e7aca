"""The machine: its cores and GPUs, and how workers share them.

Workers times threads is at most the cores: two processes of two threads each on two cores ran at a tenth of
the speed of two processes of one thread. A GPU takes `floor(1 / share)` workers, the share being
CAVE_GPUS_PER_WORKER; one above 1 gives each worker so many GPUs, of which a training uses the first.
"""

from __future__ import annotations

import math
import os
import re
import resource
import shutil
import subprocess
import sys
from itertools import takewhile
from typing import TYPE_CHECKING

from pipeline.environment import Resources, visible_gpus
from pipeline.errors import InputError

if TYPE_CHECKING:
    import torch

__all__ = ["cores", "device", "peak_memory", "slots"]

GPU = re.compile(r"^GPU (\d+): .*\(UUID: (GPU-[^)]+)\)", re.MULTILINE)
PART = re.compile(r"\(UUID: (MIG-[^)]+)\)")


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def device(name: str) -> torch.device:
    """Return the device of a name; `auto` is CUDA where there is a GPU.

    Raises:
        InputError: it cannot be used here.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(name)
        torch.zeros(1, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"CAVE_DEVICE: '{name}' is not usable here: {str(error).splitlines()[0]}") from None
    return chosen


def peak_memory(device: torch.device) -> float:
    """Return the most memory that this process has held so far, in MiB: of a GPU, or of the machine."""
    import torch

    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest / 2**10 if sys.platform != "darwin" else largest / 2**20


def slots(resources: Resources) -> list[dict[str, str]]:
    """Return the environment of each worker that the GPUs have room for, of different GPUs first; none without GPUs."""
    share = 1.0 if resources.gpus_per_worker is None else resources.gpus_per_worker
    if share == 0 or resources.device not in ("auto", "cuda"):  # `cuda:1` is for all workers
        return []
    gpus, wide = _gpus(), max(1, int(share))
    if gpus and wide > len(gpus):
        raise InputError(f"CAVE_GPUS_PER_WORKER: {wide} given, but there are {len(gpus)} GPUs")
    groups = [gpus[start : start + wide] for start in range(0, len(gpus) - wide + 1, wide)]
    rounds = math.floor(1 / share + 1e-9) if share < 1 else 1
    return [{"CUDA_VISIBLE_DEVICES": ",".join(group)} for _ in range(rounds) for group in groups]


def _gpus() -> list[str]:
    """Return the GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them; CUDA is not started for that."""
    chosen = visible_gpus()
    if (tool := shutil.which("nvidia-smi")) is None:
        import torch

        visible = torch.cuda.device_count()
        return [str(index) for index in range(visible)] if chosen is None else chosen[:visible]
    listing = subprocess.run([tool, "-L"], capture_output=True, text=True)
    gpus = GPU.findall(listing.stdout) if listing.returncode == 0 else []
    indices, ids = [index for index, _ in gpus], [uuid for _, uuid in gpus] + PART.findall(listing.stdout)
    if chosen is None:
        return indices

    def exists(word: str) -> bool:
        return word in indices or (word.startswith(("GPU-", "MIG-")) and any(uuid.startswith(word) for uuid in ids))

    return list(takewhile(exists, chosen))  # CUDA too stops at the first that does not exist
