"""Stage `evaluate`: every bound on the frozen test set, also at milestones, and what the first seed's model draws."""

from __future__ import annotations

import math
import shutil
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from pipeline import data, figures, processes, tracking
from pipeline.data.images import TrainingImages, frozen, to_unit_interval
from pipeline.environment import Resources
from pipeline.evaluation import Estimate, Measured, annealing, bits_per_dimension, evaluate, outliers
from pipeline.evaluation.decompose import anneal, decompose
from pipeline.files import exclusive, file_lock, read_json, write_csv, write_json, write_parquet
from pipeline.metric import Metric
from pipeline.models import HierarchicalVAE, checkpoint
from pipeline.params import MEASURES, PROBABILITY, EvaluateParams, OutlierParams, digest
from pipeline.progress import reporting
from pipeline.randomness import seeded
from pipeline.study import Study
from pipeline.text import describe_bias
from pipeline.tracking import Tracker, mark_current

__all__ = ["main", "run"]

ANNEALING = "annealing"  # a piece of its own: chains are the longest part of a small study's evaluation
DRAWINGS = ("samples", "reconstructions", "levels")
COMPARED = (
    "elbo",
    "reconstruction",
    "kl",
    "gap",
    "nll",
    "bpd",
)  # what `dvc metrics` shows


def run(study: Study, variant: str, resources: Resources | None = None) -> None:
    """Measure every seed's model, then write all of them with their protocol, their means, and their milestones."""
    with exclusive(study.locks / "evaluate" / variant / "all", f"{variant}: evaluation"):
        _run(study, variant, resources or Resources.read())


def _run(study: Study, variant: str, resources: Resources) -> None:
    tracker = Tracker(study).require()
    scratch = _scratch(study, variant)
    shutil.rmtree(scratch, ignore_errors=True)  # parts that an evaluation with other settings has left
    work = partial(measure, study, variant, device=processes.device(resources.device))
    processes.map_in_workers("evaluate", study, variant, _pieces(study), work, resources)
    shutil.rmtree(scratch, ignore_errors=True)
    folder, splits = study.evaluate(variant), data.load(study.data)
    found = {
        str(seed): read_json(folder / f"seed-{seed}.json", "final", "milestones") for seed in study.params.train.seeds
    }
    seeds = {seed: parts["final"] for seed, parts in found.items()}
    noise = {"dequantization": splits.dequantization} if splits.dequantized else {}
    protocol = {
        "data": splits.name,
        "protocol": splits.protocol,
        "binarization": splits.binarization,
        **noise,
        "images": len(splits.test),
        "draws": study.params.evaluate.draws,
        "digest": splits.digest,
    }
    write_json(folder / "decomposition.json", {"variant": variant, "protocol": protocol, "seeds": seeds})
    rows = [
        {"seed": seed, "epoch": int(epoch), "metric": key, **estimate}
        for seed, parts in found.items()
        for epoch, results in parts["milestones"].items()
        for key, estimate in results.items()
    ]
    write_csv(folder / "milestones.csv", rows)
    means = {
        name: sum(seed[f"test/{name}"]["value"] for seed in seeds.values()) / len(seeds)
        for name in COMPARED
        if all(f"test/{name}" in seed for seed in seeds.values())
    }
    write_json(study.metrics(variant), means)
    tracker.flush_at_exit()
    mark_current(study, tracker)


def _scratch(study: Study, variant: str) -> Path:
    return study.cache / "evaluate" / study.unique_name / variant


def _parts(study: Study) -> list[str]:
    return ["bounds"] if study.params.evaluate.decompose is None else ["bounds", ANNEALING]


def _pieces(study: Study) -> list[str]:
    """Return what workers share: every part of every seed, which has random numbers of its own."""
    return [f"{seed}:{part}" for part in _parts(study) for seed in study.params.train.seeds]


