"""Where the time goes: the torch profiler's tables of a training epoch and of the evaluation."""

from __future__ import annotations

from collections.abc import Callable

from torch.profiler import ProfilerActivity, profile

from experiments.speed.evaluation import Evaluation
from experiments.speed.models import BATCHES, CHAINS, pixels
from experiments.speed.training import Training

__all__ = ["show"]

STEPS = 50  # of a training
LINES = 14


def show(draws: int) -> None:
    """Print the tables of both models."""
    for chain in CHAINS:
        for batch in BATCHES[:2]:
            step = Training(chain, batch, pixels(STEPS * batch))
            _table(f"training, {chain.name}, batch {batch}, {STEPS} steps", step)
        _table(f"evaluation, {chain.name}, 20 images, L_{draws}", Evaluation(chain, 20, draws))


def _table(title: str, work: Callable[[], float]) -> None:
    work()
    with profile(activities=[ProfilerActivity.CPU]) as found:
        work()
    print(f"\n{title}")
    print(found.key_averages().table(sort_by="self_cpu_time_total", row_limit=LINES, max_name_column_width=40))
