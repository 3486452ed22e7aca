"""The rooms of the package and the imports between them; `python -m tests.rooms` draws them in docs/architecture.md."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

from tests.small import ROOT

__all__ = [
    "BEGIN",
    "COMMANDS",
    "DOCUMENT",
    "END",
    "LINE",
    "MACHINERY",
    "RESULTS",
    "SCIENCE",
    "TOOLS",
    "arrows",
    "drawing",
    "imported",
    "room",
    "tree",
]

PACKAGE = ROOT / "pipeline"
DOCUMENT = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- rooms: begin -->\n", "<!-- rooms: end -->\n"

# From the bottom to the top: a module imports only modules of its own room and of rooms before it in the list.
TOOLS = [
    "location",
    "startup",
    "redaction",
    "errors",
    "environment",
    "text",
    "faults",
    "metric",
    "progress",
    "display",
    "files",
    "log",
]
TOOLS += ["randomness", "colours"]
SCIENCE = [
    "params",
    "data",
    "distributions",
    "models",
    "extensions",
    "objectives",
    "training",
    "evaluation",
    "figures",
    "testing",
]
RESULTS = ["study", "project", "searches", "evaluations", "report"]  # what is written where, and their comparison
MACHINERY = ["processes", "addresses", "run_folders", "tracking", "links", "sweep", "jobs", "stages"]
COMMANDS = ["retrain", "reproduce", "removal", "doctor", "cli", "api", "__main__"]
GROUPS = {"Tools": TOOLS, "Science": SCIENCE, "Results": RESULTS, "Machinery": MACHINERY, "Commands": COMMANDS}
LINE = [name for group in GROUPS.values() for name in group]


def room(path: Path) -> str:
    """Return the module or subpackage of the package that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@functools.cache
def tree(path: Path) -> ast.Module:
    """Return a file's syntax tree."""
    return ast.parse(path.read_text())


@functools.cache
def imported(path: Path) -> set[str]:
    """Return the dotted names that a file imports anywhere, under TYPE_CHECKING too."""
    names: set[str] = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@functools.cache
def arrows() -> dict[str, set[str]]:
    """Return the rooms that each room imports."""
    imports: dict[str, set[str]] = {name: set() for name in LINE}
    for path in PACKAGE.rglob("*.py"):
        if (name := room(path)) != "__init__":
            rooms = {other.split(".")[1] for other in imported(path) if other.startswith("pipeline.")}
            imports[name] |= rooms & set(LINE) - {name}
    return imports


def drawing() -> str:
    """Return the rooms as a Mermaid flow chart; an arrow that follows from two others is left out."""
    direct = arrows()
    below: dict[str, set[str]] = {}
    for name in LINE:
        below[name] = direct[name].union(*(below.get(other, set()) for other in direct[name]))
    lines = ["```mermaid", "flowchart TB"]
    for title, names in GROUPS.items():
        # The tools are imported by nearly everything: they are named once and have no arrows.
        inside = [" ".join(names)] if title == "Tools" else names
        lines += [f"  subgraph {title}", *(f"    {name.split()[0]}[{name}]" for name in inside), "  end"]
    for name in LINE:
        shown = {other for other in direct[name] if not any(other in below[third] for third in direct[name])}
        lines += [f"  {name} --> {other}" for other in sorted(shown - set(TOOLS)) if name not in TOOLS]
    return "\n".join([*lines, "```", ""])


def main() -> None:
    """Write the drawing into the document."""
    before, _, rest = DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)
    DOCUMENT.write_text(before + BEGIN + drawing() + END + rest.partition(END)[2], encoding="utf-8")


if __name__ == "__main__":
    main()
