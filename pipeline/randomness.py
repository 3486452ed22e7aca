"""Streams of random numbers that a seed and a name determine."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["seeded"]


@contextmanager
def seeded(seed: int, stream: str) -> Iterator[None]:
    """Draw from the stream that (seed, name) determines; afterwards the caller's random state is as before."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(int.from_bytes(hashlib.sha256(f"{seed}/{stream}".encode()).digest()[:7]))
        yield
