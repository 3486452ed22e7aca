"""Are the standard errors right? Each measurement is repeated on other random numbers, and its spread set against them.

    python experiments/calibration/measure.py digits [seeds]    vae, hvae, mhvae and a ladder, 60 epochs each
    python experiments/calibration/measure.py mnist [seeds]     an mhvae of MNIST, 12 epochs, on 100 test images

A model is trained once and measured `seeds` times (24), each time as the stage `evaluate` does it: bounds, their
decompositions and annealing. For each key

    ratio = standard deviation of the values over the repetitions / root mean square of the printed errors,

which is 1 for errors that are right, but for chance: of 24 repetitions 95% of the ratios lie between 0.72 and 1.28.
Keys without a printed error are diagnostics. Errors that also hold the differences between images that are the same in
every repetition (`generalization`) lie above the spread on purpose. `over` names what an error is over. The table is
written to `experiments/calibration/DATA.csv`; finished repetitions are kept in `.cache/calibration`, so that the same
command goes on.
"""

from __future__ import annotations

import math
import os
import statistics
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("CAVE_DEVICE", "cpu")

import torch  # noqa: E402

from pipeline import data  # noqa: E402
from pipeline.data import Splits  # noqa: E402
from pipeline.environment import data_mirror  # noqa: E402
from pipeline.evaluation import evaluate  # noqa: E402
from pipeline.evaluation.decompose import anneal, decompose  # noqa: E402
from pipeline.files import read_json, write_csv, write_json  # noqa: E402
from pipeline.models import HierarchicalVAE, build  # noqa: E402
from pipeline.params import EvaluateParams, Params, digest  # noqa: E402
from pipeline.randomness import seeded  # noqa: E402
from pipeline.run_folders.source import code_digest  # noqa: E402
from pipeline.training import fit  # noqa: E402

SEEDS = 24
LADDER = {"model.inference": "top_down"}
MODELS: dict[str, dict[str, dict[str, Any]]] = {
    "digits": {
        "vae": {"model.depth": 1},
        "hvae": {"model.parents": "every"},
        "mhvae": {},
        "ladder": LADDER,
    },
    "mnist": {
        "mhvae": {"model.z_dim": 50, "model.hidden": [[200, 200], [100, 100]], "train.learning_rate": 0.001},
    },
}
BUDGET: dict[str, dict[str, Any]] = {
    "digits": {},
    "mnist": {"train.epochs": 12, "train.batch_size": 100, "evaluate.decompose.queries": 100},
}
IMAGES = {"digits": None, "mnist": 100}  # of the test set
OVER_IMAGES = ("generalization/", "ais/acceptance")
Q_FIXED = (
    "approximation_gap",
    "amortization_gap",
)  # their errors hold the optimized q* fixed, each repetition finds another


def prepared(params: Params, folder: Path) -> Splits:
    """Return the data set's splits."""
    data.fetch(params.data, folder / "raw", folder, data_mirror())
    return data.prepare(params.data, folder / "raw", folder / "data")


def trained(params: Params, splits: Splits, folder: Path) -> HierarchicalVAE:
    """Return a trained model; a training that was stopped goes on."""
    torch.manual_seed(0)
    model = build(params.model, torch.as_tensor(splits.mean, dtype=torch.float32))
    for record in fit(model, splits, params.train, seed=0, folder=folder):
        print(f"{folder.name}: epoch {record.epoch}", end="\r", flush=True)
    return model.eval()


def measured(model: HierarchicalVAE, splits: Splits, params: EvaluateParams, images: int | None) -> dict[str, Any]:
    """Return value and printed error of every key."""
    test = torch.as_tensor(splits.test[:images])
    with seeded(params.seed, "seen"):
        train = (
            (torch.as_tensor(splits.train[: len(test)]) / splits.scale).bernoulli().mul(splits.scale).to(torch.uint8)
        )
    assert params.decompose is not None
    found = evaluate(model, test, splits.scale, params, discrete=True, train=train).estimates
    found |= decompose(model, test, splits.scale, params, params.decompose).estimates
    found |= anneal(model, test, splits.scale, params, params.decompose)
    return {key: [estimate.value, estimate.se] for key, estimate in found.items()}


def repeated(name: str, variant: str, seeds: int) -> dict[str, list[list[float | None]]]:
    """Return by key the value and the printed error of every repetition; `variant` is trained first."""
    overrides = {"data.name": name, **BUDGET[name], **MODELS[name][variant]}
    params = Params.read(ROOT / "params.yaml", overrides)
    folder = ROOT / ".cache" / "calibration" / name
    trained_by = digest([params.model.model_dump(mode="json"), params.train.model_dump(mode="json")], 8)
    splits = prepared(params, folder)
    model = trained(params, splits, folder / f"{variant}-{trained_by}")
    found: dict[str, list[list[float | None]]] = defaultdict(list)
    for seed in range(seeds):
        settings = params.evaluate.model_copy(update={"seed": seed})
        measured_by = digest([settings.model_dump(mode="json"), code_digest("pipeline.stages.evaluate")], 8)
        kept = folder / f"{variant}-{trained_by}-{measured_by}.json"
        if not kept.exists():
            write_json(kept, measured(model, splits, settings, IMAGES[name]))
            print(f"{name} {variant}: repetition {seed + 1} of {seeds}", flush=True)
        for key, cell in read_json(kept).items():
            found[key].append(cell)
    return found


def row(name: str, variant: str, key: str, cells: list[list[float | None]]) -> dict[str, Any]:
    """Return the row of one key: mean, spread, printed error and their ratio."""
    values = [value for value, _ in cells if value is not None]
    errors = [error for _, error in cells if error is not None]
    spread = statistics.stdev(values)
    printed = math.sqrt(statistics.fmean(error**2 for error in errors)) if len(errors) == len(cells) else None
    over = "images" if key.startswith(OVER_IMAGES) else "draws, q* fixed" if key.startswith(Q_FIXED) else "draws"
    over = over if printed is not None else "none"
    ratio = spread / printed if printed else None
    return {
        "data": name,
        "variant": variant,
        "key": key,
        "mean": f"{statistics.fmean(values):.6g}",
        "spread": f"{spread:.3g}",
        "printed": "" if printed is None else f"{printed:.3g}",
        "ratio": "" if ratio is None else f"{ratio:.2f}",
        "over": over,
    }


def main() -> None:
    """Measure one data set's models and write the table."""
    name, *rest = sys.argv[1:]
    seeds = int(rest[0]) if rest else SEEDS
    rows = []
    for variant in MODELS[name]:
        found = repeated(name, variant, seeds)
        rows += [row(name, variant, key, cells) for key, cells in found.items() if len(cells) == seeds]
    write_csv(Path(__file__).parent / f"{name}.csv", rows)
    for one in rows:
        outside = one["ratio"] and one["over"] == "draws" and not 0.8 <= float(one["ratio"]) <= 1.25
        numbers = " ".join(f"{one[name]:>12}" for name in ("mean", "spread", "printed", "ratio"))
        print(f"{one['variant']:8} {one['key']:32} {numbers}" + ("  outside 0.8 to 1.25" if outside else ""))


if __name__ == "__main__":
    main()
