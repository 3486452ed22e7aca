"""What is measured of a saved model on the test set: bounds, milestones, decompositions, factors and outliers."""

from __future__ import annotations

import math
from pathlib import Path

import torch

from pipeline import data
from pipeline.data.images import TrainingImages, frozen, to_unit_interval
from pipeline.evaluation import outliers
from pipeline.evaluation.bounds import bits_per_dimension, evaluate
from pipeline.evaluation.decompose import decompose
from pipeline.evaluation.estimates import Estimate, Measured
from pipeline.evaluation.noise_levels import bound_by_levels, evaluate_diffusion, rate_curve
from pipeline.files import read_json
from pipeline.metric import Metric
from pipeline.models import HierarchicalVAE, checkpoint
from pipeline.params import MEASURES, PROBABILITY, EvaluateParams, OutlierParams
from pipeline.randomness import seeded

__all__ = ["measure_outliers", "measure_saved_model", "milestone_folders", "noise_level_tables", "test_pixels"]

MOST_IMAGES = 500  # that a diffusion's tables are of


def test_pixels(splits: data.Splits, device: torch.device) -> torch.Tensor:
    """Return the pixels [images, units] of the test set as they are stored, dequantized where the protocol says so."""
    pixels = torch.as_tensor(splits.test, device=device)
    return frozen(pixels, splits.scale, f"{splits.digest}/test") if splits.dequantized else pixels


def noise_level_tables(
    model: HierarchicalVAE, params: EvaluateParams, splits: data.Splits, test: torch.Tensor, seed: int
) -> dict[str, list[dict[str, object]]]:
    """Return the tables of a diffusion by name: `bound_by_levels` of the first test images, and `rate_by_log_snr`."""
    few = to_unit_interval(test[:MOST_IMAGES], splits.scale)
    train = _training_images(params, splits, test, MOST_IMAGES, f"images of levels {seed}")
    with seeded(params.seed, f"levels of noise seed {seed}"):
        return {
            "bound_by_levels": bound_by_levels(model, few, train, params.levels),
            "rate_by_log_snr": rate_curve(model, few),
        }


def milestone_folders(folder: Path) -> dict[int, Path]:
    """Return the folders of a training's milestones by their epochs, in order."""
    return dict(sorted((int(path.name.removeprefix("epoch-")), path) for path in folder.glob("epoch-*")))


def measure_saved_model(
    folder: Path, params: EvaluateParams, splits: data.Splits, test: torch.Tensor, outlier_data: Path, seed: int
) -> tuple[Measured, dict[int, dict[str, Estimate]]]:
    """Measure the model in `folder`, and the bounds of its milestones by their epochs.

    Args:
        folder: of a model that `pipeline.models.checkpoint.save_model` has written.
        params: what is measured, and with how many draws.
        splits: the data set.
        test: the stored pixels [images, units] of its test set, on the device to use.
        outlier_data: folder of the other data set, if `params.outliers` names one.
        seed: of the training; every model has random numbers of its own.
    """
    model = checkpoint.load(folder).to(test.device)
    train = _training_images(params, splits, test, len(test), f"seen images {seed}")
    measured = _bounds(params, folder, splits, test, seed, train=train if model.diffusion is None else None)
    bounds = {
        name: value for name, value in measured.estimates.items() if Metric.parse(name).family != "generalization"
    }
    if model.diffusion is None:
        measured |= _decompositions(params, model, splits, test, seed)
    if params.outliers is not None and model.diffusion is None:
        measured |= measure_outliers(params.outliers, model, splits, test, outlier_data, params.seed, seed)
    fewer = params.model_copy(update={"draws": params.milestone_draws, "k": (1, params.milestone_draws)})
    # The best weights may be a milestone's, measured with as many draws and by the same L_k.
    same = fewer.draws == params.draws == params.k[-1]
    best_epoch = read_json(folder / "model.json", "best_epoch")["best_epoch"] if same else None
    milestones = {
        epoch: bounds if epoch == best_epoch else _bounds(fewer, path, splits, test, seed).estimates
        for epoch, path in milestone_folders(folder).items()
    }
    return measured, milestones


