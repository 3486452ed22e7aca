"""Worker processes: how many, on how many threads, on what device, where, and the starting and ending of them."""

from pipeline.launch.machine import device
from pipeline.launch.workers import LAUNCHERS, become_worker, fork, here, run, share, workers
from pipeline.signals import heed

__all__ = ["LAUNCHERS", "become_worker", "device", "fork", "heed", "here", "run", "share", "workers"]
