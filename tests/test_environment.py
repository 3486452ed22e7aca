"""The environment that `make` makes belongs to its folder, and is made anew where it does not fit."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.small import ROOT

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")

NOTHING = "make: Nothing to be done for 'env'.\n"


def make(folder: Path, *words: str) -> str:
    """Return what `make` prints in a folder: in English, and not as a part of another `make`."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    own |= {"LC_ALL": "C"}
    return subprocess.run(["make", *words], cwd=folder, env=own, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a folder whose environment was just made in it, as far as the Makefile can see."""
    folder = tmp_path / "a project"
    folder.mkdir()
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, folder / name)
    installer = folder / ".venv" / "bin" / "python"  # in pip's place
    installer.parent.mkdir(parents=True)
    installer.write_text("#!/bin/sh\n")
    installer.chmod(0o755)
    make(folder, "env", "PYTHON=true")  # in Python's place
    return folder


def test_an_environment_is_made_once(project: Path) -> None:
    """In its own folder, and under another name of the same folder, nothing is left to do."""
    (project.parent / "link").symlink_to(project)
    assert make(project, "-n", "env") == make(project.parent / "link", "-n", "env") == NOTHING


@pytest.mark.parametrize("relocate", [Path.rename, shutil.copytree])
def test_a_moved_or_copied_folder_gets_an_environment_of_its_own(project: Path, relocate: object) -> None:
    """Elsewhere it is made from nothing, which a line says, with the place that it was made for."""
    other = project.parent / "elsewhere"
    assert callable(relocate)
    relocate(project, other)
    assert "-m venv --clear .venv" in make(other, "-n", "env")
    (line,) = [line for line in make(other, "env", "PYTHON=true").splitlines() if "not for this folder" in line]
    assert line == f"the environment in .venv was made for {project}, and not for this folder"
    assert make(other, "-n", "env") == NOTHING


def test_a_link_to_another_environment_leaves_that_alone(project: Path) -> None:
    """Where `.venv` leads to another folder's environment, the link is removed, and the environment is not."""
    other = project.parent / "other"
    other.mkdir()
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(project / name, other / name)
    (other / ".venv").symlink_to(project / ".venv")
    subprocess.run(["make", "env", "PYTHON=true"], cwd=other, capture_output=True, check=False)
    assert not (other / ".venv").exists()
    assert make(project, "-n", "env") == NOTHING


def test_new_requirements_are_installed_into_it(project: Path) -> None:
    """Where only the requirements are newer, it is not emptied first."""
    later = (project / ".venv" / ".ready").stat().st_mtime + 1
    os.utime(project / "pyproject.toml", (later, later))
    todo = make(project, "-n", "env")
    assert "-m venv  .venv" in todo
    assert "pip install" in todo


def test_cleaning_leaves_the_runs_that_mlflow_may_lack(project: Path) -> None:
    """`make clean` empties the cache, but for the folders of runs."""
    for name in ("runs", "data"):
        (project / ".cache" / name / "one").mkdir(parents=True)
    make(project, "clean")
    assert [path.name for path in (project / ".cache").iterdir()] == ["runs"]