def _bounds(
    params: EvaluateParams,
    folder: Path,
    splits: data.Splits,
    test: torch.Tensor,
    seed: int,
    train: torch.Tensor | None = None,
) -> Measured:
    """Measure every test bound of the model in `folder`, and how the terms differ on training images, if given."""
    model = checkpoint.load(folder).to(test.device)
    likelihood = read_json(folder / "model.json")["model"]["likelihood"]
    discrete = MEASURES[likelihood] == PROBABILITY
    if model.diffusion is not None:
        return evaluate_diffusion(model, test, splits.scale, params, discrete=discrete, stream=f"seed {seed}")
    measured = evaluate(model, test, splits.scale, params, discrete=discrete, train=train, stream=f"seed {seed}")
    if splits.dequantized:
        units = test.shape[1]
        measured.estimates["bpd"] = bits_per_dimension(measured.estimates["nll"], units, splits.scale + 1)
        bits = units * math.log(2)
        measured.images["bpd"] = (measured.images["nll"] + units * math.log(splits.scale + 1)) / bits
    return measured


def _decompositions(
    params: EvaluateParams, model: HierarchicalVAE, splits: data.Splits, test: torch.Tensor, seed: int
) -> Measured:
    """Decompose the bound, if wanted, and measure what each level knows of the factors, where those are known."""
    stream = f"seed {seed}"
    if params.decompose is None:
        return Measured({})
    of_train = params.decompose.aggregate == "train"
    aggregate = _training_images(params, splits, test, None, f"aggregate {stream}") if of_train else None
    measured = decompose(model, test, splits.scale, params, params.decompose, stream=stream, aggregate=aggregate)
    if splits.factors:
        from pipeline.evaluation.factors import factor_scores  # it loads scikit-learn

        count = params.decompose.factor_images
        scores = factor_scores(
            model,
            _training_images(params, splits, test, count, f"factor images {stream}"),
            splits.factors["train"][:count],
            to_unit_interval(test, splits.scale),
            splits.factors["test"],
            splits.factor_names,
            draws=params.decompose.factor_draws,
            seed=params.seed,
            stream=stream,
        )
        measured |= Measured(scores)
    return measured


def _training_images(
    params: EvaluateParams, splits: data.Splits, test: torch.Tensor, count: int | None, stream: str
) -> torch.Tensor:
    """Return the first `count` training images, or all, on the device of the test images, presented once."""
    grey = torch.as_tensor(splits.train[:count], device=test.device)
    images = TrainingImages(grey, splits.scale, splits.binary and splits.binarization == "dynamic", splits.dequantized)
    with seeded(params.seed, stream):
        return images.batch(torch.arange(len(grey), device=grey.device))


def measure_outliers(
    params: OutlierParams,
    model: HierarchicalVAE,
    splits: data.Splits,
    test: torch.Tensor,
    folder: Path,
    rng_seed: int,
    seed: int,
) -> Measured:
    """Measure how well levels separate the test set from other images: shuffled ones, or the data set in `folder`."""
    if params.data == "shuffled":
        others, scale = outliers.shuffled(test[: params.images], rng_seed, splits.shape[0]), splits.scale
    else:
        # Data sets of equal grey levels may be stored to different scales: 1 or 255 of binary pixels.
        other_splits = data.load(folder)
        others, scale = test_pixels(other_splits, test.device)[: params.images], other_splits.scale
    with seeded(rng_seed, f"outliers seed {seed}"):
        own = outliers.scores(model, to_unit_interval(test[: params.images], splits.scale), params.draws)
        other = outliers.scores(model, to_unit_interval(others, scale), params.draws)
    return Measured(outliers.outliers(own, other), {f"outlier_score/{name}": score for name, score in own.items()})
