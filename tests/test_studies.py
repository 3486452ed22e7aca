"""The list of studies, and the removal of one: all that belongs to it, nothing else, and once begun to its end."""

from __future__ import annotations

import functools
import json
import os
import pty
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import optuna
import pytest
from mlflow import MlflowClient

from pipeline.cli.new_study import create_study
from pipeline.cli.studies import rows as listed
from pipeline.cli.studies import table
from pipeline.errors import InputError
from pipeline.files import file_lock, write_json
from pipeline.removal import Removal
from pipeline.run_folders import Header, RunFolder, experiment_name, folder_of
from pipeline.study import Study
from tests.small import ROOT
from tests.test_report import fake
from tests.workshop import make_study, rows
from tests.zygote import Program, run


@functools.cache
def template() -> Path:
    """Make a project with two studies, each with scratch, an experiment of one run, and a search of one trial."""
    root = Path(tempfile.mkdtemp()) / "project"
    make_study(root)
    (root / "pyproject.toml").touch()
    client = MlflowClient(f"sqlite:///{root}/mlflow.db")
    for name in ("wide", "wide2"):
        study = create_study(root, name, {"model.z_dim": 5}, pipeline=False)
        (study.out / "train").mkdir()
        keep_run(study)
        write_json(study.cache / "train" / study.unique_name / "vae" / "state.json", {})
        client.create_run(client.create_experiment(f"platos-cave/{name}"))
        search = optuna.create_study(storage=f"sqlite:///{root}/optuna.db", study_name=f"{name}/vae-0123456789")
        search.tell(search.ask(), 1.0)
    return root


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of the template, in which this process works."""
    root = shutil.copytree(template(), tmp_path / "project", symlinks=True)
    monkeypatch.chdir(root)
    return root


def keep_run(study: Study) -> None:
    """Leave the folder of a run that MLflow does not have."""
    names = {"experiment": experiment_name(study), "note": "", "key": f"{study.name}/k"}
    header = Header(type="run", id="1", time=1, address="x", **names)
    folder = RunFolder.open(folder_of(study.runs, header.key))
    folder.log.append(header.model_dump())
    folder.release()


def remains(project: Path, name: str) -> list[str]:
    """Return what is left of a study."""
    of_it = re.compile(
        rf"\.?{name}(-[0-9a-f]{{8}})?(\..*)?|{name}_k-.*"
    )  # a folder in the cache has a digest behind the name
    files = [str(path.relative_to(project)) for path in project.rglob("*") if of_it.fullmatch(path.name)]
    entries = [row[0] for row in rows(project / "optuna.db", "select study_name from studies")]
    query = "select name from experiments where lifecycle_stage = 'active'"
    entries += [row[0] for row in rows(project / "mlflow.db", query)]
    return files + [item for item in entries if name in item.replace("/", " ").split()]


def test_all_of_a_study_is_removed_and_nothing_else(project: Path) -> None:
    """Folder, scratch, searches and experiment go; a study whose name begins alike has all of its own."""
    before = remains(project, "wide2")
    removal = Removal.of(project, "wide")
    (folder, scratch, experiment, searches) = removal.belongings()
    assert (folder, scratch) == ("the folder experiments/wide", "its states of unfinished work")
    assert experiment.startswith("MLflow experiment platos-cave/wide at sqlite:///")
    assert searches == "1 search in Optuna, with all trials"
    assert removal.remove() == []
    assert remains(project, "wide") == []
    assert remains(project, "wide2") == before
    assert len(before) == 5
    assert not removal.exists()


def test_a_removed_experiment_can_be_restored_and_its_name_is_free(project: Path) -> None:
    """MLflow keeps the runs under a name that says when they were removed; a new study of the name has none of them."""
    Removal.of(project, "wide").remove()
    client = MlflowClient(f"sqlite:///{project}/mlflow.db")
    assert client.get_experiment_by_name("platos-cave/wide") is None
    query = "select name, experiment_id from experiments where lifecycle_stage = 'deleted'"
    ((name, number),) = rows(project / "mlflow.db", query)
    assert name.startswith("platos-cave/wide (removed 20")
    client.restore_experiment(str(number))
    assert len(client.search_runs([str(number)])) == 1


def test_of_a_link_the_link_alone_is_removed(project: Path, tmp_path: Path) -> None:
    """What a study's folder, or a folder in it, leads to stays as it is."""
    elsewhere, data = tmp_path / "elsewhere", tmp_path / "disk"
    shutil.move(project / "experiments" / "wide", elsewhere)
    (project / "experiments" / "wide").symlink_to(elsewhere)
    data.mkdir()
    (data / "mine").touch()
    (project / "experiments" / "wide2" / "data").symlink_to(data)
    removal = Removal.of(project, "wide")
    assert removal.belongings()[0] == f"the link experiments/wide; what it leads to, {elsewhere}, stays"
    removal.remove()
    Removal.of(project, "wide2").remove()
    assert list((project / "experiments").iterdir()) == []
    assert {path.name for path in elsewhere.iterdir()} == {"params.yaml", "study.yaml", ".gitignore", "train"}
    assert (data / "mine").exists()


