"""The evaluation of a variant, from the files of its seeds: all results, their milestones, and the means for DVC."""

from __future__ import annotations

from pipeline import data
from pipeline.files import read_json, write_csv, write_json
from pipeline.study import Study

__all__ = ["write_evaluation"]

SHOWN = ("elbo", "reconstruction", "kl", "gap", "nll", "bpd")  # by `dvc metrics`


def write_evaluation(study: Study, variant: str) -> None:
    """Write `decomposition.json` with the protocol, `milestones.csv`, and the means over seeds as DVC's metrics.

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
    write_json(folder / "decomposition.json", {"variant": variant, "protocol": protocol, "seeds": seeds})
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