def measure(study: Study, variant: str, piece: str, device: torch.device) -> None:
    """Measure one part of a seed's results; who brings the last of them tells them all."""
    seed, _, part = piece.partition(":")
    splits = data.load(study.data)
    test = torch.as_tensor(splits.test, device=device)
    test = frozen(test, splits.scale, f"{splits.digest}/test") if splits.dequantized else test
    with reporting(f"{variant} seed {seed}"):
        start = time.perf_counter()
        found = (_annealed if part == ANNEALING else _bounded)(study, variant, splits, test, int(seed))
        found["seconds"] = time.perf_counter() - start
    parts = [_scratch(study, variant) / f"{seed}-{other}.json" for other in _parts(study)]
    with file_lock(study.locks / "evaluate" / variant / str(seed)):
        write_json(_scratch(study, variant) / f"{seed}-{part}.json", found)
        if all(path.exists() for path in parts):
            final = {key: value for path in parts for key, value in read_json(path, "final")["final"].items()}
            seconds = sum(float(read_json(path, "seconds")["seconds"]) for path in parts)
            _tell(study, variant, int(seed), final, read_json(parts[0], "milestones")["milestones"])
            write_json(study.evaluation_time(variant, int(seed)), round(seconds, 2))


def _annealed(study: Study, variant: str, splits: data.Splits, test: torch.Tensor, seed: int) -> dict[str, Any]:
    """Bound log p(x) by chains."""
    settings = study.params.evaluate
    assert settings.decompose is not None
    model = checkpoint.load(study.train(variant) / f"seed-{seed}").to(test.device)
    final = anneal(model, test, splits.scale, settings, settings.decompose, stream=f"seed {seed}")
    return {"final": {key: asdict(estimate) for key, estimate in final.items()}}


def _bounded(study: Study, variant: str, splits: data.Splits, test: torch.Tensor, seed: int) -> dict[str, Any]:
    """Measure the bounds of a seed's model and its milestones, take the former apart, and draw the first seed's."""
    source, settings = study.train(variant) / f"seed-{seed}", study.params.evaluate
    model = checkpoint.load(source).to(test.device)
    seen = _training_images(settings, splits, test, len(test), f"seen images {seed}")
    measured = _bounds(settings, source, splits, test, seed, train=seen)
    bounds = {
        name: value for name, value in measured.estimates.items() if Metric.parse(name).family != "generalization"
    }
    measured |= _taken_apart(settings, model, splits, test, seed)
    if settings.outliers is not None:
        measured |= _outliers(study, settings.outliers, model, splits, test, seed)
    fewer = settings.model_copy(update={"draws": settings.milestone_draws, "k": (1, settings.milestone_draws)})
    # The weights that are kept may be a milestone's, measured with as many draws and by the same L_k.
    same = fewer.draws == settings.draws == settings.k[-1]
    known = read_json(source / "model.json", "best_epoch")["best_epoch"] if same else None
    milestones = {
        epoch: bounds if epoch == known else _bounds(fewer, path, splits, test, seed).estimates
        for epoch, path in _milestones(source).items()
    }
    write_parquet(study.evaluate(variant) / f"seed-{seed}.parquet", _table(measured.images, len(test)))
    if seed == study.params.train.seeds[0]:
        _draw(study, variant, model, splits, test)
    then = {epoch: {key: asdict(estimate) for key, estimate in found.items()} for epoch, found in milestones.items()}
    return {"final": {key: asdict(estimate) for key, estimate in measured.estimates.items()}, "milestones": then}


def _tell(study: Study, variant: str, seed: int, found: dict[str, Any], then: dict[str, Any]) -> None:
    """Write a seed's results into its file and its MLflow run."""
    source, folder = study.train(variant) / f"seed-{seed}", study.evaluate(variant)
    final = {key: Estimate(**estimate) for key, estimate in found.items()}
    milestones = {int(epoch): {key: Estimate(**e) for key, e in found.items()} for epoch, found in then.items()}
    results = {f"test/{key}": estimate for key, estimate in found.items()}
    write_json(folder / f"seed-{seed}.json", {"final": results, "milestones": then})
    drawn = DRAWINGS if seed == study.params.train.seeds[0] else ()
    pictures = [folder / f"{name}.png" for name in drawn]
    metrics = {0: _logged("test/", final)}
    metrics |= {epoch: _logged("milestone/", found) for epoch, found in milestones.items()}
    known = read_json(source / "mlflow.json", "run")
    run = Tracker(study).reopen(known.get("key") or str(known["run"]), known["run"])
    files = {"": [folder / f"seed-{seed}.json", folder / f"seed-{seed}.parquet"], "figures": pictures}
    run.log_result("evaluation", digest([results, then]), metrics, files)
    wrong = _too_high(final)
    run.set_tags({"nll_error": f"too high {wrong}" if wrong else "reliable"})
    run.finish(None)
    if run.missing:
        print(f"{variant} seed {seed}: the training's run is not in this MLflow store; results are in the files alone")
    told = {f", epoch {epoch}: ": found for epoch, found in milestones.items()} | {": test/": final}
    for where, found in told.items():
        elbo, nll = found["elbo"].value, found["nll"]
        rounded = f", rounding up to {found['rounding'].value:.4f} an image" if "rounding" in found else ""
        wrong = f", too high {_too_high(found)}" if _too_high(found) else ""
        told_bounds = f"elbo {elbo:.3f}, nll {nll.value:.3f} (se {nll.se:.4f}{wrong})"
        print(f"{variant} seed {seed}{where}{told_bounds}{rounded}", flush=True)
    if text := annealing.warning(final):
        print(f"{variant} seed {seed}: {text}", flush=True)


