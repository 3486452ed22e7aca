"""Freed memory stays with the process, and a process that has no glibc goes on without."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from pipeline.processes.malloc import tune_malloc
from tests.small import ROOT

FAULTS = """
import resource, sys, torch
from pipeline.environment import Resources
from pipeline.processes import become_worker

def churn() -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        held = [torch.full((1_500_000,), 1.0) for _ in range(4)]
        del held
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

if sys.argv[1] == "kept":
    become_worker(Resources.read())
churn()
print(churn())
"""


@pytest.mark.nightly
@pytest.mark.skipif(not tune_malloc(), reason="not glibc")
def test_memory_that_was_freed_is_taken_again_without_a_page_fault() -> None:
    """A worker takes 24 MB many times with next to no page faults, and glibc by itself with thousands."""

    def faults(how: str) -> int:
        words = [sys.executable, "-c", FAULTS, how]
        # What glibc's own thresholds are depends on what was freed before; these are where they start.
        start = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}
        output = subprocess.run(words, cwd=ROOT, env=os.environ | start, capture_output=True, text=True, check=True)
        return int(output.stdout)

    assert faults("kept") < 100
    assert faults("given back") > 1000


def test_another_libc_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without glibc's mark nothing is set."""
    monkeypatch.setattr("ctypes.CDLL", lambda _: object())
    assert not tune_malloc.__wrapped__()
