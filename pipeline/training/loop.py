"""Training: `fit` maximizes an objective and yields a `Record` after every epoch; there are no callbacks.

The data set lies on the device as uint8 and is binarized anew at each presentation. Every random number of
epoch e is drawn from a stream that (seed, e) alone determines, so a resumed training needs no generator's
state and is, bit for bit, the one that was never interrupted; the caller's own random state is left alone.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline import faults
from pipeline.data import Splits
from pipeline.data.images import TrainingImages, frozen, to_unit_interval
from pipeline.errors import InputError
from pipeline.log import STATE, Log, Record
from pipeline.models import HierarchicalVAE, build, update_bn
from pipeline.models.checkpoint import read_state, write_state
from pipeline.objectives import elbo, training_objective
from pipeline.params import ModelParams, TrainParams
from pipeline.progress import Reporter, track_progress
from pipeline.randomness import seeded
from pipeline.training.compiled import CompiledStep
from pipeline.training.schedules import SCHEDULES
from pipeline.training.step import Adam, Step
from pipeline.training.terms import NonFiniteError, mean_parts, named, require_finite, terms, with_sums

__all__ = ["best_record", "fit", "initial_model", "make_step", "milestones", "print_progress"]

MILESTONE = "epoch-"
VALID_ROWS = 8192  # rows of one validation pass, draws times images


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
    state yields its records and resumes; the weights of the milestones are saved there too (`milestones`).

    Raises:
        NonFiniteError: a term is not finite; the state of the last good epoch stays in `folder`, the weights are lost.
    """
    model.to(device)
    binarize = splits.binary and splits.binarization == "dynamic"
    train = TrainingImages(torch.as_tensor(splits.train, device=device), splits.scale, binarize, splits.dequantized)
    valid = torch.as_tensor(splits.valid, device=device)
    valid = frozen(valid, splits.scale, f"{splits.digest}/valid") if splits.dequantized else valid
    valid = to_unit_interval(valid, splits.scale)
    run = _Run(model, Adam(model, params), folder, params.ema)
    yield from run.resume()
    step = make_step(model, run.adam, params)
    while run.epoch < params.epochs and not run.should_stop(params.patience):
        start = time.perf_counter()
        with seeded(seed, f"epoch {run.epoch}"):
            metrics = _epoch(run, step, train, params)
        with run.ema_weights(), torch.no_grad():
            with seeded(seed, "statistics"):
                update_bn(
                    model, map(train.batch, torch.arange(len(train), device=train.device).split(params.batch_size))
                )
            with seeded(seed, "valid"):
                metrics |= _validate(model, valid, params)
            require_finite(metrics, run.epoch, run.step)
            run.update_best(metrics["valid/objective"], run.epoch > params.warmup_end(model.depth), params.keep)
            if run.epoch in params.milestones:
                run.save_milestone()
        run.seconds += time.perf_counter() - start
        yield run.checkpoint(metrics)
    model.load_state_dict(run.best_weights)


def make_step(model: HierarchicalVAE, adam: Adam, params: TrainParams) -> Step | CompiledStep:
    """Return the function that takes one step of training: compiled where `train.compile` asks for it and it can be."""
    compiled = params.compile and CompiledStep.supports(model, params)
    return (CompiledStep if compiled else Step)(model, adam, params)


