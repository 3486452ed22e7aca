"""What the report reads: the files of the stages before it. A missing one is an error that names its stage."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import InputError
from pipeline.evaluations import retrained_line
from pipeline.files import read_csv, read_json
from pipeline.metric import Metric
from pipeline.params import MEASURES
from pipeline.searches import entries
from pipeline.study import Study

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

__all__ = [
    "Circumstances",
    "best",
    "circumstances",
    "curves",
    "finals",
    "image_values",
    "mean_curves",
    "model",
    "needed",
    "pictures",
    "protocol",
    "reading",
    "results",
    "searched",
    "searches",
    "trials",
    "values_of",
]

PICTURES = "pictures.safetensors"
Circumstances = dict[str, dict[int, dict[str, Any]]]
"""By variant and seed."""

COLUMNS = ("variant", "seed", "depth", "metric", "term", "level", "value", "se", "unit")


def results(study: Study) -> pd.DataFrame:
    """Return every number of every seed as a tidy table: a row per variant, seed and metric; columns `COLUMNS`.

    `metric` is a key of the evaluation without its prefix `test/`, in two parts `term` and `level` (empty where it is
    of no single level), with `se` the Monte Carlo standard error of its `value`; `seconds`, of the training, has none.
    `depth` is T, the variant's levels.
    """
    import pandas as pd

    rows: list[tuple[Any, ...]] = []
    for variant in study.params.variants:
        for seed, cells in _tests(study, variant).items():
            about = model(study, variant, seed)
            timed = {**cells, "seconds": {"value": about["seconds"], "se": None}}
            for key, cell in timed.items():
                name = key.removeprefix("test/")
                metric = Metric.parse(name)
                term = str(replace(metric, level=None))
                parts = (name, term, metric.level_name, float(cell["value"]), cell["se"], metric.unit)
                rows.append((variant, seed, len(about["widths"]), *parts))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def image_values(study: Study, variant: str) -> dict[str, np.ndarray]:
    """Return by metric the values [seeds, images] of all test images; what some images or seeds lack is left out."""
    paths = [study.evaluate(variant) / f"seed-{seed}.parquet" for seed in _seeds(study, variant)]
    return values_of(paths, lambda path: reading(study, path, f"evaluate@{variant}"))


def values_of(
    paths: Sequence[Path], opened: Callable[[Path], AbstractContextManager[object]] = nullcontext
) -> dict[str, np.ndarray]:
    """Return what `image_values` does of Parquet files, one a seed; each is read within the context `opened`.

    Raises:
        ValueError: a file is damaged, or two are of different images.
    """
    import numpy as np
    import pandas as pd

    tables: list[pd.DataFrame] = []
    for path in paths:
        with opened(path):
            tables.append(pd.read_parquet(path).set_index("image").astype("float64"))
            if not tables[-1].index.equals(tables[0].index):
                raise ValueError("the seeds were measured on different images")
    whole = [name for name in tables[0] if all(name in table and table[name].notna().all() for table in tables)]
    return {name: np.stack([table[name].to_numpy() for table in tables]) for name in whole}


def protocol(study: Study, variant: str) -> dict[str, Any]:
    """Return how a variant was measured: the data, its protocol and binarization, test images, draws."""
    return dict(_decomposition(study, variant)["protocol"])


def model(study: Study, variant: str, seed: int) -> dict[str, Any]:
    """Return what the training says of a model.

    These are `widths` of z_1, ..., z_T, `parameters`, `seconds`, `best_epoch`, and its `model`, the settings.
    """
    with reading(study, study.train(variant) / f"seed-{seed}" / "model.json", f"train@{variant}") as path:
        content = dict(read_json(path, "widths", "parameters", "seconds", "best_epoch", "model"))
        MEASURES[content["model"]["likelihood"]]
        return content


def curves(study: Study, variant: str) -> dict[int, list[dict[str, float]]]:
    """Return by seed the rows of a variant's training, one an epoch."""
    import pandas as pd

    rows = {}
    for seed in _seeds(study, variant):
        with reading(study, study.train(variant) / f"seed-{seed}" / "curves.csv", f"train@{variant}") as path:
            read_csv(path)[0]["epoch"]
            rows[seed] = pd.read_csv(path).to_dict("records")
    return rows


def mean_curves(study: Study) -> list[dict[str, Any]]:
    """Return the bounds of all variants by epoch, means over seeds, in one table: a row a variant and epoch."""
    rows: list[dict[str, Any]] = []
    for variant in study.params.variants:
        with reading(study, study.curves(variant), f"train@{variant}") as path:
            for row in read_csv(path):
                bounds = {key: float(row[key]) for key in ("train/elbo", "valid/elbo")}
                rows.append({"variant": variant, "epoch": int(float(row["epoch"])), **bounds})
    return rows


def finals(study: Study, variant: str) -> list[tuple[float, float]]:
    """Return rate and distortion of each final model on the validation set, at its best epoch: as of the trials."""
    points = []
    for seed, rows in curves(study, variant).items():
        best_epoch = model(study, variant, seed)["best_epoch"]
        points += [(row["valid/kl"], -row["valid/reconstruction"]) for row in rows if row["epoch"] == best_epoch]
    return points


