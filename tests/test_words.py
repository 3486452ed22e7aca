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
ENTRIES = ["pipeline", "tests", "docs", "README.md", "CONTRIBUTING.md", "experiments/README.md"]
"""Folders and files in which these words are refused."""


def prose(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the comments and strings of a Python file, or the lines of a text, with their line numbers."""
    if path.suffix != ".py":
        yield from enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        return
    kinds = {tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}
    for token in tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline):
        if token.type in kinds:
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
    """Return the files of an entry of `ENTRIES`, without this one, which lists the words."""
    path = ROOT / entry
    paths = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.suffix in (".py", ".md", ".j2"))
    return [each for each in paths if each != Path(__file__)]


@pytest.mark.parametrize("entry", ENTRIES)
def test_the_words_are_the_fields(entry: str) -> None:
    """No refused word stands in a name, a docstring, a comment or a message."""
    assert files(entry)
    assert [word for path in files(entry) for word in private_words(path)] == []
