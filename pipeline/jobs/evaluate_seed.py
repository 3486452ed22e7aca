"""Evaluate the model of one seed, in parts that workers share: its bounds, and the chains of annealing.

Every part writes its results into a scratch folder. Whoever finishes the last part of a seed writes the seed's files
and logs them to the run of its training.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.numpy import save

from pipeline import data
from pipeline.addresses import FINAL, runs_page
from pipeline.evaluation import Estimate, annealing
from pipeline.evaluation.decompose import anneal
from pipeline.evaluation.noise_levels import FEW
from pipeline.evaluation.pictures import compute_pictures
from pipeline.evaluation.saved_model import measure_saved_model, noise_level_tables, test_pixels
from pipeline.figures.model_images import MODEL_IMAGES, draw_model
from pipeline.files import file_lock, read_json, write_bytes, write_csv, write_json, write_parquet
from pipeline.jobs.final_models import describe_training
from pipeline.jobs.mlflow_model import mlflow_model_files
from pipeline.jobs.mlflow_tables import IMAGE_TABLE, TERM_TABLE, model_tables
from pipeline.metric import logged_key, partial_errors
from pipeline.models import checkpoint
from pipeline.params import digest
from pipeline.progress import reporting
from pipeline.study import Study
from pipeline.text import describe_bias
from pipeline.tracking import Tracker, registered_name
from pipeline.tracking.media import TABLES, tables_tag

__all__ = ["evaluate_part", "parts", "scratch_folder"]

NOT_OF_DIFFUSIONS = (
    f"evaluate.decompose, evaluate.outliers, activity and generalization are left out; above {FEW} levels and without"
    " end, evaluate.draws, k and precision are too, and nll is minus the bound"
)
BOUNDS, ANNEALING = "bounds", "annealing"  # chains are the longest part of a small study's evaluation


def scratch_folder(study: Study, variant: str) -> Path:
    """Return the folder of the parts that are finished."""
    return study.cache / "evaluate" / study.unique_name / variant


def parts(study: Study) -> list[str]:
    """Return the names `SEED:PART` of what workers share: every part of every seed has random numbers of its own."""
    return [f"{seed}:{kind}" for kind in _kinds(study) for seed in study.params.train.seeds]


def _kinds(study: Study) -> list[str]:
    return [BOUNDS] if study.params.evaluate.decompose is None else [BOUNDS, ANNEALING]


def evaluate_part(study: Study, variant: str, part: str, device: torch.device) -> None:
    """Measure one part; with the last part of a seed, write and log the seed's results."""
    seed, _, kind = part.partition(":")
    splits = data.load(study.data)
    test = test_pixels(splits, device)
    with reporting(f"{variant} seed {seed}"):
        start = time.perf_counter()
        results = (_anneal if kind == ANNEALING else _measure)(study, variant, splits, test, int(seed))
        results["seconds"] = time.perf_counter() - start
    scratch = scratch_folder(study, variant)
    paths = [scratch / f"{seed}-{other}.json" for other in _kinds(study)]
    with file_lock(study.locks / "evaluate" / variant / str(seed)):
        write_json(scratch / f"{seed}-{kind}.json", results)
        if all(path.exists() for path in paths):
            final = {key: value for path in paths for key, value in read_json(path, "final")["final"].items()}
            seconds = sum(float(read_json(path, "seconds")["seconds"]) for path in paths)
            milestones = read_json(paths[0], "milestones")["milestones"]
            _log_seed(study, variant, int(seed), final, milestones, splits, test)
            write_json(study.evaluation_time(variant, int(seed)), round(seconds, 2))


def _anneal(study: Study, variant: str, splits: data.Splits, test: torch.Tensor, seed: int) -> dict[str, Any]:
    """Bound log p(x) by annealed chains."""
    params = study.params.evaluate
    assert params.decompose is not None
    model = checkpoint.load(study.train(variant) / f"seed-{seed}").to(test.device)
    if model.diffusion is not None:
        return {"final": {}}
    final = anneal(model, test, splits.scale, params, params.decompose, stream=f"seed {seed}")
    return {"final": {key: asdict(estimate) for key, estimate in final.items()}}


def _measure(study: Study, variant: str, splits: data.Splits, test: torch.Tensor, seed: int) -> dict[str, Any]:
    """Measure a seed's model and its milestones, write the table of images, and the first seed's pictures."""
    source, folder, params = study.train(variant) / f"seed-{seed}", study.evaluate(variant), study.params.evaluate
    measured, milestones = measure_saved_model(source, params, splits, test, study.outliers, seed)
    write_parquet(folder / f"seed-{seed}.parquet", _image_table(measured.images, len(test)))
    model = checkpoint.load(source).to(test.device)
    for table in folder.glob(f"seed-{seed}-*.csv"):  # of what the variant was before
        table.unlink()
    if seed == study.params.train.seeds[0]:
        if model.diffusion is not None:
            for name, rows in noise_level_tables(model, params, splits, test, seed).items():
                write_csv(folder / f"seed-{seed}-{name}.csv", rows)
        columns = study.params.report.images
        arrays = compute_pictures(model, splits, test, measured.images["nll"], columns=columns, seed=params.seed)
        write_bytes(folder / "pictures.safetensors", save(arrays))
        draw_model(folder, arrays, name=variant)
    by_epoch = {
        epoch: {key: asdict(estimate) for key, estimate in results.items()} for epoch, results in milestones.items()
    }
    return {"final": {key: asdict(estimate) for key, estimate in measured.estimates.items()}, "milestones": by_epoch}


