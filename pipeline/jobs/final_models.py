"""The final models of a variant: whether they are trained, how many epochs fit into a time, and their mean curve."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pipeline import data, processes
from pipeline.environment import Resources
from pipeline.errors import InputError
from pipeline.files import file_lock, read_csv, read_json, write_json
from pipeline.params import Params, digest
from pipeline.progress import reporting
from pipeline.run_folders.source import code_digest
from pipeline.searches import describe_source, settings
from pipeline.study import Study
from pipeline.text import by_level, plural
from pipeline.training.matching import match_weights, seconds_per_epoch

__all__ = ["describe_training", "match_time", "mean_curve", "state_digest", "trained"]


def describe_training(study: Study, variant: str, seed: int, widths: Sequence[int], splits: data.Splits) -> str:
    """Describe a final model: what it is, and where its settings come from."""
    return (
        f"**{variant}** with levels {by_level(widths, ' - ')} on `{splits.name}` (protocol {splits.protocol},"
        f" binarization {splits.binarization}), seed {seed}: final training, with"
        f" {describe_source(study, variant, seed)}, and its test results.\n\n{study.how(f'evaluate@{variant}')}"
    )


def trained(study: Study, variant: str) -> bool:
    """Return whether all final models of a variant are there, made with the present settings, data and code."""
    try:
        splits = data.load(study.data)
        for seed in study.params.train.seeds:
            state = state_digest(match_weights(settings(study, variant, seed), splits), splits)
            folder = study.train(variant) / f"seed-{seed}"
            key = str(read_json(folder / "mlflow.json", "key")["key"])
            if not key.endswith(f"/{state}") or not (folder / "model.json").exists():
                return False
    except InputError:
        return False
    return study.curves(variant).exists()


def state_digest(params: Params, splits: data.Splits) -> str:
    """Return the digest of all that a final model depends on, but for its seed."""
    sections = params.model_dump(include={"data", "model", "train"})
    if params.compare.match == "time":
        sections |= {"seconds": params.compare.seconds}
    return digest([sections, splits.digest, code_digest("pipeline.training")])


def match_time(
    study: Study, variant: str, params: Params, splits: data.Splits, state: str, resources: Resources
) -> Params:
    """Return the parameters with as many epochs as `compare.seconds` hold, if `compare.match` asks for that.

    The first training of a variant times a few epochs and stores how many fit; the others, and whatever goes on after
    a kill, read that number. It is removed with the states of the trainings when all of them are finished.
    """
    limit = params.compare.seconds
    if params.compare.match != "time" or limit is None:
        return params
    path = study.cache / "train" / study.unique_name / variant / f"epochs-{state}.json"
    with file_lock(study.locks / "train" / variant / "epochs"):
        if not path.exists():
            with reporting(f"{variant} timing", counted=False):
                seconds = seconds_per_epoch(params, splits, params.train.seeds[0], processes.device(resources.device))
            write_json(path, {"epochs": max(1, math.floor(limit / seconds)), "seconds_per_epoch": seconds})
        fits = read_json(path, "epochs", "seconds_per_epoch")
    try:
        epochs, seconds = int(fits["epochs"]), float(fits["seconds_per_epoch"])
    except (TypeError, ValueError):
        raise InputError(f"{path}: damaged; delete it to time an epoch again") from None
    print(f"{variant}: {plural(epochs, 'epoch')} of {seconds:.3g} s fit {limit:g} s (compare.seconds)", flush=True)
    return params.override({"train.epochs": epochs})


def mean_curve(study: Study, variant: str) -> list[dict[str, float]]:
    """Return the means over seeds of the training curves, as long as the shortest of them.

    Raises:
        InputError: a curve is damaged.
    """
    curves = [read_csv(study.train(variant) / f"seed-{seed}" / "curves.csv") for seed in study.params.train.seeds]
    try:
        # Seeds of different searches may differ in depth: a mean over some of them would look like one over all.
        names = [name for name in curves[0][0] if all(name in curve[0] for curve in curves) and name != "timestamp"]
        left_out = sorted({name for curve in curves for name in curve[0]} - {*names, "timestamp"})
        if not {"epoch", "valid/elbo"} <= set(names):
            raise ValueError
        rows = [
            {name: sum(float(row[name]) for row in rows) / len(rows) for name in names}
            for rows in zip(*curves, strict=False)
        ]
    except (IndexError, KeyError, TypeError, ValueError):
        raise InputError(f"{study.train(variant)}: a curves.csv is damaged; train again") from None
    if left_out:
        print(
            f"{variant}: {study.curves(variant).name} lacks {', '.join(left_out)}, which only some seeds have",
            flush=True,
        )
    return rows
