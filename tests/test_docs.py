"""The documents are true where a program can see it: links lead somewhere, commands parse, code runs."""

from __future__ import annotations

import functools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from typer.main import get_command

from experiments.shadows.solids import EXAMPLES, placed, surface
from pipeline.data.cave import outline
from pipeline.params import Params, parse_assignments
from tests.small import ROOT

DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
DEFAULTS = Params.read(ROOT / "params.yaml")
LOG = ROOT / "experiments" / "README.md"  # dated: its commands are those of their day
MADE = ("experiments/default", "experiments/wide", "experiments/speed/latest.json", "experiments/<study>")  # by a run
MISSING = r"Missing (argument|option|parameter)"
CODE = re.compile(r"```(\w*)\n(.*?)```", re.DOTALL)


def slug(heading: str) -> str:
    """Return the anchor that a heading gets."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


def anchors(path: Path) -> set[str]:
    """Return the anchors of a document's headings."""
    return {slug(line.lstrip("# ")) for line in path.read_text().splitlines() if line.startswith("#")}


def broken_links(path: Path) -> Iterator[str]:
    """Yield the links of a document that lead to no file, or to no heading, of the project."""
    text = CODE.sub("", path.read_text())
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        exists = file.is_relative_to(ROOT) and file.exists()
        if not exists or (anchor and anchor not in anchors(file)):
            yield target


def lost_paths(path: Path) -> Iterator[str]:
    """Yield the paths in backticks that begin with a folder of the project and are not there."""
    for name in re.findall(
        r"`((?:pipeline|tests|docs|experiments|\.ci|\.dvc)/[\w./<>-]*)", CODE.sub("", path.read_text())
    ):
        if not (ROOT / name).exists() and not name.startswith(MADE):
            yield name


def lines(path: Path) -> Iterator[tuple[str, bool, bool]]:
    """Yield each line that may be a command, whether it stands alone, not in a sentence, and whether it must fail."""
    text = path.read_text()
    block = text.splitlines()
    for number, line in enumerate(block):
        if line.startswith("    "):
            fails = line.startswith("    $ ") and "".join(block[number + 1 : number + 2]).startswith("    error:")
            while line.endswith("\\"):
                number += 1
                line = line[:-1] + block[number].strip()
            yield line.strip().removeprefix("$ "), True, fails
    for inline in re.findall(r"`([^`\n]+)`", CODE.sub("", text)):
        yield inline.replace("\\|", "|"), False, False


def commands(path: Path) -> Iterator[tuple[list[str], bool, bool]]:
    """Yield the words of each command of `cave`, `make`, `dvc` or `python` in a document, as `lines` does."""
    for line, alone, fails in lines(path):
        if not re.match(r"([A-Z_]+=\S+ )*(cave|make|dvc|python) ", line + " "):
            continue
        for part in re.split(r" (?:&&|\||;) ", line):
            words = [word for word in shlex.split(part, comments=True) if not re.match(r"[A-Z_]+=", word)]
            if words and words[0] in ("cave", "make", "dvc", "python"):
                yield words, alone, fails


def check_cave(words: list[str]) -> None:
    """Parse a command line of `cave`, and the parameters that it sets; raise what the command would raise."""
    from pipeline.cli.app import app

    command = get_command(app)
    context = command.make_context("cave", list(words)) if words else None
    while hasattr(command, "commands"):
        if context is None or not (rest := [*context._protected_args, *context.args]):
            return
        _, command, rest = command.resolve_command(context, rest)
        assert command is not None
        context = command.make_context(command.name, rest, parent=context)
    assert context is not None
    overrides = parse_assignments(list(context.params.get("assignments") or []))
    if variant := context.params.get("variant"):
        overrides["variants"] = {variant: DEFAULTS.variants[variant]}
    if overrides:
        DEFAULTS.override(overrides)


@functools.cache
def targets() -> set[str]:
    """Return the targets of the Makefile."""
    return set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def complaint(words: list[str]) -> str:
    """Return what is wrong with a command, or nothing."""
    program, *rest = words
    try:
        if program == "cave":
            check_cave(rest)
        elif program == "make":
            names = [word for word in rest if "=" not in word]
            assert set(names) <= targets(), f"no target {sorted(set(names) - targets())}"
        elif program == "dvc":
            from dvc.cli.parser import get_main_parser

            get_main_parser().parse_args(rest)
        elif rest and rest[0].endswith(".py"):
            assert (ROOT / rest[0]).is_file(), f"no file {rest[0]}"
    except (Exception, SystemExit) as error:
        if getattr(error, "exit_code", getattr(error, "code", None)) == 0:  # of --help
            return ""
        return getattr(error, "format_message", lambda: repr(error))()
    return ""


@pytest.mark.parametrize("path", [*DOCUMENTS, LOG], ids=lambda path: path.name)
def test_every_link_leads_somewhere(path: Path) -> None:
    """Links, pictures and anchors of a document exist, and so do the paths of the project that it names."""
    assert list(broken_links(path)) == []
    assert path == LOG or list(lost_paths(path)) == []


def test_the_errata_name_tests_that_are_there() -> None:
    """Each test that docs/mathematics.md names is a test of this project."""
    names = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / "mathematics.md").read_text()))
    texts = [file.read_text() for file in (ROOT / "tests").glob("test_*.py")]
    assert len(names) >= 6
    assert {name for name in names if not any(f"def {name}(" in text for text in texts)} == set()


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_parses(path: Path) -> None:
    """`cave`, `dvc` and `make` accept each command of a document; one in a sentence may leave its arguments out."""
    for words, alone, fails in commands(path):
        wrong = complaint(words)
        assert bool(wrong) == fails or (not alone and re.match(MISSING, wrong)), f"{shlex.join(words)}: {wrong}"


def test_the_check_of_commands_sees_mistakes() -> None:
    """A command that is not there, an option, a parameter, a target and a file that are not there are all refused."""
    wrong = [
        "cave shw",
        "cave train --varient x",
        "cave check --set model.dept=3",
        "make nothing",
        "dvc rpro",
        "python a.py",
    ]
    assert [line for line in wrong if not complaint(shlex.split(line))] == []


def test_the_code_of_the_readme_is_that_of_the_project() -> None:
    """The five lines are those of the bound, and the others are Python; `tests/test_api.py` runs them."""
    five, *others = [code for kind, code in CODE.findall((ROOT / "README.md").read_text()) if kind == "python"]
    for code in others:
        compile(code, "README.md", "exec")
    bound = (ROOT / "pipeline" / "objectives.py").read_text()
    assert all(f"    {line}\n" in bound for line in five.splitlines())


def test_the_readme_is_read_in_ten_minutes() -> None:
    """It has at most 180 lines; all else is in docs/."""
    assert len((ROOT / "README.md").read_text().splitlines()) <= 180


def test_the_opening_pictures_shadows_are_those_of_its_solids() -> None:
    """Light takes each solid of the picture to the shadow that is drawn on the wall, in every direction of the wall."""
    angle = np.linspace(0, 2 * np.pi, 40)
    directions = np.stack([np.cos(angle), np.sin(angle)])
    for solid, factors in enumerate(EXAMPLES):
        points = placed(surface(solid, factors[0], factors[1]), factors)
        cast = points[:, :2] + points[:, 2:] * np.array([np.tan(factors[-1]), 0])
        shadow = outline(np.array([[solid, *factors]]))[0]
        assert np.abs((cast @ directions).max(0) - (shadow @ directions).max(0)).max() < 0.01