def _too_high(found: dict[str, Estimate]) -> str:
    """Say by how much nll exceeds -log p(x); nothing where that is known and small."""
    left = found.get("nll/bias")
    return describe_bias(
        found["nll/reliable"].value == 1, left.value if left else None, left is not None and left.se is None
    )


def _milestones(source: Path) -> dict[int, Path]:
    """Return the folders of a training's milestones by their epochs, in order."""
    return dict(sorted((int(path.name.removeprefix("epoch-")), path) for path in source.glob("epoch-*")))


def _bounds(
    settings: EvaluateParams,
    source: Path,
    splits: data.Splits,
    test: torch.Tensor,
    seed: int,
    train: torch.Tensor | None = None,
) -> Measured:
    """Measure every test bound of the model in `source`, and how the terms differ on training images, if given."""
    model = checkpoint.load(source).to(test.device)
    likelihood = read_json(source / "model.json")["model"]["likelihood"]
    discrete = MEASURES[likelihood] == PROBABILITY
    found = evaluate(model, test, splits.scale, settings, discrete=discrete, train=train, stream=f"seed {seed}")
    if splits.dequantized:
        found.estimates["bpd"] = bits_per_dimension(found.estimates["nll"], test.shape[1], splits.scale + 1)
        bits = test.shape[1] * math.log(2)
        found.images["bpd"] = (found.images["nll"] + test.shape[1] * math.log(splits.scale + 1)) / bits
    return found


def _table(values: dict[str, torch.Tensor], images: int) -> dict[str, Any]:
    """Return the columns of a model's table of images; what only the first images have is NaN after them."""
    columns: dict[str, Any] = {"image": range(images)}
    for name, found in values.items():
        padded = torch.full((images,), torch.nan)
        padded[: len(found)] = found.float().cpu()
        columns[name] = padded.numpy()
    return columns


def _taken_apart(
    settings: EvaluateParams, model: HierarchicalVAE, splits: data.Splits, test: torch.Tensor, seed: int
) -> Measured:
    """Take the bound apart, if wanted, and ask what each level knows of the factors, where those are known."""
    stream = f"seed {seed}"
    if settings.decompose is None:
        return Measured({})
    of_train = settings.decompose.aggregate == "train"
    aggregate = _training_images(settings, splits, test, None, f"aggregate {stream}") if of_train else None
    parts = decompose(model, test, splits.scale, settings, settings.decompose, stream=stream, aggregate=aggregate)
    if splits.factors:
        from pipeline.evaluation.factors import factor_scores  # it loads scikit-learn

        few = settings.decompose.factor_images
        train = _training_images(settings, splits, test, few, f"factor images {stream}")
        scores = factor_scores(
            model,
            train,
            splits.factors["train"][:few],
            to_unit_interval(test, splits.scale),
            splits.factors["test"],
            splits.factor_names,
            draws=settings.decompose.factor_draws,
            seed=settings.seed,
            stream=stream,
        )
        parts |= Measured(scores)
    return parts