def trials(study: Study, variant: str) -> list[dict[str, Any]]:
    """Return a variant's trials with `depth` and `z_dim`, units of z_1; what was not swept is the variant's own.

    `point` is rate and distortion on the validation set, or None where the trial has left none.
    """
    if not _searched(study, variant):
        return []
    base = study.params.variant(variant).model
    bottom = (base.level_widths or model(study, variant, study.params.train.seeds[0])["widths"])[0]
    with reading(study, study.sweep(variant) / "trials.csv", f"sweep@{variant}") as path:
        return [
            {
                "variant": variant,
                "search": int(row.get("search") or 0),  # a table of an older version has one search
                "number": int(row["number"]),
                "state": row["state"],
                "value": float(row["value"]) if row["value"] else None,
                "point": (float(row["valid/kl"]), -float(row["valid/reconstruction"])) if row.get("valid/kl") else None,
                "depth": base.levels if (depth := row.get("model.depth")) in (None, "", "continuous") else int(depth),
                "z_dim": int(row.get("model.z_dim") or bottom),
            }
            for row in read_csv(path)
            if row["state"] != "PRUNED" or not row.get("reason")  # of settings that do not go together
        ]


def best(study: Study, variant: str) -> list[dict[str, Any]]:
    """Return the best trial of each search of a variant: its number `trial`, `params` and `value` in nats.

    Where nothing was searched there is one entry, with None for trial and value.
    """
    if not _searched(study, variant):
        return [{"trial": None, "params": {}, "value": None}]
    path = needed(study, study.sweep(variant) / "best.json", f"sweep@{variant}")
    return entries(path, "trial", "params", "metric", "value")


def searches(study: Study, variant: str) -> int:
    """Return how many searches a variant had; 0 where nothing was searched."""
    return sum(trial["trial"] is not None for trial in best(study, variant))


def searched(study: Study, variant: str) -> int:
    """Return how many settings the search of a variant had to choose: the paths of its space with several values."""
    if searches(study, variant) == 0:
        return 0
    return sum(len(kind.boundary_values) > 1 for kind in study.params.space(variant).values())


def _searched(study: Study, variant: str) -> bool:
    """Return whether there must be a search: a standalone study may have a training alone."""
    return not study.is_standalone or study.sweep(variant).exists()


def noise_levels(study: Study, variant: str, table: str) -> list[dict[str, str]]:
    """Return a diffusion's table of the first seed, `bound_by_levels` or `rate_by_log_snr`; nothing of other models."""
    path = study.evaluate(variant) / f"seed-{study.params.train.seeds[0]}-{table}.csv"
    return read_csv(path) if path.exists() else []


def pictures(study: Study, variant: str) -> dict[str, np.ndarray]:
    """Return the arrays that `pipeline.evaluation.pictures` has computed of a variant's first seed."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    with reading(study, study.evaluate(variant) / PICTURES, f"evaluate@{variant}") as path:
        try:
            arrays = dict(load(path.read_bytes()))
        except SafetensorError as error:
            raise ValueError(str(error)) from None
    if arrays["samples"].ndim == 3:  # an earlier version has written grey images without channels
        return {name: array[..., None, :, :] if array.dtype == "uint8" else array for name, array in arrays.items()}
    return arrays


def circumstances(study: Study) -> Circumstances:
    """Return by variant and seed when, where and with which code a model was trained, and its run in MLflow."""
    runs: Circumstances = {}
    for variant in study.params.variants:
        for seed in _seeds(study, variant):
            with reading(study, study.train(variant) / f"seed-{seed}" / "mlflow.json", f"train@{variant}") as path:
                runs.setdefault(variant, {})[seed] = dict(read_json(path, "experiment", "run"))
    return runs


def needed(study: Study, path: Path, stage: str) -> Path:
    """Return `path`, which `stage` makes; one that is missing raises `InputError`."""
    if not path.is_file():
        raise InputError(f"{_shown(study, path)}: no such file; stage {stage} makes it: run `{study.command(stage)}`")
    return path


@contextmanager
def reading(study: Study, path: Path, stage: str) -> Iterator[Path]:
    """Give `path`, which `stage` makes; content that cannot be understood raises `InputError`."""
    needed(study, path, stage)
    try:
        yield path
    except (AttributeError, KeyError, IndexError, TypeError, ValueError):
        command = study.command(stage)
        raise InputError(f"{_shown(study, path)}: damaged; stage {stage} makes it: run `{command}`") from None


def _tests(study: Study, variant: str) -> dict[int, Mapping[str, Mapping[str, float]]]:
    """Return by seed and metric the test results of a variant; a seed that was not evaluated raises `InputError`."""
    tests, seeds = _decomposition(study, variant)["seeds"], _seeds(study, variant)
    for seed in seeds:
        if str(seed) not in tests:
            source = _shown(study, study.decomposition(variant))
            stage = f"evaluate@{variant}"
            raise InputError(f"{source}: has no seed {seed}; `{study.command(stage)}` runs {stage} again")
    if line := retrained_line(study, variant):
        raise InputError(line)
    return {seed: tests[str(seed)] for seed in seeds}


def _decomposition(study: Study, variant: str) -> Any:
    return read_json(needed(study, study.decomposition(variant), f"evaluate@{variant}"), "protocol", "seeds")


def _seeds(study: Study, variant: str) -> tuple[int, ...]:
    return study.params.variant(variant).train.seeds


def _shown(study: Study, path: Path) -> str:
    return str(path.relative_to(study.root)) if path.is_relative_to(study.root) else str(path)
