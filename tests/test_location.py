"""What runs is the code of the project in which a command is called, whatever the environment has installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.run_folders import provenance
from tests.small import ROOT
from tests.test_reproduce import IDENTITY, git
from tests.workshop import make_study

pytestmark = pytest.mark.slow

CAVE = "import sys; sys.argv[0] = 'cave'; from pipeline.cli import main; main()"  # what the console script does
FIRST = "from __future__ import annotations\n"
SAY = 'import sys as _sys; print("code of", __file__, file=_sys.stderr)\n'


def clone(folder: Path) -> Path:
    """Make a project with its own copy of the code, which says where it lies."""
    folder.mkdir(parents=True)
    shutil.copytree(ROOT / "pipeline", folder / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "params.yaml", "dvc.yaml", "constraints.txt", ".gitignore"):
        shutil.copy(ROOT / name, folder / name)
    (folder / "experiments" / "wide").mkdir(parents=True)
    for name in ("cli/app.py", "stages/fetch.py"):
        path = folder / "pipeline" / name
        path.write_text(path.read_text().replace(FIRST, FIRST + SAY))
    return folder


@pytest.fixture(scope="module")
def clones(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return two clones, each in a folder of its own."""
    folder = tmp_path_factory.mktemp("clones")
    return clone(folder / "first"), clone(folder / "second")


def run(folder: Path, installed: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a folder, in an environment that has the package in `installed`."""
    own = {name: value for name, value in os.environ.items() if name != "CAVE_RESTARTED_IN"}
    environment = own | {"PYTHONPATH": str(installed), "NO_COLOR": "1", "PYTHONDONTWRITEBYTECODE": "1"} | variables
    return subprocess.run([sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True)


def notice(installed: Path, root: Path) -> str:
    return f"{installed / 'pipeline'} is installed here; running {root / 'pipeline'} instead\n"


@pytest.mark.parametrize(
    "words", [("-P", "-c", CAVE, "check"), ("-P", "-m", "pipeline", "check")], ids=["script", "module"]
)
@pytest.mark.parametrize("below", [".", "experiments/wide"])
def test_a_command_runs_the_code_of_its_project(clones: tuple[Path, Path], words: tuple[str, ...], below: str) -> None:
    """`cave` in a clone, or in a folder of it, runs that clone's code in the other clone's environment, and says so."""
    first, second = clones
    done = run(second / below, first, *words)
    assert (done.returncode, done.stdout[:20]) == (0, "params.yaml is sound"), done.stderr
    last = done.stderr.splitlines()[-1]
    assert last == f"code of {second / 'pipeline' / 'cli' / 'app.py'}"
    assert done.stderr.count(notice(first, second)) == 1


@pytest.mark.parametrize("below", [".", "experiments/wide"])
def test_a_stage_runs_the_code_of_its_project(clones: tuple[Path, Path], below: str) -> None:
    """A stage in a clone's root or in a study's folder runs that clone's code."""
    first, second = clones
    done = run(second / below, first, "-m", "pipeline.stages", "fetch", PYTHONSAFEPATH="1")
    assert f"code of {second / 'pipeline' / 'stages' / 'fetch.py'}\n" in done.stderr
    assert str(first / "pipeline" / "stages") not in done.stderr
    assert done.stderr.startswith(notice(first, second))


def test_where_the_right_code_runs_nothing_is_said(clones: tuple[Path, Path]) -> None:
    """In the clone whose code is installed there is no restart."""
    first, _ = clones
    done = run(first, first, "-m", "pipeline", "check")
    assert (done.returncode, done.stderr) == (0, f"code of {first / 'pipeline' / 'cli' / 'app.py'}\n")


def test_a_wheel_gives_way_to_the_project(clones: tuple[Path, Path], tmp_path: Path) -> None:
    """A package that lies in an environment's site-packages, as a wheel puts it, is not what runs in a clone."""
    _, second = clones
    site = tmp_path / "site-packages"
    shutil.copytree(second / "pipeline", site / "pipeline")
    done = run(second, site, "-P", "-c", CAVE, "check")
    assert done.stderr.endswith(notice(site, second) + f"code of {second / 'pipeline' / 'cli' / 'app.py'}\n")


def test_outside_a_project_the_installed_code_runs(clones: tuple[Path, Path], tmp_path: Path) -> None:
    """`cave --help` works anywhere, and a project without code of its own runs what is installed."""
    first, _ = clones
    done = run(tmp_path, first, "-P", "-c", CAVE, "--help")
    assert (done.returncode, "Usage" in done.stdout) == (0, True)
    assert " is installed here; " not in done.stderr
    make_study(tmp_path / "project")
    (tmp_path / "project" / "pyproject.toml").touch()
    done = run(tmp_path / "project", first, "-P", "-c", CAVE, "check")
    assert (done.returncode, done.stderr) == (0, f"code of {first / 'pipeline' / 'cli' / 'app.py'}\n")


def test_where_a_restart_does_not_help_one_line_says_so(clones: tuple[Path, Path]) -> None:
    """Another copy that comes before PYTHONPATH stops a command, with exit code 2, instead of a loop."""
    first, second = clones
    code = f"import sys; sys.path.insert(0, {str(first)!r}); {CAVE}"
    done = run(second, first, "-c", code, "check")
    assert done.returncode == 2
    error = done.stderr.splitlines()[-1]
    assert done.stderr.count(notice(first, second)) == 1
    assert error == (
        f"error: the code of {second} cannot be run, because another copy comes first on its path:"
        f" {first / 'pipeline'} is imported; run `make env` in {second}"
    )


@pytest.mark.nightly
def test_workers_run_the_code_of_their_stage(clones: tuple[Path, Path]) -> None:
    """A worker process inherits the path of the command that was restarted, and is not restarted again."""
    first, second = clones
    code = (
        "from pathlib import Path; from pipeline.location import use_project_code; use_project_code();"
        " from pipeline import processes; from pipeline.environment import Resources;"
        " processes.run([['pipeline.stages', 'fetch']], Path('experiments/wide').resolve(), Resources())"
    )
    done = run(second, first, "-P", "-c", code, PYTHONSAFEPATH="1")
    assert done.stderr.count(" is installed here; ") == 1
    assert f"code of {second / 'pipeline' / 'stages' / 'fetch.py'}\n" in done.stderr


def repository(folder: Path) -> Path:
    """Make a repository of a clone."""
    clone(folder)
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, *IDENTITY, "commit", "-qm", "all")
    return folder


