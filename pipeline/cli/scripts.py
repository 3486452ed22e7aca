"""What commands give to scripts as JSON, and to the browser."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import Any

from pipeline.environment import has_screen
from pipeline.evaluations import retrained_line
from pipeline.files import read_csv
from pipeline.links import find_runs
from pipeline.study import Study

__all__ = ["link_document", "open_page", "study_document"]


def link_document(study: Study) -> dict[str, Any]:
    """Return where a study's report lies and its runs are shown, null for what is not there."""
    page = study.report / "report.html"
    return {
        "study": study.name,
        "report": str(page) if page.is_file() else None,
        "runs": find_runs(study).address or None,
    }


def study_document(study: Study) -> dict[str, Any]:
    """Return a study's table, a row a variant with numbers as numbers, and its links."""
    path = study.report / "table.csv"
    rows = read_csv(path) if path.is_file() else []
    texts = ("variant", "widths")
    variants = [{key: cell if key in texts else _number(cell) for key, cell in row.items()} for row in rows]
    notes = [line for variant in study.params.variants if (line := retrained_line(study, variant))]
    return {**link_document(study), "variants": variants, "notes": notes}


def open_page(page: Path) -> None:
    """Open a file in the browser, where there is a screen."""
    if has_screen():
        webbrowser.open(page.as_uri())


def _number(cell: str) -> Any:
    for kind in (int, float):
        try:
            return kind(cell)
        except ValueError:
            continue
    return cell or None