def _image_table(values: dict[str, torch.Tensor], images: int) -> dict[str, Any]:
    """Return the columns of a model's table of images; what only the first images have is NaN after them."""
    columns: dict[str, Any] = {"image": range(images)}
    for name, numbers in values.items():
        padded = torch.full((images,), torch.nan)
        padded[: len(numbers)] = numbers.float().cpu()
        columns[name] = padded.numpy()
    return columns


def _log_seed(
    study: Study,
    variant: str,
    seed: int,
    final: dict[str, Any],
    by_epoch: dict[str, Any],
    splits: data.Splits,
    test: torch.Tensor,
) -> None:
    """Write a seed's results into its file, log them to its run in MLflow, and print them."""
    source, folder = study.train(variant) / f"seed-{seed}", study.evaluate(variant)
    estimates = {key: Estimate(**estimate) for key, estimate in final.items()}
    milestones = {
        int(epoch): {key: Estimate(**estimate) for key, estimate in results.items()}
        for epoch, results in by_epoch.items()
    }
    results = {f"test/{key}": estimate for key, estimate in final.items()}
    write_json(folder / f"seed-{seed}.json", {"final": results, "milestones": by_epoch})
    pictures = [folder / f"{name}.png" for name in MODEL_IMAGES if seed == study.params.train.seeds[0]]
    metrics = {0: _logged("test", estimates)}
    metrics |= {epoch: _logged("milestone", results) for epoch, results in milestones.items()}
    named = read_json(source / "mlflow.json", "run")
    run = Tracker(study).reopen(named.get("key") or str(named["run"]), named["run"])
    tables = sorted(folder.glob(f"seed-{seed}-*.csv"))  # of the first seed of a diffusion
    files = {"": [folder / f"seed-{seed}.json", folder / f"seed-{seed}.parquet", *tables], "figures": pictures}
    run.log_result("evaluation", digest([results, by_epoch]), metrics, files)
    shown = model_tables(source, folder / f"seed-{seed}.parquet", splits, test, final)
    run.log_result(TABLES, tables_tag([IMAGE_TABLE, TERM_TABLE]), {}, {}, shown)
    with mlflow_model_files(source, splits, test) as model:
        run.log_result("model", registered_name(study, variant), {}, {"model": model})
    excess = _describe_excess(estimates)
    reasons = partial_errors(estimates)
    partial = "; ".join(f"{', '.join(terms)}: {held} is held fixed" for held, terms in reasons.items())
    tags = {"nll_error": f"too high {excess}" if excess else "reliable"}
    run.set_tags(tags | ({"partial_errors": partial} if partial else {}))
    widths = read_json(source / "model.json", "widths")["widths"]
    summary = _describe_results(estimates, named.get("experiment"))
    run.describe(f"{summary}\n\n{describe_training(study, variant, seed, widths, splits)}")
    run.finish(None)
    if run.missing:
        print(f"{variant} seed {seed}: the training's run is not in this MLflow store; results are in the files alone")
    for epoch, bounds in milestones.items():
        _print_bounds(f"{variant} seed {seed}, epoch {epoch}: ", bounds)
    _print_bounds(f"{variant} seed {seed}: test/", estimates)
    if text := annealing.warning(estimates):
        print(f"{variant} seed {seed}: {text}", flush=True)
    if tables:
        print(f"{variant}: a diffusion has its bound, and tables of its levels; {NOT_OF_DIFFUSIONS}", flush=True)


def _print_bounds(label: str, bounds: dict[str, Estimate]) -> None:
    nll = bounds["nll"]
    rounding = f", rounding up to {bounds['rounding'].value:.4f} an image" if "rounding" in bounds else ""
    excess = f", too high {_describe_excess(bounds)}" if _describe_excess(bounds) else ""
    elbo = bounds["elbo"].value
    print(f"{label}elbo {elbo:.3f}, nll {nll.value:.3f} (se {nll.se:.4f}{excess}){rounding}", flush=True)


def _describe_results(bounds: dict[str, Estimate], experiment: str | None) -> str:
    """Describe a model's test results, for a reader of its run."""
    nll, elbo, reconstruction, kl = (bounds[name] for name in ("nll", "elbo", "reconstruction", "kl"))
    error = "" if nll.se is None else f" ± {nll.se:.2g}"
    text = f"On the test set, in nats an image: **nll {nll.value:.3f}{error}**, of which less is better, and"
    text += f" elbo {elbo.value:.3f} = reconstruction {reconstruction.value:.3f} - kl {kl.value:.3f}."
    views = f" [All final models]({runs_page(experiment, FINAL).removeprefix('/')})." if experiment else ""
    return f"{text}{' The error is of the draws alone.' if error else ''}{views}"


def _describe_excess(bounds: dict[str, Estimate]) -> str:
    """Describe by how much nll exceeds -log p(x); nothing where that is known and small."""
    bias = bounds.get("nll/bias")
    return describe_bias(
        bounds["nll/reliable"].value == 1, bias.value if bias else None, bias is not None and bias.se is None
    )


def _logged(split: str, results: dict[str, Estimate]) -> dict[str, float]:
    """Return values and standard errors under the keys that MLflow gets."""
    values = {logged_key(name, split): result.value for name, result in results.items()}
    return values | {logged_key(n, split, error=True): r.se for n, r in results.items() if r.se is not None}