CODE = "from pathlib import Path; from pipeline.run_folders import provenance; print(provenance.code(Path.cwd()).tags)"


def test_a_commit_is_tagged_only_where_its_code_runs(tmp_path: Path) -> None:
    """In another clone's code, neither commit nor `git_dirty=false` is claimed."""
    second = repository(tmp_path / "second")
    own, other = (eval(run(second, path, "-P", "-c", CODE).stdout) for path in (second, ROOT))
    assert own["git_commit"] == git(second, "rev-parse", "HEAD").strip()
    assert own["git_dirty"] == "false"
    assert (other["git_commit"], other["git_dirty"], other["patch"]) == ("none", "unknown", "none")


def test_code_that_git_does_not_track_is_not_called_clean(tmp_path: Path) -> None:
    """A module that trainings import and that is in no commit makes the run dirty, and says that it is not kept."""
    second = repository(tmp_path / "second")
    training = second / "pipeline" / "training" / "loop.py"
    training.write_text(training.read_text().replace(FIRST, FIRST + "from pipeline.extra import X\n"))
    (second / "pipeline" / "extra.py").write_text("X = 1\n")
    git(second, "add", "pipeline/training/loop.py")
    git(second, *IDENTITY, "commit", "-qm", "more")
    tags = eval(run(second, second, "-P", "-c", CODE).stdout)
    assert (tags["git_dirty"], tags["patch"]) == ("true", "untracked")
    assert "untracked" in provenance.PATCHES
