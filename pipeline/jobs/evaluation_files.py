"""The evaluation of a variant, from the files of its seeds: all results, their milestones, and the means for DVC."""

from __future__ import annotations

from pipeline import data
from pipeline.errors import InputError
from pipeline.evaluations import Evaluation
from pipeline.files import read_csv, read_json, write_csv, write_json
from pipeline.study import Study

__all__ = ["write_evaluation"]

BOUND = "valid/objective"  # by which training chose the epoch of each model's weights
SHOWN = ("elbo", "reconstruction", "kl", "gap", "nll", "bpd")  # by `dvc metrics`


def write_evaluation(study: Study, variant: str) -> None:
    """Write `decomposition.json` with the protocol, `milestones.csv`, `champion.json`, and the means as DVC's metrics.

    Raises:
        InputError: the file of a seed is missing or damaged.
    """
    folder, splits = study.evaluate(variant), data.load(study.data)
    files = {
        str(seed): read_json(folder / f"seed-{seed}.json", "final", "milestones") for seed in study.params.train.seeds
    }
    seeds = {seed: content["final"] for seed, content in files.items()}
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
    Evaluation.write(study, variant, protocol, seeds)
    rows = [
        {"seed": seed, "epoch": int(epoch), "metric": key, **estimate}
        for seed, content in files.items()
        for epoch, results in content["milestones"].items()
        for key, estimate in results.items()
    ]
    write_csv(folder / "milestones.csv", rows)
    means = {
        name: sum(results[f"test/{name}"]["value"] for results in seeds.values()) / len(seeds)
        for name in SHOWN
        if all(f"test/{name}" in results for results in seeds.values())
    }
    write_json(study.metrics(variant), means)
    write_json(folder / "champion.json", _champion(study, variant))


def _champion(study: Study, variant: str) -> dict[str, float]:
    """Return the seed of the model with the best validation bound, the epoch of its weights, and that bound."""
    models = []
    for seed in study.params.train.seeds:
        folder = study.train(variant) / f"seed-{seed}"
        epoch = int(read_json(folder / "model.json", "best_epoch")["best_epoch"])
        row = next((row for row in read_csv(folder / "curves.csv") if int(row["epoch"]) == epoch), None)
        if row is None or BOUND not in row:
            raise InputError(f"{folder / 'curves.csv'}: damaged, it has no {BOUND} of epoch {epoch}; train again")
        models.append({"seed": seed, "epoch": epoch, BOUND: float(row[BOUND])})
    return max(models, key=lambda model: model[BOUND])