def _training_images(
    settings: EvaluateParams, splits: data.Splits, test: torch.Tensor, count: int | None, stream: str
) -> torch.Tensor:
    """Return the first `count` training images, or all, on the device of the test images, presented once."""
    grey = torch.as_tensor(splits.train[:count], device=test.device)
    presented = TrainingImages(
        grey, splits.scale, splits.binary and splits.binarization == "dynamic", splits.dequantized
    )
    with seeded(settings.seed, stream):
        return presented.batch(torch.arange(len(grey), device=grey.device))


def _outliers(
    study: Study,
    settings: OutlierParams,
    model: HierarchicalVAE,
    splits: data.Splits,
    test: torch.Tensor,
    seed: int,
) -> Measured:
    """Measure how well each level tells the test set from images from elsewhere."""
    if settings.data == "shuffled":
        others = outliers.shuffled(test[: settings.images], study.params.evaluate.seed)
    else:
        elsewhere = data.load(study.outliers)
        others = torch.as_tensor(elsewhere.test[: settings.images], device=test.device)
        if elsewhere.dequantized:
            others = frozen(others, elsewhere.scale, f"{elsewhere.digest}/test")
    # Data sets of equal grey levels may be stored to different scales: 1 or 255 of binary pixels.
    scale = splits.scale if settings.data == "shuffled" else elsewhere.scale
    with seeded(study.params.evaluate.seed, f"outliers seed {seed}"):
        own = outliers.scores(model, to_unit_interval(test[: settings.images], splits.scale), settings.draws)
        other = outliers.scores(model, to_unit_interval(others, scale), settings.draws)
    return Measured(outliers.outliers(own, other), {f"outlier_score/{name}": score for name, score in own.items()})


def _logged(prefix: str, results: dict[str, Estimate]) -> dict[str, float]:
    """Return values and standard errors under the keys that MLflow gets."""
    values = {prefix + key: result.value for key, result in results.items()}
    return values | {f"{prefix}{key}_se": result.se for key, result in results.items() if result.se is not None}


@torch.no_grad()
def _draw(study: Study, variant: str, model: HierarchicalVAE, splits: data.Splits, test: torch.Tensor) -> list[Path]:
    """Draw samples, reconstructions and what each level decides."""
    count, rows = study.params.report.images, 4
    folder, device = study.evaluate(variant), test.device

    def pictures(x: torch.Tensor) -> torch.Tensor:
        grid: torch.Tensor = x.unflatten(-1, splits.shape)
        return grid.clamp(0, 1).cpu()

    with seeded(study.params.evaluate.seed, "figures"):
        x = to_unit_interval(test[:count], splits.scale)
        z, q = model.posterior(x)
        mean = model.joint(z)[0].mean[0]
        widths = [factor.event_shape[0] for factor in q]

        def noise(number: int) -> list[torch.Tensor]:
            return [torch.randn(number, width, device=device) for width in widths]

        prior = model.decode(noise(count * count // 2))
        held = noise(rows)
        base = model.decode(held)
        redrawn = []
        for level, width in enumerate(widths):
            wide = [eps.repeat_interleave(count, 0) for eps in held]
            wide[level] = torch.randn(rows * count, width, device=device)
            redrawn.append(model.decode(wide).unflatten(0, (rows, count)))
    ink = data.DATASETS[splits.name].dark_on_light
    drawings = {
        "samples": figures.samples(pictures(prior).numpy(), f"{variant}: draws from the prior", ink=ink),
        "reconstructions": figures.reconstructions(pictures(x).numpy(), pictures(mean).numpy(), variant, ink=ink),
        "levels": figures.levels(pictures(base).numpy(), pictures(torch.stack(redrawn)).numpy(), variant, ink=ink),
    }
    for name, drawing in drawings.items():
        figures.save(drawing, folder / f"{name}.png")
    return [folder / f"{name}.png" for name in DRAWINGS]


def main(variant: str, *pieces: str) -> None:
    """Run the stage, or one of its workers, as the command line says."""
    study, resources = Study.at(Path.cwd()), Resources.read()
    if not pieces:
        tracking.import_mlflow(tracking.tracking_uri(study))
        processes.prefork(len(_pieces(study)), resources)
        for line in study.notices(variant, "evaluate"):
            print(line, flush=True)
        run(study, variant, resources)
        return
    processes.become_worker(resources)
    for piece in pieces:
        measure(study, variant, piece, processes.device(resources.device))
