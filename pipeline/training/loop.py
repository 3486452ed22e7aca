"""Training: `fit` maximizes an objective and yields a `Record` after every epoch; there are no callbacks.

The data set lies on the device as uint8 and is binarized anew at each presentation. Every random number of
epoch e is drawn from a stream that (seed, e) alone determines, so a resumed training needs no generator's
state and is, bit for bit, the one that was never interrupted; the caller's own random state is left alone.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from jaxtyping import Shaped
from torch import Tensor

from pipeline.data import Splits
from pipeline.data.images import TrainingImages, frozen, to_unit_interval
from pipeline.log import Record
from pipeline.models import HierarchicalVAE, build, optimal_levels, rows_within, update_bn
from pipeline.objectives import training_objective
from pipeline.params import ModelParams, TrainParams
from pipeline.progress import Reporter, track_progress
from pipeline.randomness import seeded
from pipeline.training.compiled import CompiledStep
from pipeline.training.sampled import sampled_elbo
from pipeline.training.schedules import SCHEDULES
from pipeline.training.state import TrainingState
from pipeline.training.step import Adam, Step, terms_of
from pipeline.training.terms import NonFiniteError, mean_parts, named, require_finite, terms, with_sums

__all__ = ["best_record", "fit", "initial_model", "make_step", "print_progress", "report_epoch"]

PLACED = 128  # training images for which the levels of a diffusion are placed
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
    mapped = splits.is_mapped
    pixels = torch.as_tensor(splits.train, device=None if mapped else device)
    train = TrainingImages(
        pixels, splits.scale, binarize, splits.dequantized, mapped_for=torch.device(device or "cpu") if mapped else None
    )
    valid = torch.as_tensor(splits.valid, device=None if mapped else device)
    valid = frozen(valid, splits.scale, f"{splits.digest}/valid") if splits.dequantized else valid
    valid = valid if mapped else to_unit_interval(valid, splits.scale)
    state = TrainingState(model, Adam(model, params), folder, params.ema)
    yield from state.resume()
    step = make_step(model, state.adam, params)
    while state.epoch < params.epochs and not state.should_stop(params.patience):
        start = time.perf_counter()
        with seeded(seed, f"epoch {state.epoch}"):
            metrics = _epoch(state, step, train, params)
        _place_levels(state, train, seed)
        with state.ema_weights(), torch.no_grad():
            with seeded(seed, "statistics"):
                update_bn(
                    model, map(train.batch, torch.arange(len(train), device=train.device).split(params.batch_size))
                )
            with seeded(seed, "valid"):
                metrics |= _validate(model, valid, params, splits.scale, train.device)
            # A gradient whose norm overflows is clipped to 0, and training goes on.
            bounds = {name: value for name, value in metrics.items() if name != "train/gradient_norm"}
            require_finite(bounds, state.epoch, state.step)
            state.update_best(metrics["valid/objective"], state.epoch > params.warmup_end(model.depth), params.keep)
            if state.epoch in params.milestones:
                state.save_milestone()
        state.seconds += time.perf_counter() - start
        yield state.checkpoint(metrics)
    model.load_state_dict(state.best_weights)


def make_step(model: HierarchicalVAE, adam: Adam, params: TrainParams) -> Step | CompiledStep:
    """Return the function that takes one step of training: compiled where `train.compile` asks for it and it can be."""
    compiled = params.compile and CompiledStep.supports(model, params)
    return (CompiledStep if compiled else Step)(model, adam, params)


def _validate(
    model: HierarchicalVAE, valid: Shaped[Tensor, "n units"], params: TrainParams, scale: int, device: torch.device
) -> dict[str, float]:
    """Measure the terms on the validation set, L_k of their draws, and the objective as it is after the warm-up."""
    draws = params.draws_behind_valid
    measure, total = terms_of(model, params), torch.zeros((), device=device)
    for pixels in valid.split(max(1, rows_within(model, valid, VALID_ROWS) // draws)):
        x = to_unit_interval(pixels.to(device), scale)
        bound = measure(model, x, draws)
        objective = training_objective(bound, params, math.inf).mean()
        total = total + torch.cat([objective[None], bound.iwae.mean()[None], terms(bound)]) * (len(x) / len(valid))
    selected = {"valid/objective": total[0].item(), "valid/iwae": total[1].item()}
    if measure is sampled_elbo:
        del selected["valid/iwae"]  # of estimates of log-weights it is no bound
    return named("valid/", total[2:], model) | selected


def _epoch(
    state: TrainingState, step: Step | CompiledStep, train: TrainingImages, params: TrainParams
) -> dict[str, float]:
    """Run one epoch of updates and return its mean terms, the norm of the gradient among them where `Step` clips it."""
    model, adam = state.model, state.adam
    horizon = params.schedule_epochs or params.epochs
    positions = torch.randperm if params.shuffle else torch.arange
    order = positions(len(train), device=train.device)
    total = torch.zeros((), device=train.device)
    norm, rate = torch.zeros((), device=train.device), 0.0
    model.train()
    with step.epoch():
        starts = range(0, len(train), params.batch_size)
        for start in track_progress(starts, f"epoch {state.epoch + 1}", "batches", long=True):
            at = state.epoch + start / len(train)
            x = train.batch(order[start : start + params.batch_size])
            rate = params.learning_rate * SCHEDULES[params.schedule](at / horizon)
            bound, loss = step(x, at, rate)
            state.step += 1
            if not math.isfinite(loss.item()):
                require_finite(named("train/", terms(bound), model), state.epoch + 1, state.step)
                raise NonFiniteError(f"epoch {state.epoch + 1}, step {state.step}: the objective is {-loss.item()}")
            state.update_ema()
            share = len(x) / len(train)
            total = torch.add(total, mean_parts(bound), alpha=share)
            if adam.norm is not None:
                norm.add_(adam.norm, alpha=share)
    state.epoch += 1
    others = {"train/learning_rate": rate}  # of the last step
    if adam.norm is not None:
        others["train/gradient_norm"] = norm.item()
    return named("train/", with_sums(total), model) | others


def _place_levels(state: TrainingState, train: TrainingImages, seed: int) -> None:
    """Move the levels of a diffusion to where the bound of the validated weights is best, if that is asked for."""
    diffusion = state.model.diffusion
    if diffusion is not None and diffusion.optimal:
        with seeded(seed, "levels"), state.ema_weights():
            images = train.batch(torch.arange(min(PLACED, len(train)), device=train.device))
            diffusion.move_to(optimal_levels(state.model, images, state.model.depth))


def initial_model(params: ModelParams, splits: Splits, seed: int) -> HierarchicalVAE:
    """Return the model that a training with this seed begins with."""
    with seeded(seed, "init"):
        mean = torch.as_tensor(splits.mean, dtype=torch.get_default_dtype())
        return build(params, mean, splits.shape)


def report_epoch(reporter: Reporter, record: Record, epochs: int, images: int, metric: str = "valid/elbo") -> None:
    """Note an epoch of a training on so many images, for a display and for lines that are due."""
    rate = f"{images * record.epoch / max(record.seconds, 1e-9):,.0f}"
    reporter.epoch(record.epoch, epochs, record.seconds, record.metrics[metric], rate)


def print_progress(reporter: Reporter, record: Record, epochs: int, images: int) -> None:
    """Print a line for the first, the last and each fifth epoch of a training, and at least every 30 seconds."""
    bound = record.metrics["valid/elbo"]
    report_epoch(reporter, record, epochs, images)
    text = f"epoch {record.epoch:4d} of {epochs}, valid/elbo {bound:9.3f}, {record.seconds:.0f} s"
    reporter.step(record.epoch, epochs, text, record.seconds)


def best_record(records: Sequence[Record], params: TrainParams, depth: int) -> Record:
    """Return the record of the epoch whose weights `fit` leaves in a model of `depth` levels."""
    if params.keep == "last":
        return records[-1]
    after = [record for record in records if record.epoch > params.warmup_end(depth)]
    return max(after, key=lambda record: record.metrics["valid/objective"]) if after else records[-1]
