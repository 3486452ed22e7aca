"""Processes: how many workers, on how many threads, on what device, where; their start, their end, and signals."""

from pipeline.processes.machine import device, peak_memory
from pipeline.processes.signals import raise_if_interrupted
from pipeline.processes.workers import LAUNCHERS, become_worker, map_in_workers, prefork, run, runs_inline, worker_count

__all__ = [
    "LAUNCHERS",
    "become_worker",
    "device",
    "map_in_workers",
    "peak_memory",
    "prefork",
    "raise_if_interrupted",
    "run",
    "runs_inline",
    "worker_count",
]
