"""A project without the repository: the files that `cave study new` makes, and the package as a wheel."""

from __future__ import annotations

import os
import shutil
import subprocess
import venv
from pathlib import Path

import pytest
from typer.testing import CliRunner

import pipeline
from pipeline.cli.app import app
from pipeline.errors import InputError
from pipeline.params import Params, read_yaml
from pipeline.project import MADE, default_params, project_around
from pipeline.study import Study, find_root
from tests.small import ROOT


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty folder outside of any project, which is the working directory."""
    monkeypatch.delenv("DVC_ROOT", raising=False)
    folder = tmp_path / "Own Images"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def files(folder: Path) -> set[str]:
    """Return the paths of the files in a folder, its caches left out."""
    return {
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and ".cache" not in path.parts
    }


def new(*words: str) -> str:
    """Run `cave study new` and return what it prints; what it raises goes on."""
    result = CliRunner().invoke(app, ["study", "new", *words], catch_exceptions=False)
    return result.stdout


def test_a_study_in_an_empty_folder_makes_a_project(empty: Path) -> None:
    """It has the default values, stages that depend on the package's pin in place of its code, and DVC's files."""
    lines = new("mine", "--set", "model.z_dim=5").splitlines()
    assert lines[0] == f"{empty} is now a project, with {', '.join(MADE)}"
    assert lines[-1].endswith("run it with: dvc repro experiments/mine/dvc.yaml")
    assert files(empty) == {*MADE, *(f"experiments/mine/{name}.yaml" for name in ("study", "params", "dvc"))}
    assert find_root(empty) == empty
    assert Params.read(empty / "params.yaml") == Params.read(ROOT / "params.yaml")
    assert Study.at(empty / "experiments" / "mine").params.model.z_dim == 5
    own, root = (read_yaml(folder / "dvc.yaml")["stages"] for folder in (empty, ROOT))
    for name, stage in own.items():
        content, original = (each.get("do", each) for each in (stage, root[name]))
        assert content | {"deps": original["deps"]} == original
        outs = [dep for dep in original["deps"] if not dep.startswith("${root}/pipeline/")]
        assert content["deps"] == [*outs, "${root}/pyproject.toml"]
    assert f"platos-cave=={pipeline.__version__}" in (empty / "pyproject.toml").read_text()
    assert "no_scm = true" in (empty / ".dvc" / "config").read_text()
    assert "is now a project" not in new("other")


def test_a_repository_is_used_where_there_is_one(empty: Path) -> None:
    """Inside a git repository, the configuration of DVC does not forgo it."""
    (empty.parent / ".git").mkdir()
    with project_around(empty) as (root, made):
        assert (root, made) == (empty, True)
    assert "no_scm" not in (empty / ".dvc" / "config").read_text()


@pytest.mark.parametrize("words", [("Mine",), ("mine", "--set", "model.zdim=4"), ("default",)], ids=" ".join)
def test_what_is_refused_leaves_nothing(empty: Path, words: tuple[str, ...]) -> None:
    """A mistake in the study makes no project either."""
    with pytest.raises(InputError):
        new(*words)
    assert files(empty) == set()
    assert not (empty / ".dvc").exists()


def test_no_file_is_written_over(empty: Path) -> None:
    """A file of another content is named, and all stays as it was."""
    (empty / "dvc.yaml").write_text("stages: {}")
    with pytest.raises(InputError, match="inside no project, and dvc"):
        new("mine")
    assert files(empty) == {"dvc.yaml"}


def test_the_default_values_are_those_of_the_root() -> None:
    """`fit` and a new project begin with the values of the root's params.yaml."""
    assert default_params() == Params.read_values(ROOT / "params.yaml")


def run(command: list[str | Path], folder: Path) -> str:
    """Run a command with nothing of this environment but the path of packages; return what it prints."""
    own = {name: os.environ[name] for name in os.environ if name.startswith(("PIP_", "HTTP", "http", "SSL", "HOME"))}
    environment = own | {"PATH": f"{Path(command[0]).parent}:/usr/bin:/bin", "CI": "true"}
    done = subprocess.run([*map(str, command)], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.nightly
@pytest.mark.slow
def test_a_wheel_needs_no_repository(tmp_path: Path) -> None:
    """Installed into a fresh environment, it makes a project whose stages run, and a model in Python."""
    source, work = tmp_path / "source", tmp_path / "work"
    shutil.copytree(
        ROOT, source, symlinks=True, ignore=shutil.ignore_patterns(".git", ".venv", ".cache", "experiments")
    )
    work.mkdir()
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    torch = next(line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("torch=="))
    run([python, "-m", "pip", "install", "--quiet", torch], work)
    run([python, "-m", "pip", "install", "--quiet", "--constraint", source / "constraints.txt", source], work)
    code = "import pipeline as cave; print(cave.fit('digits', epochs=1, progress=False)); print(cave.__file__)"
    assert str(tmp_path / "env") in run([python, "-c", code], work)
    words = ["budget=quick", "variants={vae: {model.depth: 1, model.z_ratio: 1.0}}"]
    cave = python.with_name("cave")
    run([cave, "study", "new", "mine", *(word for value in words for word in ("--set", value))], work)
    run([python.with_name("dvc"), "repro", "experiments/mine/dvc.yaml"], work)
    assert (work / "experiments" / "mine" / "report" / "report.html").is_file()
    assert "up to date" in run([python.with_name("dvc"), "repro", "experiments/mine/dvc.yaml"], work)
