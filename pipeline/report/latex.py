r"""The tables of a report as LaTeX, for a paper: each is a `tabular` that needs the package booktabs alone."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pipeline.metric import Metric
from pipeline.report import tables
from pipeline.report.comparison import Comparison, Result

__all__ = ["papers"]

BEGIN = "% Needs \\usepackage{booktabs}. "
SPECIAL = str.maketrans(
    {c: f"\\{c}" for c in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$"}
    | {"<": r"$<$", ">": r"$>$", "−": "--", "∞": r"$\infty$", "…": r"\dots"}
)
COLUMNS = 3  # variants that fit side by side
NAMES = {"nll": "NLL", "elbo": "ELBO", "gap": "gap", "kl": "KL", "reconstruction": r"$\log p(x|z_1)$"}


def papers(comparison: Comparison) -> dict[str, str]:
    """Return by name the tables of a paper: `comparison`, of the variants, and `differences`, a row a pair."""
    about = tables.notes(comparison)
    made = {"comparison": _comparison(comparison)}
    if comparison.differences:
        header, cells = tables.pairs(comparison)
        made["differences"] = tabular(header[:-1], [row[:-1] for row in cells], "llrrrl")
    heads = {"comparison": f"{about[0]} {about[1]}", "differences": about[1]}
    return {name: f"{BEGIN}{heads[name]}\n{text}" for name, text in made.items()}


def _comparison(comparison: Comparison) -> str:
    """Return the main table: what was trained, and the terms of the bound with their intervals.

    Of few variants each is a column, so that the table is no wider than the text of a page.
    """
    terms = ("nll", "elbo", "reconstruction", "kl", "gap")
    depth = max(len(result.levels("rate")) for result in comparison.results)
    levels = [str(Metric("rate", level)) for level in range(1, depth + 1)]
    header = ["", "units", "weights", *(NAMES[term] for term in terms), *(f"rate $z_{t + 1}$" for t in range(depth))]
    rows = [
        [
            escape(result.variant),
            escape(result.widths),
            escape(result.parameters),
            *(_cell(result, term, bold=term == "nll" and result.variant in comparison.marked) for term in terms),
            *(_cell(result, name) for name in levels),
        ]
        for result in comparison.results
    ]
    if len(rows) <= COLUMNS:
        header, *rows = map(list, zip(header, *rows, strict=True))
        return _tabular(header, rows, "l" + "r" * (len(header) - 1))
    return _tabular(header, rows, "ll" + "r" * (len(header) - 2))


def _cell(result: Result, name: str, *, bold: bool = False) -> str:
    if name not in result.metrics:
        return "--"
    text = escape(str(result.metrics[name]))
    return rf"\textbf{{{text}}}" if bold else text


def tabular(header: Sequence[str], rows: Sequence[Sequence[str]], columns: str) -> str:
    """Return a table of plain texts.

    >>> print(tabular(["a_b", "%"], [["1 ± 2", "x"]], "rl"), end="")
    \\begin{tabular}{rl}
    \\toprule
    a\\_b & \\% \\\\
    \\midrule
    1 $\\pm$ 2 & x \\\\
    \\bottomrule
    \\end{tabular}
    """
    return _tabular([escape(cell) for cell in header], [[escape(cell) for cell in row] for row in rows], columns)


def escape(text: str) -> str:
    """Return a text with the signs that LaTeX would read as commands made letters."""
    return re.sub(r"(?<![\w.])-(?=\d)", "$-$", text.translate(SPECIAL))


def _tabular(header: Sequence[str], rows: Sequence[Sequence[str]], columns: str) -> str:
    head, *lines = [" & ".join(row) + r" \\" for row in (header, *rows)]
    parts = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", head, r"\midrule", *lines, r"\bottomrule"]
    return "\n".join([*parts, r"\end{tabular}", ""])
