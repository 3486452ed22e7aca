"""What every program of the package does first, before it imports anything heavy."""

from __future__ import annotations

import gc
import os

from pipeline.location import use_project_code

__all__ = ["OPENMP", "prepare_process", "set_thread_policy"]

OPENMP = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")  # how OpenMP's idle threads wait


def prepare_process() -> None:
    """Prepare a program's process: the project's own code, sleeping threads, and no garbage collection for imports.

    Imports leave no garbage, and to search them for it takes a quarter of their time: `run_main` turns collection on
    again. A process that runs another copy of the package than the project's starts again with that one.
    """
    gc.disable()
    set_thread_policy()
    use_project_code()


def set_thread_policy() -> None:
    """Let OpenMP's idle threads sleep, unless the user has chosen otherwise; OpenMP reads it when PyTorch is loaded.

    By default they spin, and keep the core from a thread that has work.
    """
    if not set(OPENMP) & os.environ.keys():
        os.environ[OPENMP[0]] = "passive"
