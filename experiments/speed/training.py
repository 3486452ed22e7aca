"""Training: an epoch against the hand-written script's and other libraries', two threads, the arithmetic floor."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product

import torch

from experiments.speed import peers, script
from experiments.speed.floor import Floor
from experiments.speed.models import BATCHES, CHAINS, Chain, pixels
from experiments.speed.ratio import Row, alternate, row
from pipeline.data.images import TrainingImages
from pipeline.models.precision import Precision
from pipeline.training.loop import _epoch, make_step
from pipeline.training.loss import Loss
from pipeline.training.state import TrainingState
from pipeline.training.step import Adam, AutogradGradient

__all__ = ["Training", "against_peers", "measure"]

PART = "training"
UNIT = "images/s"


class Training:
    """A training by this project, in the form that it chooses for the model, or in the plain one."""

    def __init__(
        self,
        chain: Chain,
        batch: int,
        data: torch.Tensor,
        *,
        plain: bool = False,
        precision: Precision = "float32",
        compile: bool = False,
        threads: int = 1,
        clock: Callable[[], float] = time.process_time,
    ) -> None:
        self.params = chain.params(batch, precision, compile).train
        model = chain.model()
        self.data = TrainingImages(data, 255, binarize=True)
        self.run = TrainingState(model, Adam(model, self.params), None, None)
        self.step = make_step(model, self.run.adam, self.params)
        if plain:
            self.step.gradient = AutogradGradient(model, Loss(self.params))
        self.threads, self.clock = threads, clock

    def __call__(self) -> float:
        """Train one epoch; return images per second by the clock that was given."""
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            start = self.clock()
            _epoch(self.run, self.step, self.data, self.params)
            return len(self.data) / (self.clock() - start)
        finally:
            torch.set_num_threads(before)


def measure(images: int, repetitions: int, cores: int, compiled: bool) -> Iterator[Row]:
    """Yield the ratios of both models at every batch size, those of compiled steps if these are asked for."""
    for chain in CHAINS:
        for batch in BATCHES:
            data, name = pixels(images // batch * batch), f"{chain.name}, batch {batch}"
            measures: dict[str, Callable[[], float]] = {
                "script": script.Training(chain.script(), data, batch),
                "plain": Training(chain, batch, data, plain=True),
                "this": Training(chain, batch, data),
                "bfloat16": Training(chain, batch, data, precision="bfloat16"),
                **({"compiled": Training(chain, batch, data, compile=True)} if compiled else {}),
                "floor": Floor(chain, batch),
            }
            taken = alternate(measures, repetitions)
            yield row(PART, f"{name}: this / script", taken, ("this", "script"), UNIT)
            yield row(PART, f"{name}: plain form / script", taken, ("plain", "script"), UNIT)
            yield row(PART, f"{name}: this in bfloat16 / in float32", taken, ("bfloat16", "this"), UNIT)
            yield row(PART, f"{name}: this / arithmetic floor", taken, ("this", "floor"), UNIT)
            if compiled:
                yield row(PART, f"{name}: this compiled / script", taken, ("compiled", "script"), UNIT)
                yield row(PART, f"{name}: this compiled / arithmetic floor", taken, ("compiled", "floor"), UNIT)
            if cores > 1:
                half = data[: len(data) // 2]  # on a busy machine two threads take ten times as long
                made = partial(Training, chain, batch, half, clock=time.perf_counter)
                taken = alternate({"1 thread": made(), "2 threads": made(threads=2)}, repetitions)
                yield row(PART, f"{name}: 2 threads / 1", taken, ("2 threads", "1 thread"), UNIT)


def against_peers(images: int, repetitions: int, compiled: bool, versions: dict[str, str]) -> Iterator[Row | str]:
    """Yield the ratios to other libraries, or why there are none; their versions are added to `versions`."""
    try:
        python = peers.environment()
    except peers.PeerError as error:
        yield f"peers: left out, their environment cannot be made: {error}"
        return
    for name, (program, has) in peers.PEERS.items():
        try:
            with peers.peer(program, python) as other:
                versions |= other.versions
                for chain, batch in product(filter(has, CHAINS), BATCHES):
                    data, sizes = pixels(images // batch * batch), {"widths": chain.widths, "hidden": chain.hidden}
                    theirs = partial(other, **sizes, batch=batch, images=len(data))
                    ours = {
                        "this": Training(chain, batch, data),
                        "this compiled": Training(chain, batch, data, compile=True),
                    }
                    taken = alternate({**ours, name: theirs}, repetitions)
                    for own in ours:
                        yield row("peers", f"{chain.name}, batch {batch}: {own} / {name}", taken, (own, name), UNIT)
        except (peers.PeerError, OSError) as error:
            yield f"peers: {name} left out: {error}"
