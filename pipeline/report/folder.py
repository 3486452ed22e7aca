"""The report's folder: tables, figures and the page. All are made before the first is written.

DVC plots `curves.csv` and everything in `figures/`, so that folder holds nothing but PNGs. `paper/` has every figure as
PDF and the tables as LaTeX, but for a study that `cave train` has made.
"""

from __future__ import annotations

from pipeline.files import write_bytes, write_csv, write_json, write_text
from pipeline.report import inputs, latex, tables
from pipeline.report.cards import write_cards
from pipeline.report.comparison import build
from pipeline.report.drawings import draw
from pipeline.report.milestones import milestones, tidy
from pipeline.report.page import page
from pipeline.study import Study

__all__ = ["write"]


def write(study: Study) -> None:
    """Write tables, figures, `summary.json` and the page `report.html` into the report's folder."""
    from pipeline import figures

    comparison, bounds_by_epoch = build(study), milestones(study)
    pictures = {variant: inputs.pictures(study, variant) for variant in study.params.variants}
    runs = inputs.circumstances(study)
    curves, folder = inputs.mean_curves(study), study.report
    drawings = draw(study, comparison, bounds_by_epoch, pictures)
    html = page(study, comparison, bounds_by_epoch, drawings, pictures, runs)
    for name, drawing in drawings.items():
        write_bytes(folder / "figures" / f"{name}.png", figures.png(drawing))
    if not study.is_standalone:  # `cave train` is for a quick look, and fonts in a PDF take half a second a figure
        for name, drawing in drawings.items():
            write_bytes(folder / "paper" / f"{name}.pdf", figures.pdf(drawing))
        for name, text in latex.papers(comparison).items():
            write_text(folder / "paper" / f"{name}.tex", text)
    write_csv(folder / "curves.csv", curves)
    write_text(folder / "results.csv", comparison.seeds.to_csv(index=False, lineterminator="\n"))
    write_csv(folder / "table.csv", tables.table_rows(comparison))
    write_csv(folder / "comparisons.csv", tables.comparison_rows(comparison))
    write_csv(folder / "milestones.csv", tidy(bounds_by_epoch))
    write_text(folder / "table.md", tables.markdown(comparison))
    means = {
        r.variant: {
            f"{name}{f' ({value.part})' if value.part else ''}": value.mean for name, value in r.metrics.items()
        }
        for r in comparison.results
    }
    write_json(folder / "summary.json", means)
    write_text(folder / "report.html", html)
    write_cards(study, comparison)
