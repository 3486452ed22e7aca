"""The command line: one clear line and exit code 2 for what a user can correct."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from pipeline.params import Params, dump_yaml
from tests.command import assert_one_line, call
from tests.small import ROOT
from tests.workshop import QUICK, check_sweep, make_study
from tests.zygote import Program, run


def cave(folder: Path, *words: str, **variables: str) -> Program:
    """Run the command line in a folder."""
    return run(folder, "pipeline", *words, code=None, NO_COLOR="1", **variables)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a project's root with small settings, in which this process works."""
    make_study(tmp_path)
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_check_accepts_the_params_that_are_shipped() -> None:
    """`cave check` finds nothing wrong with params.yaml."""
    done = cave(ROOT, "check")
    assert (done.returncode, done.stderr) == (0, "")


def test_without_a_repository_check_says_that_dvc_does_not_start(project: Path) -> None:
    """A folder that DVC is to run in and that is no git repository is one line, exit code 2, until it is one."""
    (project / ".dvc").mkdir()
    line = assert_one_line(*call("check"))
    assert line.startswith(f"error: {project} is not a git repository, without which DVC does not start; run: ")
    subprocess.run(["git", "init", "-q"], cwd=project, check=True)
    assert call("check")[0] == 0
    assert "no_scm" not in (ROOT / ".dvc" / "config").read_text()  # by which DVC would do without


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("model.dept=3", "model.dept: no such parameter (did you mean 'model.depth'?)"),
        ("model.depth=three", "model.depth: 'three' given; allowed: integer"),
        ("data.name=mnits", "data.name: 'mnits' given (did you mean 'mnist'?)"),
        ("data.protocol=burda", "data.protocol: 'burda' given"),
        ("train.epochs=0", "train.epochs: 0 given; allowed: greater than or equal to 1"),
        ("train.epochs", "'train.epochs' is not of the form path=value"),
        ("model.widths=[3", "model.widths: not readable as YAML"),
    ],
)
@pytest.mark.parametrize("command", [["check"], ["sweep", "--variant", "mhvae"], ["train", "--variant", "mhvae"]])
def test_a_bad_override_gets_one_line(project: Path, command: list[str], word: str, message: str) -> None:
    """A fault in an override ends every command with one line and exit code 2, before anything is written."""
    before = sorted(path for path in project.rglob("*"))
    assert message in assert_one_line(*call(*command, "--set", word))
    assert sorted(path for path in project.rglob("*")) == before


def test_an_unknown_variant_gets_one_line(project: Path) -> None:
    """A variant that params.yaml does not have is refused with those that it has."""
    line = assert_one_line(*call("sweep", "--variant", "mvae"))
    assert "'mvae' is not in variants; allowed: vae, hvae, mhvae" in line


def test_outside_a_project_there_is_nothing_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder without a project, a command says so."""
    monkeypatch.chdir(tmp_path)
    assert "not inside a platos-cave project" in assert_one_line(*call("check"))


@pytest.mark.slow
def test_a_stage_with_bad_params_stops_before_it_works(tmp_path: Path) -> None:
    """The first stage checks all sections, also those it does not use, before it fetches anything."""
    text = dump_yaml(Params.read(ROOT / "params.yaml", QUICK))
    (tmp_path / "params.yaml").write_text(text.replace("confidence: 0.95", "confidence: 95"))
    done = run(tmp_path, "pipeline.stages", "fetch", code=2)
    assert done.stderr == "error: params.yaml: report.confidence: 95 given; allowed: less than 1\n"
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]


def test_a_worker_count_that_is_none_gets_one_line(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CAVE_WORKERS must be a whole number."""
    monkeypatch.setenv("CAVE_WORKERS", "many")
    code, _, err = call("train", "--variant", "vae")
    assert code == 2
    assert err.endswith("error: CAVE_WORKERS: 'many' given; allowed: a whole number from 1\n")


@pytest.mark.nightly
def test_a_sweep_by_hand_is_a_study_of_its_own(project: Path) -> None:
    """The same command extends its study by more trials, and `cave study list` names it."""
    command = ["sweep", "--variant", "vae", "--set", "train.batch_size=16", "--trials"]
    first = cave(project, *command, "2")
    assert first.returncode == 0, first.stderr
    second = cave(project, *command, "3")
    assert "2 of 3 trials were finished before" in second.stdout
    (folder,) = (project / "experiments").iterdir()
    assert folder.name.startswith("sweep-vae-")
    (line,) = [row for row in cave(project, "study", "list").stdout.splitlines() if row.startswith(folder.name)]
    assert line.split()[1:5] == ["by", "hand", "cave", "searched"]
    assert "3 trials (" in second.stdout
    assert f"cave train vae --study {folder.name}" in second.stdout
    assert (folder / "report" / "report.html").exists()
    from pipeline.study import Study

    check_sweep(Study.at(folder), "vae", 3)
    assert "http://127.0.0.1:5000/#/experiments/" in second.stdout


@pytest.mark.slow
def test_what_is_set_by_hand_is_not_swept(project: Path) -> None:
    """With --set model.depth=3, every trial of a sweep by hand has three levels."""
    done = cave(project, "sweep", "--variant", "mhvae", "--trials", "2", "--set", "model.depth=3")
    assert done.returncode == 0, done.stderr
    (table,) = project.glob("experiments/*/sweep/mhvae/trials.csv")
    header, *lines = table.read_text().splitlines()
    assert len(lines) == 2
    assert "model.z_dim" in header
    assert "model.depth" not in header


@pytest.mark.nightly
def test_training_by_hand_needs_no_sweep(project: Path) -> None:
    """`cave train` trains and evaluates the settings as given, and ends with their table and the report's place."""
    done = cave(project, "train", "--variant", "mhvae", "--set", "model.widths=[5, 3]")
    assert done.returncode == 0, done.stderr
    assert "mhvae seed 1: test/elbo" in done.stdout
    (folder,) = (project / "experiments").iterdir()
    assert re.search(r"\nwidths +5 \+ 3\n", done.stdout)
    assert re.search(r"\nnll \(nats\) +\d+\.\d\d ± ", done.stdout)
    assert f"report: {folder}/report/report.html" in done.stdout
    assert (folder / "report" / "report.html").exists()
    assert cave(project, "show", folder.name).stdout in done.stdout
    assert '"widths": [\n  5,\n  3\n ]' in (folder / "train" / "mhvae" / "seed-0" / "model.json").read_text()
