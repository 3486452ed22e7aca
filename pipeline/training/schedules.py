"""Learning rate schedules: the factor of the learning rate at a fraction of the training."""

from __future__ import annotations

import math
from collections.abc import Callable

__all__ = ["SCHEDULES"]


def _staged(progress: float) -> float:
    """10^(-i/7) over the i-th of 8 stages whose lengths are as 3^i: 1 + 3 + ... + 3^7 = 3280."""
    stage = math.floor(math.log(2 * 3280 * min(max(progress, 0.0), 1.0) + 1, 3) + 1e-9)
    return math.pow(10, -min(stage, 7) / 7)


SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda progress: 1.0,
    "cosine": lambda progress: 0.5 * (1 + math.cos(math.pi * min(progress, 1.0))),
    "staged": _staged,
}
"""Factor of the learning rate at a fraction of the horizon. `staged`: Burda et al. (2016), section 5."""
