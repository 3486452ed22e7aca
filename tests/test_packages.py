"""What the tests and the package import is what `make env` installs: no extra is needed to collect or to pass."""

from __future__ import annotations

import ast
import functools
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from pipeline.run_folders.source import PACKAGE
from tests.rooms import tree
from tests.small import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
OWN = {"pipeline", "tests", "experiments"}


def distributions(requirements: list[str]) -> set[str]:
    """Return the normalized names of the packages that requirements name."""
    names = (re.match(r"[\w.-]+", text) for text in requirements)
    return {re.sub(r"[-_.]+", "-", name[0]).lower() for name in names if name}


def imports(path: Path, *, at_once: bool) -> Iterator[str]:
    """Yield the packages, other than Python's own, that a file imports: anywhere, or when it is imported itself."""
    nodes: list[ast.AST] = [tree(path)]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module]
        else:
            names = []
        for name in names:
            if (package := name.split(".")[0]) not in sys.stdlib_module_names and package not in OWN:
                yield package
        if not (at_once and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)):
            nodes += ast.iter_child_nodes(node)


@functools.cache
def installed_packages() -> Mapping[str, list[str]]:
    """Return the distributions that each package comes from."""
    return packages_distributions()


def undeclared(paths: list[Path], requirements: list[str], *, at_once: bool) -> dict[str, list[str]]:
    """Return the imported packages that no requirement names, and the files that import them."""
    declared, installed = distributions(requirements), installed_packages()
    missing: dict[str, list[str]] = {}
    for path in paths:
        for package in imports(path, at_once=at_once):
            names = {re.sub(r"[-_.]+", "-", name).lower() for name in installed.get(package, [package])}
            if not names & declared:
                missing.setdefault(package, []).append(path.name)
    return missing


def test_the_package_imports_what_it_declares() -> None:
    """Whatever `pipeline` imports anywhere is a dependency by name, or belongs to an extra; none comes by chance."""
    extras = EXTRAS["postgres"] + EXTRAS["ray"] + EXTRAS["dashboard"]
    assert undeclared(sorted(PACKAGE.rglob("*.py")), PROJECT["dependencies"] + extras, at_once=False) == {}


def test_the_package_is_imported_without_extras() -> None:
    """Importing any module of `pipeline` needs its dependencies alone."""
    assert undeclared(sorted(PACKAGE.rglob("*.py")), PROJECT["dependencies"], at_once=True) == {}


@pytest.mark.slow
def test_the_tests_are_collected_without_extras() -> None:
    """Importing any module of the tests needs the dependencies and `dev`, which is what `make env` installs."""
    files = sorted((ROOT / "tests").glob("*.py"))
    assert undeclared(files, PROJECT["dependencies"] + EXTRAS["dev"], at_once=True) == {}


def test_the_tests_import_what_is_declared() -> None:
    """Whatever the tests import anywhere is a dependency by name, in `dev` or in another extra."""
    files = sorted((ROOT / "tests").glob("*.py"))
    every = [text for texts in EXTRAS.values() for text in texts]
    assert undeclared(files, PROJECT["dependencies"] + every, at_once=False) == {}