def test_what_is_no_study_of_its_own_is_not_removed(project: Path) -> None:
    """The root's own study, another folder, and a path are refused."""
    (project / "experiments" / "notes").mkdir()
    for name in ("default", "notes", "..", ".", "", "wide/..", "../project/experiments/wide"):
        with pytest.raises(InputError, match=r"^study: "):
            Removal.of(project, name)


def test_a_study_whose_parameters_are_damaged_is_listed_and_removed(project: Path) -> None:
    """The reason stands in the list, the other studies too; and it can be removed."""
    (project / "experiments" / "wide" / "params.yaml").write_text("model: [")
    (line,) = [line for line in table(listed(project)).splitlines() if line.startswith("wide ")]
    assert line.startswith("wide  broken: params.yaml: not readable as YAML")
    assert [row.name for row in listed(project)] == ["default", "wide", "wide2"]
    Removal.of(project, "wide").remove()
    assert remains(project, "wide") == []


def test_a_study_at_work_is_not_removed(project: Path) -> None:
    """Where a process holds one of its locks, of a stage or of a search, nothing is removed."""
    before = remains(project, "wide")
    stage = Study.at(project / "experiments" / "wide").locks / "train" / "vae" / "all"
    search = project / "optuna.db.locks" / "wide" / "vae-0123456789" / "coordinator"
    for lock, message in ((stage, "is at work in this folder"), (search, "is working on sweep wide/vae-0123456789")):
        with file_lock(lock), pytest.raises(InputError, match=message):
            Removal.of(project, "wide").remove()
        shutil.rmtree(project / ".cache" / "locks", ignore_errors=True)
        shutil.rmtree(project / "optuna.db.locks", ignore_errors=True)
    assert remains(project, "wide") == before


@pytest.mark.parametrize(
    "step",
    [
        "pipeline.sweep.Searches.remove",
        "pipeline.tracking.remove_run_folders",
        "pipeline.tracking.remove_experiments",
        "mlflow.MlflowClient.rename_experiment",
        "mlflow.MlflowClient.delete_experiment",
        "pipeline.removal.shutil.rmtree",
        "pipeline.removal._remove_folder",
        "pathlib.Path.rmdir",
    ],
)
def test_a_removal_that_was_interrupted_is_finished_by_the_next(
    project: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it was stopped at, the study is still known until all is gone, and the same call removes the rest."""

    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(step, stopped)
        with pytest.raises(KeyboardInterrupt):
            Removal.of(project, "wide").remove()
    if step == "pathlib.Path.rmdir":
        (project / "experiments" / "wide").rmdir()  # an empty folder is all that is left
    else:
        assert (project / "experiments" / "wide" / "params.yaml").exists()
        assert Removal.of(project, "wide").remove() == []
    assert remains(project, "wide") == []


def test_stores_that_are_away_are_told_and_removed_later(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder goes; what stays is named, and the same call removes it when the store is back."""
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        removal = Removal.of(project, "wide")
        assert removal.belongings()[2].startswith("not: MLflow at http://127.0.0.1:9 cannot be used: ")
        (reason,) = removal.remove()
        assert reason.startswith("MLflow at http://127.0.0.1:9 cannot be used: ")
    assert remains(project, "wide") == ["platos-cave/wide"]
    assert len(Removal.of(project, "wide").belongings()) == 1
    assert Removal.of(project, "wide").remove() == []
    assert remains(project, "wide") == []


def test_what_waits_for_mlflow_goes_with_the_study(project: Path) -> None:
    """Folders of its runs are removed: published later, they would bring the experiment back."""
    runs = project / ".cache" / "runs"
    assert len(list(runs.iterdir())) == 2
    Removal.of(project, "wide").remove()
    (path,) = runs.iterdir()
    assert path.name.startswith("wide2_")


def cave(folder: Path, *words: str, answer: str | None = None) -> Program | subprocess.CompletedProcess[str]:
    """Run the command line, on a terminal that gives an answer, or on none."""
    if answer is None:
        return run(folder, "pipeline", *words, code=None, NO_COLOR="1")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
    command = [sys.executable, "-m", "pipeline", *words]
    terminal, stdin = pty.openpty()
    os.write(terminal, f"{answer}\n".encode())
    try:
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, stdin=stdin)
    finally:
        os.close(terminal)
        os.close(stdin)