def _validate(model: HierarchicalVAE, valid: Float[Tensor, "n units"], params: TrainParams) -> dict[str, float]:
    """Measure the terms on the validation set, L_k of their draws, and the objective as it is after the warm-up."""
    draws = params.draws_behind_valid
    total = torch.zeros(model.depth + 5, device=valid.device)
    for x in valid.split(max(1, VALID_ROWS // draws)):
        bound = elbo(model, x, draws)
        objective = training_objective(bound, params, math.inf).mean()
        total += torch.cat([objective[None], bound.iwae.mean()[None], terms(bound)]) * (len(x) / len(valid))
    selected = {"valid/objective": total[0].item(), "valid/iwae": total[1].item()}
    return named("valid/", total[2:], model.depth) | selected


def _epoch(run: _Run, step: Step | CompiledStep, train: TrainingImages, params: TrainParams) -> dict[str, float]:
    """Run one epoch of updates and return its mean terms, the norm of the gradient among them where it is clipped."""
    model, adam = run.model, run.adam
    horizon = params.schedule_epochs or params.epochs
    positions = torch.randperm if params.shuffle else torch.arange
    order = positions(len(train), device=train.device)
    total = torch.zeros(model.depth + 1, device=train.device)
    norm, rate = torch.zeros((), device=train.device), 0.0
    model.train()
    with step.epoch():
        starts = range(0, len(train), params.batch_size)
        for start in track_progress(starts, f"epoch {run.epoch + 1}", "batches", long=True):
            at = run.epoch + start / len(train)
            x = train.batch(order[start : start + params.batch_size])
            rate = params.learning_rate * SCHEDULES[params.schedule](at / horizon)
            bound, loss = step(x, at, rate)
            run.step += 1
            if not math.isfinite(loss.item()):
                require_finite(named("train/", terms(bound), model.depth), run.epoch + 1, run.step)
                raise NonFiniteError(f"epoch {run.epoch + 1}, step {run.step}: the objective is {-loss.item()}")
            run.update_ema()
            share = len(x) / len(train)
            total.add_(mean_parts(bound), alpha=share)
            if adam.norm is not None:
                norm.add_(adam.norm, alpha=share)
    run.epoch += 1
    others = {"train/learning_rate": rate}  # of the last step
    if adam.norm is not None:
        others["train/gradient_norm"] = norm.item()
    return named("train/", with_sums(total), model.depth) | others


class _Run:
    """The state of a training: weights, their average, optimizer, counters, and the best weights so far."""

    def __init__(self, model: HierarchicalVAE, adam: Adam, folder: Path | None, decay: float | None) -> None:
        self.model, self.adam, self.folder, self.decay = model, adam, folder, decay
        self.epoch, self.step, self.seconds = 0, 0, 0.0
        self.best_epoch, self.best_value = 0, -math.inf
        self.log = None if folder is None else Log(folder)
        self.unsynced: list[Record] = []  # whose lines in the log may not have reached the disk yet
        self.best_weights = _copy(model.state_dict())
        self.average = {} if decay is None else _copy(dict(model.named_parameters()))

    def update_ema(self) -> None:
        """Update the exponential moving average of the weights: decay * average + (1 - decay) * weights."""
        if self.decay is not None:
            for name, weights in self.model.named_parameters():
                self.average[name].lerp_(weights.detach(), 1 - self.decay)

    @contextmanager
    def ema_weights(self) -> Iterator[None]:
        """Use the averaged weights, where there are any, as the model's within this context."""
        current = _copy(self.model.state_dict()) if self.average else {}
        self.model.load_state_dict(self.average, strict=False)
        try:
            yield
        finally:
            self.model.load_state_dict(current, strict=False)

    def update_best(self, value: float, eligible: bool, keep: str) -> None:
        """Save the model's weights as the best if their validation objective is the highest so far.

        An epoch that is not eligible counts as the best, so that patience starts after the last of them. For keep
        `last` the weights of every epoch are saved in turn.
        """
        best = not eligible or value > self.best_value
        if best:
            self.best_epoch, self.best_value = self.epoch, value if eligible else -math.inf
        if best or keep == "last":
            self.best_weights = _copy(self.model.state_dict())

    def save_milestone(self) -> None:
        """Save the model's weights as those of a milestone, if there is a folder."""
        if self.folder is not None:
            write_state(self.folder / f"{MILESTONE}{self.epoch}.safetensors", self.model.state_dict(), self.epoch)

    def should_stop(self, patience: int | None) -> bool:
        """Return whether `valid/objective` has not risen for `patience` epochs."""
        return patience is not None and self.epoch - self.best_epoch >= patience

    def checkpoint(self, metrics: dict[str, float]) -> Record:
        """Write the state, and the epoch's line in the log, if there is a folder; return the epoch's record.

        The state comes first and holds the records that the log may lack, whatever stops the process or the machine.
        """
        record = Record(self.epoch, self.step, self.seconds, time.time_ns() // 1_000_000, metrics)
        if self.folder is not None and self.log is not None:
            self.unsynced.append(record)
            tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
            tensors |= {f"kept.{name}": value for name, value in self.best_weights.items()}
            tensors |= {f"average.{name}": value for name, value in self.average.items()}
            tensors |= {f"adam.{name}": value for name, value in self.adam.moments.items()}
            counters = [self.epoch, self.step, self.seconds, self.best_epoch, self.best_value]
            write_state(self.folder / STATE, tensors, [*counters, *map(asdict, self.unsynced)])
            faults.crash_point("state-written")
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
            self.best_weights = {name: value.to(self.model_device) for name, value in _part(tensors, "kept.").items()}
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
        """The device of the weights."""
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


def best_record(records: Sequence[Record], params: TrainParams, depth: int) -> Record:
    """Return the record of the epoch whose weights `fit` leaves in a model of `depth` levels."""
    if params.keep == "last":
        return records[-1]
    after = [record for record in records if record.epoch > params.warmup_end(depth)]
    return max(after, key=lambda record: record.metrics["valid/objective"]) if after else records[-1]


def milestones(folder: Path) -> dict[int, dict[str, Tensor]]:
    """Return by epoch the weights of the milestones that `fit` saved in `folder`."""
    states = [read_state(path) for path in folder.glob(f"{MILESTONE}*.safetensors")]
    return {epoch: weights for weights, epoch in sorted(states, key=lambda item: int(item[1]))}
