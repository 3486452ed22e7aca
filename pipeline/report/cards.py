"""Model cards: for each variant what its models are, how they were measured, their numbers, and their limits."""

from __future__ import annotations

from pipeline.files import read_json, sha256, write_text
from pipeline.report import inputs
from pipeline.report.comparison import Comparison, Result
from pipeline.report.tables import notes
from pipeline.study import Study
from pipeline.text import by_level, plural

__all__ = ["write_cards"]

TERMS = {
    "nll": "upper bound of -log p(x), from L_k with the most draws",
    "elbo": "evidence lower bound",
    "reconstruction": "log p(x given z_1), mean over the posterior",
    "kl": "sum of all levels' rates",
    "gap": "what L_k adds to the evidence lower bound",
    "bpd": "bits per dimension",
}
USE = """```python
import mlflow

model = mlflow.pyfunc.load_model("models:/{name}@champion")
results = model.predict(images, params={{"draws": 100, "seed": 0}})
```

"""
ARRAYS = (
    "`images` is a float32 array [n, {shape}] in [0, 1]. The results are arrays by name: `reconstructions`;"
    " the latents {latents}; and by image, in nats, `elbo`, `kl`, `nll` and the rates of the levels, as `rate/z1`. The"
    " package `platos-cave` must be installed."
)


def write_cards(study: Study, comparison: Comparison) -> None:
    """Write `models/<variant>.md` into the report's folder, but for variants that an earlier version has evaluated."""
    for result in comparison.results:
        if not (study.evaluate(result.variant) / "champion.json").exists():
            continue
        write_text(study.report / "models" / f"{result.variant}.md", _card(study, comparison, result))


def _card(study: Study, comparison: Comparison, result: Result) -> str:
    """Return a variant's card; its last line has the digest of the evaluation, by which an old card is known."""
    from pipeline.data import image_shape

    evaluation = study.evaluate(result.variant)
    seed = read_json(evaluation / "champion.json", "seed")["seed"]
    about = inputs.model(study, result.variant, seed)
    tests = read_json(study.decomposition(result.variant), "seeds")["seeds"][str(seed)]
    channels, *size = image_shape(about["data"]["shape"])
    shape = ", ".join(map(str, [channels, *size] if channels > 1 else size))
    latents = ", ".join(f"`z{level}` [n, {count}]" for level, count in enumerate(about["widths"], start=1))
    rows = [
        f"| {name}: {text} | {_number(tests[f'test/{name}'])} | {result.metrics[name]} |"
        for name, text in TERMS.items()
        if name in result.metrics and f"test/{name}" in tests
    ]
    rows += [
        f"| rate/z{t}: rate of level {t} | {_number(tests[f'test/rate/z{t}'])} | {result.metrics[f'rate/z{t}']} |"
        for t in range(1, len(about["widths"]) + 1)
        if f"test/rate/z{t}" in tests
    ]
    nll = f"The nll of these models is too high {result.too_high}." if result.too_high else "The error of nll is small."
    name = f"{study.name}.{result.variant}"
    what = (
        f"A variational autoencoder of {plural(len(about['widths']), 'latent level')} with"
        f" {by_level(about['widths'], ' - ')} units and {int(about['parameters']):,} weights; likelihood"
        f" {result.likelihood}, a {result.measure}. A version is the final model of one seed. The champion, seed"
        f" {seed}, has the best bound on the validation set; the test set played no part in that choice."
    )
    return f"""# {name}

{what}

## Use

{USE.format(name=name)}{ARRAYS.format(shape=shape, latents=latents)}

## Data and protocol

{" ".join(notes(comparison)[:1])}

## Numbers on the test set, in nats an image

| term | champion ± error | mean of {plural(len(result.seeds), "seed")} ± {comparison.confidence:.0%} interval |
|---|---:|---:|
{chr(10).join(rows)}

{comparison.verdict}

## Limits

- {nll} A bound of one image from few draws is rough; more `draws` make it tighter.
- Images must be made as those of the data set were: numbers of other images, or of another binarization, say little.
- A single rate is not a divergence and may be negative.

Evaluation {sha256([study.decomposition(result.variant).read_bytes()])[:12]}
"""


def _number(cell: dict[str, float | None]) -> str:
    value, error = cell["value"], cell["se"]
    return f"{value:.2f}" if error is None else f"{value:.2f} ± {error:.2g}"
