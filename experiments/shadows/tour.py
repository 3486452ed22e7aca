"""Write docs/tour.md and its pictures from the results of this study: `make tour`.

Every number of the page comes from the files of the study, and what they lack is measured on its models of seed 0.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
import torch
from torch.distributions import kl_divergence

import pipeline
from experiments.shadows.pictures import draw_decisions, draw_knowledge, draw_reconstructions
from experiments.shadows.solids import draw_solids
from pipeline import data
from pipeline.data.cave import FACTORS, SOLIDS
from pipeline.data.images import to_unit_interval
from pipeline.files import read_json
from pipeline.models import HierarchicalVAE
from pipeline.objectives import elbo
from pipeline.randomness import seeded
from pipeline.study import Study

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
IMAGES = ROOT / "docs" / "images"
SHOWN = 0  # the test image that the tour follows
DRAWS = 200


def table(results: pd.DataFrame, metrics: list[str]) -> dict[str, dict[str, float]]:
    """Return the mean over seeds of each metric, by variant."""
    means = results.pivot_table(index="variant", columns="metric", values="value", sort=False)
    return {
        str(v): {m: float(row[m]) for m in metrics if m in row and not pd.isna(row[m])} for v, row in means.iterrows()
    }


def one_image(study: Study, variant: str, row: int) -> dict[str, float]:
    """Return the terms of one test image under the model of seed 0."""
    values = pd.read_parquet(study.evaluate(variant) / "seed-0.parquet").iloc[row]
    return {str(key): float(value) for key, value in values.items() if not pd.isna(value)}


def with_interval(row: dict[str, Any], name: str) -> str:
    """Return a number of table.csv with its interval, or nothing where the variant has no such number."""
    value, half = row[f"{name} [nats]"], row[f"{name} half [nats]"]
    return "" if pd.isna(value) else f"{value:.2f} ± {half:.2f}"


@torch.no_grad()
def wrong_forms(model: HierarchicalVAE, x: torch.Tensor) -> dict[str, float]:
    """Return the terms of the bound of a chain, beside what two mistaken forms of it give."""
    with seeded(0, "tour"):
        bound = elbo(model, x, DRAWS)
    with seeded(0, "tour"):
        z, q = model.posterior(x, DRAWS)
    closed = [float(kl_divergence(a, b).mean()) for a, b in zip(q, model.joint(z)[1:], strict=True)]
    reconstruction, rates = float(bound.reconstruction.mean()), [float(rate.mean()) for rate in bound.rate]
    return {
        "elbo": float(bound.elbo.mean()),
        "kl": sum(rates),
        "rate": rates[0],
        "closed": closed[0],
        "top_rate": rates[1],
        "top_closed": closed[1],
        "closed_elbo": reconstruction - sum(closed),
        "reconstruction": reconstruction,
        "summed": 4 * reconstruction - sum(rates),
    }


def main() -> None:
    """Draw the pictures and write the page."""
    study = Study.at(HERE)
    if not (study.report / "results.csv").exists():
        sys.exit(
            "the study has no results yet; first: cave study activate shadows; dvc repro experiments/shadows/dvc.yaml"
        )
    IMAGES.mkdir(parents=True, exist_ok=True)
    variants = list(study.params.variants)
    results = pd.read_csv(study.report / "results.csv")
    splits = data.load(study.data)
    models = {variant: pipeline.load(study.train(variant) / "seed-0") for variant in variants}
    x = to_unit_interval(torch.as_tensor(splits.test), splits.scale)
    means = table(results, list(dict.fromkeys(results["metric"])))
    levels = [("pixels", variants[0], "x")]
    levels += [(f"{v} z_{t}", v, f"z{t}") for v in variants for t in range(1, models[v].depth + 1)]
    names = list(FACTORS)
    known = {label: [means[v][f"probe/{name}/{level}"] for name in names] for label, v, level in levels}

    draw_solids(IMAGES / "solids.png")
    draw_knowledge(IMAGES / "knowledge.png", known, names)
    draw_reconstructions(IMAGES / "reconstructions.png", models, x[:10], splits.shape)
    draw_decisions(IMAGES / "decisions.png", models["mhvae"], splits.shape)

    intervals = pd.read_csv(study.report / "table.csv").set_index("variant").to_dict("index")
    images = {variant: one_image(study, variant, SHOWN) for variant in variants}
    factors = dict(zip(names, splits.factors["test"][SHOWN].tolist(), strict=True))
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    context: dict[str, Any] = {
        "study": study,
        "splits": splits,
        "variants": variants,
        "means": means,
        "images": images,
        "line": lambda title, cells: "| " + " | ".join([title, *cells]).replace("|  |", "| |") + " |",
        "one": lambda name: [f"{images[v][name]:.2f}" if name in images[v] else "" for v in variants],
        "all": lambda name: [with_interval(intervals[v], name) for v in variants],
        "widths": [intervals[v]["widths"] for v in variants],
        "shown": SHOWN,
        "factors": factors,
        "solid": SOLIDS[int(factors["solid"])],
        "wrong": wrong_forms(models["mhvae"], x[:200]),
        "draws": DRAWS,
        "known": known,
        "names": names,
        "levels": levels,
        "verdict": study.verdict,
        "trials": pd.read_csv(study.sweep("mhvae") / "trials.csv").to_dict("records"),
        "best": read_json(study.sweep("mhvae") / "best.json"),
        "np": np,
    }
    page = environment.get_template("tour.md.j2").render(context)
    (ROOT / "docs" / "tour.md").write_text(page, encoding="utf-8")
    print("docs/tour.md and its pictures in docs/images are written")


if __name__ == "__main__":
    main()
