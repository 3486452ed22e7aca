"""The report's folder: tables, figures and the page. All are made before the first is written."""

from __future__ import annotations

from pipeline.files import write_bytes, write_csv, write_json, write_text
from pipeline.report import inputs, tables
from pipeline.report.comparison import Comparison, build
from pipeline.report.page import page
from pipeline.study import Study

__all__ = ["write"]


def write(study: Study) -> None:
    """Write tables, figures, `summary.json` and the page `report.html` into the report's folder."""
    comparison = build(study)
    drawings = _draw(study, comparison)
    html = page(study, comparison, drawings)
    folder = study.report
    for name, content in drawings.items():
        write_bytes(folder / f"{name}.png", content)
    write_text(folder / "results.csv", comparison.seeds.to_csv(index=False, lineterminator="\n"))
    write_csv(folder / "table.csv", tables.full(comparison))
    write_text(folder / "table.md", tables.markdown(comparison))
    means = {r.variant: {name: value.mean for name, value in r.metrics.items()} for r in comparison.results}
    write_json(folder / "summary.json", means)
    write_text(folder / "report.html", html)


def _draw(study: Study, comparison: Comparison) -> dict[str, bytes]:
    """Return by name the PNGs that compare variants."""
    from pipeline import figures

    variants = [result.variant for result in comparison.results]
    curves = {variant: inputs.curves(study, variant) for variant in variants}
    trials = [trial for variant in variants for trial in inputs.trials(study, variant)]
    tests: dict[str, dict[int, dict[str, float]]] = {variant: {} for variant in variants}
    for (variant, seed), rows in comparison.seeds.groupby(["variant", "seed"], sort=False):
        tests[variant][seed] = dict(zip("test/" + rows["metric"], rows["value"], strict=True))
    bounds = {
        result.variant: {
            name: (value.mean, value.half)
            for name, value in result.metrics.items()
            if name == "elbo" or name.startswith("iwae/")
        }
        for result in comparison.results
    }
    drawings = {
        "bounds": figures.bounds(bounds, comparison.confidence),
        "rates_by_level": figures.rates_by_level(tests),
        "curves": figures.curves(curves),
        "rates_by_epoch": figures.rates_by_epoch(curves),
        "depth_width": figures.depth_width_map(trials),
    }
    if any("test/gap/z1" in row for seeds in tests.values() for row in seeds.values()):
        drawings["gaps_by_level"] = figures.gaps_by_level(tests)
    return {name: figures.png(drawing) for name, drawing in drawings.items()}