@pytest.mark.nightly
def test_the_command_asks_first(project: Path) -> None:
    """Without a terminal it wants --yes; on one it asks, and removes after a yes alone; git's copy is pointed to."""
    for words in (["init", "-q"], ["add", "-f", "experiments/wide/params.yaml"]):
        subprocess.run(["git", *words], cwd=project, check=True)
    silent = cave(project, "study", "rm", "wide")
    assert silent.returncode == 2
    assert silent.stderr.endswith("call `cave study rm wide --yes`\n")
    assert cave(project, "study", "rm", "wide", answer="n").stdout.endswith("nothing is removed\n")
    assert (project / "experiments" / "wide" / "params.yaml").exists()
    done = cave(project, "study", "rm", "wide", answer="y")
    assert (done.returncode, done.stderr) == (0, "")
    assert "study wide is removed\n" in done.stdout
    assert "`git checkout -- experiments/wide` brings them back" in done.stdout
    again = cave(project, "study", "rm", "wide", "--yes")
    assert again.returncode == 2
    assert "'wide' given (did you mean 'wide2'?)" in again.stderr


def test_the_list_says_how_far_a_study_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line has state, lowest nll with its variant, date, and the settings that are others than the root's."""
    root = fake(tmp_path)
    study = create_study(
        tmp_path,
        "mine",
        {"variants": {"vae": {}}, "model.z_dim": 5, "train.epochs": 7, "train.draws": 2},
        pipeline=False,
    )
    own, mine = listed(tmp_path)
    assert (own.name, own.how, own.data, own.state) == ("default", "dvc repro", "digits", "evaluated")
    assert own.nll.split()[1] == "mhvae"
    assert float(own.nll.split()[0]) == pytest.approx(22.8, abs=0.2)
    assert own.date.startswith("20")
    assert (mine.how, mine.state, mine.nll, mine.date) == ("by hand", "not run", "", "")
    assert mine.settings == "vae: model.z_dim=5, train.draws=2, train.epochs=7"
    shutil.copytree(root.sweep("vae"), study.sweep("vae"))
    assert listed(tmp_path)[1].state == "searched"
    shutil.copytree(root.train("vae"), study.train("vae"))
    assert listed(tmp_path)[1].state == "trained"
    shutil.rmtree(root.evaluate("vae"))
    assert listed(tmp_path)[0].state == "evaluated 2 of 3"
    lines = table(listed(tmp_path)).splitlines()
    assert lines[0].split() == ["study", "run", "by", "data", "state", "best", "nll", "(nats)", "date", "settings"]
    assert max(map(len, lines)) <= 118
    monkeypatch.setenv("COLUMNS", "40")
    lines = table(listed(tmp_path)).splitlines()
    assert max(map(len, lines)) <= 40
    assert "  state            searched" not in lines
    assert "  state     trained" in lines


def test_what_was_measured_otherwise_has_no_best(tmp_path: Path) -> None:
    """Variants of different protocols, or of different likelihoods, are not ranked in the list."""
    root = fake(tmp_path)
    path = root.evaluate("vae") / "decomposition.json"
    write_json(path, json.loads(path.read_text()) | {"protocol": {"images": 100}})
    assert listed(tmp_path)[0].nll == "not comparable"
