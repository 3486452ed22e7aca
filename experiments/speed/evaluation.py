"""Evaluation: L_k of some images against the naive form, which holds all draws at once.

The naive form runs in a process whose allocator keeps large blocks: otherwise it is up to 1.9 times slower, at random.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from experiments.speed.models import CHAINS, PIXELS, Chain, twin
from experiments.speed.peers import peer
from experiments.speed.ratio import Row, alternate, row
from experiments.speed.script import Script
from pipeline.evaluation.bounds import IMAGES, ROWS, importance_bound, many_draws
from pipeline.models import HierarchicalVAE
from pipeline.models.precision import Precision, linear_autocast
from pipeline.randomness import seeded

__all__ = ["Evaluation", "difference", "measure"]

KEPT = str(2**33)  # bytes below which freed memory stays with the process
CLOSE = 1e-4  # nats


class Evaluation:
    """L_draws of some images by this project."""

    def __init__(self, chain: Chain, images: int, draws: int, precision: Precision = "float32") -> None:
        self.model, self.draws, self.precision = chain.model(), draws, precision
        self.x = binary(images)

    def __call__(self) -> float:
        """Return rows, draws times images, per second of processor time."""
        start = time.process_time()
        with linear_autocast(self.model, self.precision):
            bounds(self.model, self.x, self.draws)
        return len(self.x) * self.draws / (time.process_time() - start)


def binary(images: int) -> Tensor:
    """Return images of few white pixels, as digits are."""
    return (torch.rand(images, PIXELS) < 0.1).float()


@torch.no_grad()
def bounds(model: HierarchicalVAE, x: Tensor, draws: int) -> Tensor:
    """Return L_draws of every image."""
    parts = [many_draws(model, part, draws).log_weight for part in x.split(IMAGES)]
    return torch.cat([importance_bound(part, draws)[0] for part in parts])


@torch.no_grad()
def difference(chain: Chain, images: int, draws: int) -> float:
    """Return the largest difference, in nats per image, of L_draws in both forms at the same draws.

    The naive form goes through this project's passes, so that both draw the same numbers.
    """
    with seeded(0, "model"):  # L_k is near -100, as on digits: the closest numbers there are 8e-6 apart
        model, x = chain.model(0.03), (torch.rand(images, PIXELS) < 0.03).float()
    script = twin(model, chain)
    with seeded(0, "same"):
        mine = bounds(model, x, draws)
    with seeded(0, "same"):
        parts = [_in_passes(script, part, draws) for part in x.split(IMAGES)]
    theirs = torch.cat([importance_bound(part, draws)[0] for part in parts])
    return (mine - theirs).abs().max().item()


def _in_passes(script: Script, x: Tensor, draws: int) -> Tensor:
    size = max(1, ROWS // len(x))
    return torch.cat([script.log_weight(x, min(size, draws - done)) for done in range(0, draws, size)])


def measure(images: int, draws: int, repetitions: int) -> Iterator[Row]:
    """Yield the ratio of either model, after both forms were seen to give the same."""
    # Where glibc takes no threshold as high as this, the third word does the same.
    raised = {"MALLOC_MMAP_THRESHOLD_": KEPT, "MALLOC_TRIM_THRESHOLD_": KEPT, "MALLOC_MMAP_MAX_": "0"}
    with peer("script.py", **raised) as naive:
        for chain in CHAINS:
            off = difference(chain, images, draws)
            if not off <= CLOSE:
                raise SystemExit(f"evaluation: L_{draws} of the two forms differ by {off} nats at the same draws")
            request = {"widths": chain.widths, "hidden": chain.hidden, "images": images, "draws": draws}
            measures = {
                "this": Evaluation(chain, images, draws),
                "bfloat16": Evaluation(chain, images, draws, "bfloat16"),
                "naive": partial(naive, **request),
            }
            taken = alternate(measures, repetitions)
            yield row("evaluation", f"{chain.name}, L_{draws}: this / naive", taken, ("this", "naive"), "rows/s")
            what = f"{chain.name}, L_{draws}: this in bfloat16 / in float32"
            yield row("evaluation", what, taken, ("bfloat16", "this"), "rows/s")
