"""Names and sentences use the field's words, so that an engineer from another project reads them without a key.

Two lists are refused: verbs that this project alone used for standard ideas, in names and in prose, and variable names
that say how a value came instead of what it is. CONTRIBUTING.md has the glossary of the words to use instead.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.small import ROOT

PROSE = re.compile(
    r"\b(heed|heeds|heeded|bear|bears|borne|tell|tells|told|telling|hear|hears|heard|hearing|insist|insists"
    r"|mend|mends|mended|mending|climb|climbs|climbed|prove|proves|proven|aside|lives)\b",
    re.IGNORECASE,
)
NAMES = re.compile(
    r"^_*(heed|bear|insist|tell|told|say|says|hear|heard|bring|mend|climb|reach|reached|prove|found|given|kept|wanted"
    r"|left|known|place|aside|outside|lives|life|whose|here|there)_*$"
)
EXCEPTIONS = ('"told"',)
"""Exact texts that stay: the name of a crash point."""

SCIENCE = [
    "activity",
    "adam",
    "annealing",
    "checkpoint",
    "contracts",
    "decompositions",
    "defects",
    "distributions",
    "evaluation",
    "exact_chains",
    "extrapolation",
    "factors",
    "figures",
    "fused",
    "gaps",
    "gradients",
    "identities",
    "ladder",
    "likelihoods_more",
    "manual_gradient",
    "matching",
    "models",
    "networks",
    "objectives",
    "optimum",
    "outliers",
    "precision",
    "priors",
    "shapes",
    "steps",
    "surgery",
    "training",
    "training_options",
    "usage",
    "weights",
]
"""The tests of the models, their training and their evaluation."""

MACHINERY = [
    "allocator",
    "architecture",
    "by_hand",
    "cli",
    "cluster",
    "cluster_files",
    "cost",
    "current",
    "data",
    "data_cave",
    "data_fetch",
    "doctor",
    "dvc",
    "environment",
    "errors",
    "files",
    "images",
    "interrupts",
    "launch",
    "links",
    "location",
    "notes",
    "packages",
    "paired",
    "pipeline",
    "progress",
    "ray",
    "report",
    "run_machine",
    "searches",
    "security",
    "side_by_side",
    "space",
    "speed",
    "studies",
    "sweep",
    "sweep_metric",
    "sweep_settings",
    "text",
    "threads",
]
"""The tests of data, sweeps, processes, stages, the report and the command line."""

CLEAN = [
    "README.md",
    "CONTRIBUTING.md",
    "docs",
    "experiments/README.md",
    "pipeline/jobs",
    "pipeline/links.py",
    *(f"pipeline/{name}" for name in ("distributions", "models", "training", "evaluation", "figures")),
    *(f"pipeline/{name}.py" for name in ("metric", "objectives", "testing")),
    *(f"tests/{name}.py" for name in ("closed_forms", "linear_gaussian", "small")),
    *(f"tests/test_{name}.py" for name in SCIENCE),
    "pipeline/processes",
    "pipeline/sweep",
    "pipeline/params",
    "pipeline/data",
    "tests/test_params.py",
    "tests/test_derived.py",
    "tests/test_broken_files.py",
    "tests/command.py",
    "pipeline/doctor",
    "pipeline/cli",
    "pipeline/report",
    "pipeline/searches.py",
    *(f"tests/{name}.py" for name in ("postgres", "ray_cluster", "rooms", "tracking_server", "workshop", "zygote")),
    *(f"tests/test_{name}.py" for name in MACHINERY),
    *(f"pipeline/{name}.py" for name in ("addresses", "environment", "errors", "files", "location")),
    *(f"pipeline/{name}.py" for name in ("progress", "redaction", "removal", "startup", "study", "text")),
]
"""Folders and files without any of these words."""

TO_DO = [
    "pipeline",
    "tests",
]
"""What is to be cleaned still: move a folder into `CLEAN` once its own test passes."""


def prose(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the comments and strings of a Python file, or the lines of a text, with their line numbers."""
    if path.suffix != ".py":
        yield from enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        return
    kinds = {tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}
    for token in tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline):
        if token.type in kinds and token.string not in EXCEPTIONS:
            yield token.start[0], token.string


def names(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the names that a Python file defines: functions, classes, arguments, variables, attributes."""
    if path.suffix != ".py":
        return
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr


def private_words(path: Path) -> list[str]:
    """Return the refused words of a file, each with its place."""
    where = path.relative_to(ROOT)
    words = [f"{where}:{line}: {match[0]}" for line, text in prose(path) for match in PROSE.finditer(text)]
    words += [f"{where}:{line}: {name}" for line, name in names(path) if NAMES.match(name)]
    return words


def files(entry: str) -> list[Path]:
    """Return the files of an entry of `CLEAN`."""
    path = ROOT / entry
    return [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.suffix in (".py", ".md", ".j2"))


@pytest.mark.parametrize("entry", CLEAN)
def test_the_words_are_the_fields(entry: str) -> None:
    """No refused word stands in a name, a docstring, a comment or a message."""
    assert files(entry)
    assert [word for path in files(entry) for word in private_words(path)] == []
