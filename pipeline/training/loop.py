"""Training: `fit` climbs an objective and yields a `Record` after every epoch; there are no callbacks.

The data set lies on the device as uint8 and is binarized anew at each presentation. Every random number of
epoch e is drawn from a stream that (seed, e) alone determines, so a resumed training needs no generator's
state and goes on exactly as if it had never stopped; the caller's own random state is left alone.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline import faults
from pipeline.data import Splits
from pipeline.data.images import Presented, frozen, images
from pipeline.errors import InputError, RunError
from pipeline.log import STATE, Log, Record
from pipeline.models import HierarchicalVAE, build, collect
from pipeline.models.checkpoint import read_state, write_state
from pipeline.objectives import ELBO, climbed, elbo
from pipeline.params import ModelParams, TrainParams
from pipeline.progress import Reporter, watched
from pipeline.randomness import seeded
from pipeline.training.adam import Adam
from pipeline.training.step import CompiledStep, Step, steps

__all__ = [
    "SCHEDULES",
    "NonFiniteError",
    "Record",
    "best_record",
    "fit",
    "initial_model",
    "milestones",
    "print_progress",
    "terms",
]

MILESTONE = "epoch-"
VALID_ROWS = 8192  # rows of one validation pass, draws times images


class NonFiniteError(RunError):
    """A bound that is not finite, with the epoch, the step and the term that broke."""


def fit(
    model: HierarchicalVAE,
    splits: Splits,
    params: TrainParams,
    *,
    seed: int,
    device: torch.device | None = None,
    folder: Path | None = None,
) -> Iterator[Record]:
    """Train `model` in place and yield a record an epoch; at the end the model holds its best weights, or the last.

    Best means the highest `valid/objective`, of the epochs after the warm-up. With a `folder`, every epoch's state and
    then its line in the log (`pipeline.log`) are written there before its record is yielded, and a call that finds a
    state yields the records that were there and goes on; the weights of the milestones are kept there too
    (`milestones`).

    Raises:
        NonFiniteError: a term is not finite; the state of the last good epoch stays in `folder`, the weights are lost.
    """
    model.to(device)
    binarize = splits.binary and splits.binarization == "dynamic"
    train = Presented(torch.as_tensor(splits.train, device=device), splits.scale, binarize, splits.dequantized)
    valid = torch.as_tensor(splits.valid, device=device)
    valid = frozen(valid, splits.scale, f"{splits.digest}/valid") if splits.dequantized else valid
    valid = images(valid, splits.scale)
    run = _Run(model, Adam(model, params), folder, params.ema)
    yield from run.resume()
    step = steps(model, run.adam, params)
    while run.epoch < params.epochs and not run.stale(params.patience):
        start = time.perf_counter()
        with seeded(seed, f"epoch {run.epoch}"):
            metrics = _epoch(run, step, train, params)
        with run.averaged(), torch.no_grad():
            with seeded(seed, "statistics"):
                collect(model, map(train.batch, torch.arange(len(train), device=train.device).split(params.batch_size)))
            with seeded(seed, "valid"):
                metrics |= _validate(model, valid, params)
            _require_finite(metrics, run.epoch, run.step)
            run.rank(metrics["valid/objective"], run.epoch > params.warmup_end(model.depth), params.keep)
            if run.epoch in params.milestones:
                run.mark()
        run.seconds += time.perf_counter() - start
        yield run.keep(metrics)
    model.load_state_dict(run.kept)


def _validate(model: HierarchicalVAE, valid: Float[Tensor, "n units"], params: TrainParams) -> dict[str, float]:
    """Measure the terms on the validation set, L_k of their draws, and the objective as it is after the warm-up."""
    draws = params.draws_behind_valid
    total = torch.zeros(model.depth + 5, device=valid.device)
    for x in valid.split(max(1, VALID_ROWS // draws)):
        bound = elbo(model, x, draws)
        objective = climbed(bound, params, math.inf).mean()
        total += torch.cat([objective[None], bound.iwae.mean()[None], terms(bound)]) * (len(x) / len(valid))
    selected = {"valid/objective": total[0].item(), "valid/iwae": total[1].item()}
    return _named("valid/", total[2:], model.depth) | selected


def _epoch(run: _Run, step: Step | CompiledStep, train: Presented, params: TrainParams) -> dict[str, float]:
    """Run one epoch of updates and return its mean terms."""
    model = run.model
    horizon = params.horizon or params.epochs
    positions = torch.randperm if params.shuffle else torch.arange
    order = positions(len(train), device=train.device)
    total = torch.zeros(model.depth + 1, device=train.device)
    model.train()
    with step.epoch():
        starts = range(0, len(train), params.batch_size)
        for start in watched(starts, f"epoch {run.epoch + 1}", "batches", long=True):
            at = run.epoch + start / len(train)
            x = train.batch(order[start : start + params.batch_size])
            bound, loss = step(x, at, params.learning_rate * SCHEDULES[params.schedule](at / horizon))
            run.step += 1
            if not math.isfinite(loss.item()):
                _require_finite(_named("train/", terms(bound), model.depth), run.epoch + 1, run.step)
                raise NonFiniteError(f"epoch {run.epoch + 1}, step {run.step}: the objective is {-loss.item()}")
            run.follow()
            total.add_(_parts(bound), alpha=len(x) / len(train))
    run.epoch += 1
    return _named("train/", _whole(total), model.depth)


class _Run:
    """Where a training stands: weights, their average, optimizer, counters, and the weights that are to be kept."""

    def __init__(self, model: HierarchicalVAE, adam: Adam, folder: Path | None, decay: float | None) -> None:
        self.model, self.adam, self.folder, self.decay = model, adam, folder, decay
        self.epoch, self.step, self.seconds = 0, 0, 0.0
        self.best_epoch, self.best_value = 0, -math.inf
        self.log = None if folder is None else Log(folder)
        self.unsynced: list[Record] = []  # whose lines in the log may not have reached the disk yet
        self.kept = _copy(model.state_dict())
        self.average = {} if decay is None else _copy(dict(model.named_parameters()))

    def follow(self) -> None:
        """Move the average of the weights towards them: decay * average + (1 - decay) * weights."""
        if self.decay is not None:
            for name, weights in self.model.named_parameters():
                self.average[name].lerp_(weights.detach(), 1 - self.decay)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Put the averaged weights, where there are any, into the model, and take them out again."""
        own = _copy(self.model.state_dict()) if self.average else {}
        self.model.load_state_dict(self.average, strict=False)
        try:
            yield
        finally:
            self.model.load_state_dict(own, strict=False)

    def rank(self, value: float, eligible: bool, keep: str) -> None:
        """Note the weights that the model now holds if their validation objective is the highest so far.

        An epoch that is not eligible takes the place of the best, so that patience starts after the last of them.
        The weights that are kept are the best, or, for keep `last`, those of every epoch in turn.
        """
        best = not eligible or value > self.best_value
        if best:
            self.best_epoch, self.best_value = self.epoch, value if eligible else -math.inf
        if best or keep == "last":
            self.kept = _copy(self.model.state_dict())

    def mark(self) -> None:
        """Keep the weights that the model now holds as those of a milestone, if there is a folder."""
        if self.folder is not None:
            write_state(self.folder / f"{MILESTONE}{self.epoch}.safetensors", self.model.state_dict(), self.epoch)

    def stale(self, patience: int | None) -> bool:
        """Has `valid/objective` not risen for `patience` epochs?"""
        return patience is not None and self.epoch - self.best_epoch >= patience

    def keep(self, metrics: dict[str, float]) -> Record:
        """Write the state, and the epoch's line in the log, if there is a folder; return the epoch's record.

        The state comes first and holds the records that the log may lack, whatever stops the process or the machine.
        """
        record = Record(self.epoch, self.step, self.seconds, time.time_ns() // 1_000_000, metrics)
        if self.folder is not None and self.log is not None:
            self.unsynced.append(record)
            tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
            tensors |= {f"kept.{name}": value for name, value in self.kept.items()}
            tensors |= {f"average.{name}": value for name, value in self.average.items()}
            tensors |= {f"adam.{name}": value for name, value in self.adam.moments.items()}
            counters = [self.epoch, self.step, self.seconds, self.best_epoch, self.best_value]
            write_state(self.folder / STATE, tensors, [*counters, *map(asdict, self.unsynced)])
            faults.reached("state-written")
            if self.log.append(record.entry, sync=True):
                self.unsynced = []
        return record

    def resume(self) -> list[Record]:
        """Take up the state in the folder, if there is one, and return the records up to it."""
        if self.folder is None or self.log is None:
            return []
        self.log.repair()
        if not (self.folder / STATE).exists():
            self.log.keep_epochs(0)
            return []
        tensors, counters = read_state(self.folder / STATE)
        try:
            self.epoch, self.step, self.seconds, self.best_epoch, self.best_value, *unsynced = counters
            self.model.load_state_dict(_part(tensors, "model."))
            self.kept = {name: value.to(self.model_device) for name, value in _part(tensors, "kept.").items()}
            self.average = {name: value.to(self.model_device) for name, value in _part(tensors, "average.").items()}
            self.adam.load(_part(tensors, "adam."))
            logged = {record.epoch: record for record in self.log.records() if record.epoch <= self.epoch}
            lacking = [record for one in unsynced if (record := Record(**one)).epoch not in logged]
            records = [*logged.values(), *lacking]
            if [record.epoch for record in records] != list(range(1, self.epoch + 1)):
                raise ValueError(f"{len(records)} records where epoch {self.epoch} was reached")
        except (OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(
                f"{self.folder}: not the state of this training; delete it to start anew: {reason}"
            ) from None
        self.log.keep_epochs(self.epoch)
        if lacking:
            self.log.append(*(record.entry for record in lacking))
        return records

    @property
    def model_device(self) -> torch.device:
        """Where the weights lie."""
        return next(self.model.parameters()).device


def _copy(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in state.items()}


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def initial_model(params: ModelParams, splits: Splits, seed: int) -> HierarchicalVAE:
    """Return the model that a training with this seed begins with."""
    with seeded(seed, "init"):
        mean = torch.as_tensor(splits.mean, dtype=torch.get_default_dtype())
        return build(params, mean, splits.shape)


def print_progress(reporter: Reporter, record: Record, epochs: int) -> None:
    """Print a line for the first, the last and each fifth epoch of a training, and at least every 30 seconds."""
    bound = record.metrics["valid/elbo"]
    text = f"epoch {record.epoch:4d} of {epochs}, valid/elbo {bound:9.3f}, {record.seconds:.0f} s"
    reporter.step(record.epoch, epochs, text, record.seconds)


def best_record(records: Sequence[Record], params: TrainParams) -> Record:
    """Return the record of the epoch whose weights `fit` leaves in the model."""
    if params.keep == "last":
        return records[-1]
    depth = sum(name.startswith("valid/rate/") for name in records[0].metrics)
    after = [record for record in records if record.epoch > params.warmup_end(depth)]
    return max(after, key=lambda record: record.metrics["valid/objective"]) if after else records[-1]


def milestones(folder: Path) -> dict[int, dict[str, Tensor]]:
    """Return by epoch the weights that `fit` kept in `folder`."""
    found = [read_state(path) for path in folder.glob(f"{MILESTONE}*.safetensors")]
    return {epoch: weights for weights, epoch in sorted(found, key=lambda item: int(item[1]))}


def terms(bound: ELBO) -> Float[Tensor, " depth_and_three"]:
    """Return the batch's mean elbo, reconstruction, kl and rates, in this order."""
    return _whole(_parts(bound))


def _parts(bound: ELBO) -> Float[Tensor, " depth_and_one"]:
    return torch.cat([bound.reconstruction[None], bound.rate]).mean((1, 2))


def _whole(parts: Float[Tensor, " depth_and_one"]) -> Float[Tensor, " depth_and_three"]:
    reconstruction, rates = parts[0], parts[1:]
    kl = rates.sum()
    return torch.cat([torch.stack([reconstruction - kl, reconstruction, kl]), rates])


def _named(prefix: str, values: Tensor, depth: int) -> dict[str, float]:
    names = ["elbo", "reconstruction", "kl", *(f"rate/z{t}" for t in range(1, depth + 1))]
    return dict(zip([prefix + name for name in names], values.tolist(), strict=True))


def _require_finite(metrics: dict[str, float], epoch: int, step: int) -> None:
    # What is made of other terms breaks with them: name the part.
    for name in sorted(metrics, key=lambda name: name.endswith(("objective", "elbo", "kl"))):
        if not math.isfinite(metrics[name]):
            raise NonFiniteError(
                f"epoch {epoch}, step {step}: {name} is {metrics[name]};"
                " a lower train.learning_rate or train.clip may help"
            )


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
