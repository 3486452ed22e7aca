"""The state of a training: what an epoch changes, written after each, so that training resumes bit for bit."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from pipeline import faults
from pipeline.errors import InputError
from pipeline.log import STATE, Log, Record
from pipeline.models import HierarchicalVAE
from pipeline.models.checkpoint import read_state, write_state
from pipeline.training.step import Adam

__all__ = ["TrainingState", "milestones"]

MILESTONE = "epoch-"


class TrainingState:
    """The state of a training: weights, their average, optimizer, counters, and the best weights so far."""

    def __init__(self, model: HierarchicalVAE, adam: Adam, folder: Path | None, decay: float | None) -> None:
        self.model, self.adam, self.folder, self.decay = model, adam, folder, decay
        self.epoch, self.step, self.seconds = 0, 0, 0.0
        self.best_epoch, self.best_value = 0, -math.inf
        self.log = None if folder is None else Log(folder)
        self.unsynced: list[Record] = []  # whose lines in the log may not have reached the disk yet
        self.best_weights = _copy(model.state_dict())
        self.weights: dict[str, Tensor] = dict(model.named_parameters())
        self.average = {} if decay is None else _copy(self.weights)

    def update_ema(self) -> None:
        """Update the exponential moving average of the weights: decay * average + (1 - decay) * weights."""
        if self.decay is not None:
            for name, weights in self.weights.items():
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


def milestones(folder: Path) -> dict[int, dict[str, Tensor]]:
    """Return by epoch the weights of the milestones that `fit` saved in `folder`."""
    states = [read_state(path) for path in folder.glob(f"{MILESTONE}*.safetensors")]
    return {epoch: weights for weights, epoch in sorted(states, key=lambda item: int(item[1]))}
