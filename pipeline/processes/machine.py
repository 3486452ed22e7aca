"""The machine: its cores and GPUs, and how workers share them.

Workers times threads is at most the cores: two processes of two threads each on two cores ran at a tenth of
the speed of two processes of one thread. A GPU takes `floor(1 / share)` workers, the share being
CAVE_GPUS_PER_WORKER; one above 1 gives each worker so many GPUs, of which a training uses the first.
"""

from __future__ import annotations

import math
import os
import re
import shutil
import subprocess
from itertools import takewhile
from typing import TYPE_CHECKING

from pipeline.errors import InputError

if TYPE_CHECKING:
    import torch

__all__ = ["cores", "count", "device", "number", "slots"]

GPU = re.compile(r"^GPU (\d+): .*\(UUID: (GPU-[^)]+)\)", re.MULTILINE)
PART = re.compile(r"\(UUID: (MIG-[^)]+)\)")


def count(name: str, default: int) -> int:
    """Return the whole number from 1 that the environment gives."""
    text = os.environ.get(name, str(default))
    if not text.isdecimal() or int(text) < 1:
        raise InputError(f"{name}: '{text}' given; allowed: a whole number from 1")
    return int(text)


def number(name: str, default: float) -> float:
    """Return the number, a part of 1 or whole, that the environment gives."""
    text = os.environ.get(name, str(default))
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (0 <= value <= 1 or (math.isfinite(value) and value == int(value) > 1)):
        raise InputError(f"{name}: '{text}' given; allowed: a number from 0 to 1, or a whole number")
    return value


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def device() -> torch.device:
    """Return the device that CAVE_DEVICE names; `auto`, or nothing, takes CUDA where there is one."""
    import torch

    name = os.environ.get("CAVE_DEVICE", "auto")
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(name)
        torch.zeros(1, device=found)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"CAVE_DEVICE: '{name}' is not usable here: {str(error).splitlines()[0]}") from None
    return found


def slots() -> list[dict[str, str]]:
    """Return the environment of each worker that the GPUs have room for, of different GPUs first; none without GPUs."""
    share, wanted = number("CAVE_GPUS_PER_WORKER", 1), os.environ.get("CAVE_DEVICE", "auto")
    if share == 0 or wanted not in ("auto", "cuda"):  # a device with a number is the choice of the user, for all
        return []
    gpus, wide = _gpus(), max(1, int(share))
    if gpus and wide > len(gpus):
        raise InputError(f"CAVE_GPUS_PER_WORKER: {wide} given, but there are {len(gpus)} GPUs")
    groups = [gpus[start : start + wide] for start in range(0, len(gpus) - wide + 1, wide)]
    rounds = math.floor(1 / share + 1e-9) if share < 1 else 1
    return [{"CUDA_VISIBLE_DEVICES": ",".join(group)} for _ in range(rounds) for group in groups]


def _gpus() -> list[str]:
    """Return the GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them; CUDA is not started for that."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if (tool := shutil.which("nvidia-smi")) is None:
        import torch

        visible = torch.cuda.device_count()
        return [str(index) for index in range(visible)] if given is None else _words(given)[:visible]
    told = subprocess.run([tool, "-L"], capture_output=True, text=True)
    found = GPU.findall(told.stdout) if told.returncode == 0 else []
    indices, ids = [index for index, _ in found], [uuid for _, uuid in found] + PART.findall(told.stdout)
    if given is None:
        return indices

    def known(word: str) -> bool:
        return word in indices or (word.startswith(("GPU-", "MIG-")) and any(uuid.startswith(word) for uuid in ids))

    return list(takewhile(known, _words(given)))  # CUDA too ends at the first that it does not know


def _words(given: str) -> list[str]:
    return [word.strip() for word in given.split(",")] if given.strip() else []
