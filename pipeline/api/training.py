"""Training from Python: `fit`, and `steps`, the generator beneath it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import processes
from pipeline.api.logged import LoggedTraining
from pipeline.api.model import Model
from pipeline.api.place import EXPERIMENT
from pipeline.api.settings import training_params
from pipeline.api.splits import prepare_splits, source_of
from pipeline.data import Splits
from pipeline.display import shown
from pipeline.params import Params
from pipeline.progress import reporting
from pipeline.training import fit as train
from pipeline.training import initial_model, print_progress

__all__ = ["fit", "steps"]

ARGUMENTS = ("images", "seed", "device", "log", "progress")


def fit(
    images: Any,
    *,
    seed: int = 0,
    device: str = "auto",
    log: bool | str = False,
    progress: bool = True,
    **settings: Any,
) -> Model:
    """Train a model and return it, with the weights that `keep` chooses.

    Args:
        images: an array or tensor [n, height, width] or [n, channels, height, width] (uint8 from 0 to 255, float from 0
            to 1, or bool); a mapping of three of them, by `train`, `valid` and `test`; the path of a folder of images,
            or of a file of arrays; or the name of a data set.
        seed: of the training.
        device: `auto` is the GPU where there is one.
        log: whether the training is logged to MLflow, in the experiment `platos-cave/fit`, or by another name.
        progress: whether a picture on a terminal, a bar in a notebook, or else a few lines show how far it is.
        settings: parameters of the sections data, model and train of params.yaml by the last part of their path. Some
            that are left out are chosen to suit images of your own, as `cave study new --data` does.

    Raises:
        InputError: what is wrong with the images or a setting, in one line.

    >>> import pipeline as cave
    >>> model = cave.fit("digits", depth=3, parents="nearest", objective="iwae", draws=5, epochs=2, progress=False)
    >>> model.depth, model.history.index.tolist()
    (3, [1, 2])
    """
    trained: Model | None = None
    with ExitStack() as ended:
        if progress:
            name = images if isinstance(images, str) else "images"
            ended.enter_context(shown(f"fit {name}"))
            reporter = ended.enter_context(reporting(f"{name} seed {seed}"))
        plan = _plan(images, seed, settings)
        for trained in _train(plan, device, log):
            if progress:
                print_progress(reporter, trained.records[-1], plan.params.train.epochs, len(plan.splits.train))
    assert trained is not None  # there is at least one epoch
    return trained


def steps(
    images: Any, *, seed: int = 0, device: str = "auto", log: bool | str = False, **settings: Any
) -> Iterator[Model]:
    """Train as `fit` does, and yield the model after every epoch, to look at it, or to stop where you break off.

    It is one model, with the weights of the epoch, and a row more in `history` each time. After the last epoch it has
    the weights that `keep` chooses. With `log`, the run of a loop that is left early has no weights (`patience` ends a
    training early with them), and the same call goes on after the last epoch.

    >>> import pipeline as cave
    >>> for model in cave.steps("digits", epochs=5):
    ...     if model.history["valid/elbo"].iloc[-1] > -60:
    ...         break
    >>> len(model.history) < 5
    True
    """
    return _train(_plan(images, seed, settings), device, log)


@dataclass(frozen=True)
class Plan:
    """What is trained, checked."""

    params: Params
    splits: Splits
    seed: int


def _plan(images: Any, seed: int, settings: Mapping[str, Any]) -> Plan:
    with source_of(images) as (source, folder):
        params = training_params(settings, source, folder, seed, ARGUMENTS)
        splits = prepare_splits(params.data, folder)
    if not isinstance(images, str | Path):  # the file that it was written to is gone
        params = params.override({"data.path": "array"})
    return Plan(params, splits, seed)


def _train(plan: Plan, device: str, log: bool | str) -> Iterator[Model]:
    params, splits, seed = plan.params, plan.splits, plan.seed
    module = initial_model(params.model, splits, seed)
    levels = splits.scale + 1 if splits.dequantized else None
    model = Model(module, params.model, splits.shape, splits=splits, dequantized_levels=levels)
    with ExitStack() as ended:
        name = log if isinstance(log, str) else EXPERIMENT
        logged = ended.enter_context(LoggedTraining(params, splits, seed, name)) if log is not False else None
        folder = logged.folder if logged else None
        if logged:
            model.run_id = logged.run.run_id
        last_logged = 0
        for record in train(module, splits, params.train, seed=seed, device=processes.device(device), folder=folder):
            if logged and not model.records:  # the training has brought the log to the state that it goes on from
                last_logged = logged.run.folder.last_epoch
            model.records.append(record)
            if logged:
                logged.publish()
            if record.epoch >= last_logged:  # of earlier epochs the weights are gone
                yield model
        if logged:
            model.run_id = logged.finish(model)
