"""Studies of `cave train` and `cave sweep`: they go on by their name, and nothing is left of a call that failed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from pipeline import report
from pipeline.cli.by_hand import by_hand
from pipeline.cli.new_study import create_study
from pipeline.errors import InputError, RunError
from pipeline.jobs import final_models, train_seed
from pipeline.params import parse_assignments
from pipeline.report.search import search
from pipeline.stages import train as stage
from pipeline.study import Study
from tests.test_report import fake
from tests.workshop import make_study, rows

pytestmark = pytest.mark.slow


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a project's root with small settings, in which commands are called."""
    make_study(tmp_path)
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CAVE_WORKERS", "1")
    return tmp_path


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """Return a study made by hand, of the variant vae, with all that its search, training and evaluation leave."""
    root = fake(tmp_path)
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.chdir(tmp_path)
    study = create_study(tmp_path, "mine", {"variants": {"vae": root.params.variants["vae"]}}, pipeline=False)
    for name in ("sweep", "train", "evaluate"):
        shutil.copytree(root.out / name / "vae", study.out / name / "vae")
    study.curves("vae").parent.mkdir()
    shutil.copy(root.curves("vae"), study.curves("vae"))
    return study


def made(project: Path) -> list[str]:
    """Return what lies in the folders of the studies and of unfinished work, and the experiments that MLflow shows."""
    folders = [project / "experiments", *(project / ".cache" / name for name in ("train", "evaluate", "runs"))]
    names = [path.name.partition("_")[0] for folder in folders if folder.is_dir() for path in folder.iterdir()]
    return names + [name for (name,) in rows(project / "mlflow.db", ACTIVE)]


ACTIVE = "select name from experiments where lifecycle_stage = 'active' and name <> 'Default'"


@pytest.mark.parametrize(
    "words",
    [
        ["data.name=nosuch"],
        ["data.name=mnist", "data.protocol=published"],
        ["model.likelihood=gaussian", "model.batch_norm=true", "model.prior=vamp"],
        ["train.batch_size=0"],
    ],
)
def test_a_refused_call_leaves_nothing(project: Path, words: list[str]) -> None:
    """Whatever is wrong with the settings is found before a folder is made."""
    with pytest.raises(InputError), by_hand("train", None, "vae", parse_assignments(words)):
        pytest.fail("it is refused")
    assert made(project) == []


@pytest.mark.parametrize(
    ("variable", "value"), [("CAVE_WORKERS", "many"), ("CAVE_LAUNCHER", "slurm"), ("CAVE_DATA_MIRROR", "/nowhere")]
)
def test_a_fault_of_the_environment_leaves_nothing(
    project: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    """A number of workers, a launcher or a mirror that is none ends the call without a trace of the study."""
    monkeypatch.delenv("CAVE_WORKERS")
    monkeypatch.setenv(variable, value)
    with pytest.raises(InputError), by_hand("train", None, "vae", {"data.name": "mnist"}):
        pytest.fail("it is refused")
    assert made(project) == []


def test_an_interrupted_fetch_leaves_nothing(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while data are prepared removes the folder that was being made."""

    def interrupted(study: Study) -> None:
        (study.folder / "half").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr("pipeline.stages.prepare.run", interrupted)
    with pytest.raises(KeyboardInterrupt), by_hand("train", "x", "vae", {}):
        pytest.fail("it is interrupted")
    assert made(project) == []


def test_what_a_killed_call_left_stops_nothing(project: Path) -> None:
    """A folder with a hidden name, of a process that was killed while it brought the data, is made anew."""
    unfinished = project / "experiments" / ".x.new"
    unfinished.mkdir(parents=True)
    (unfinished / "params.yaml").write_text("{")
    with by_hand("train", "x", "vae", {}) as study:
        assert (study.data / "splits.json").exists() or any(study.data.iterdir())
    assert [path.name for path in (project / "experiments").iterdir()] == ["x"]


def test_a_training_that_fails_at_once_leaves_nothing(project: Path) -> None:
    """One that is not finite in its first epoch ends without a folder, without scratch, and without an experiment."""
    broken = {"train.learning_rate": 1e30, "train.clip": None}
    with pytest.raises(RunError, match="epoch 1") as caught, by_hand("train", "x", "vae", broken) as study:
        stage.run(study, "vae")
    assert "kept in" not in str(caught.value)
    assert made(project) == []
    with by_hand("train", "x", "vae", {}) as study:  # the name is free
        assert study.params.train.learning_rate != 1e30


def test_an_interrupt_before_the_first_epoch_leaves_nothing(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C when the run is in MLflow and no epoch is trained: the experiment is not shown any more."""
    monkeypatch.setattr(train_seed, "fit", _interrupt)
    with pytest.raises(KeyboardInterrupt), by_hand("train", "x", "vae", {}) as study:
        stage.run(study, "vae")
    assert made(project) == []


def _interrupt(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


def test_work_that_was_begun_stays_and_goes_on(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an epoch the study stays, and the same call takes it up; what is trained is known as that."""
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.processes.raise_if_interrupted", _interrupt)
        with pytest.raises(KeyboardInterrupt), by_hand("train", "x", "vae", {}) as study:
            stage.run(study, "vae")
    assert set(made(project)) == {"x", study.unique_name, "platos-cave/x"}
    with by_hand("train", "x", "vae", {}) as study:
        assert not final_models.trained(study, "vae")
        stage.run(study, "vae")
        assert final_models.trained(study, "vae")
    runs = rows(project / "mlflow.db", "select status from runs")
    assert runs == [("FINISHED",)] * len(study.params.train.seeds)
    lower = study.params.override({"train.learning_rate": 0.001})
    assert not final_models.trained(Study(lower, study.folder, study.root, study.out, study.shared_root), "vae")


def test_a_check_that_mlflow_is_there_makes_no_experiment(project: Path) -> None:
    """An experiment is made with its first run."""
    from pipeline.tracking import Tracker

    assert Tracker(Study.at(project)).require().experiment_id is None
    assert made(project) == []


def test_a_study_goes_on_with_its_own_settings(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By its name alone a study keeps its settings, in one line; what is set must be what it has."""
    with by_hand("sweep", "x", "mhvae", {"train.batch_size": 16, "sweep.trials": 2}):
        pass
    with by_hand("train", "x", "mhvae", {}) as study:
        assert (study.params.train.batch_size, study.params.sweep.trials) == (16, 2)
    said = capsys.readouterr().out
    assert "study x goes on with its own params.yaml, which differs from the root's in train.batch_size" in said
    with by_hand("sweep", "x", "mhvae", {"train.batch_size": 16, "sweep.trials": 3}) as study:
        assert Study.at(study.folder).params.sweep.trials == 3
    with (
        pytest.raises(InputError, match=r"other parameters \(train\.batch_size is 16, not 8\)"),
        by_hand("train", "x", "mhvae", {"train.batch_size": 8}),
    ):
        pytest.fail("it is refused")
    with pytest.raises(InputError, match="'vae' is not in variants"), by_hand("train", "x", "vae", {}):
        pytest.fail("it is refused")


def test_a_study_of_dvc_is_not_run_by_hand(project: Path) -> None:
    """Of a study that DVC runs, the command says how."""
    (project / "dvc.yaml").write_text("stages: {}\n")
    create_study(project, "wide", {})
    with (
        pytest.raises(InputError, match=r"is run by DVC .`dvc repro experiments/wide/dvc\.yaml`"),
        by_hand("train", "wide", "vae", {}),
    ):
        pytest.fail("it is refused")


def test_a_folder_that_is_no_study_is_left_alone(project: Path) -> None:
    """A name that another folder has is refused, and nothing is written into that."""
    other = project / "experiments" / "notes"
    other.mkdir(parents=True)
    (other / "mine.txt").touch()
    with pytest.raises(InputError, match="is there and is no study"), by_hand("train", "notes", "vae", {}):
        pytest.fail("it is refused")
    assert [path.name for path in other.iterdir()] == ["mine.txt"]
    assert [path.name for path in other.parent.iterdir()] == ["notes"]


def test_a_failed_call_leaves_the_runs_of_an_earlier_study(project: Path) -> None:
    """Where a study of the same name has logged results before, its experiment stays as it is."""
    client = MlflowClient(f"sqlite:///{project}/mlflow.db")
    experiment = client.create_experiment("platos-cave/x")
    earlier = client.create_run(experiment)
    client.log_metric(earlier.info.run_id, "valid/elbo", -1.0)
    with pytest.raises(RunError, match="stop"), by_hand("train", "x", "vae", {}):
        raise RunError("stop")
    assert not (project / "experiments" / "x").exists()
    assert client.get_experiment(experiment).lifecycle_stage == "active"
    assert client.get_run(earlier.info.run_id).info.lifecycle_stage == "active"


def test_a_training_without_a_search_has_a_report(planted: Study) -> None:
    """The report of a study made by hand needs no search, and names the command that makes it."""
    shutil.rmtree(planted.out / "sweep")
    report.write(planted)
    page = (planted.report / "report.html").read_text()
    assert "<code>cave train vae --study mine</code>" in page
    assert "nothing was searched" in page
    assert "dvc repro" not in page
    assert not (planted.report / "paper").exists()
    assert report.overview(planted) == report.table_text(planted)


def test_a_search_shows_its_best_trials_and_what_trains_them(planted: Study) -> None:
    """Until the models are trained, a search shows its trials, the best first, and the command that goes on."""
    names = search(planted, "vae")
    assert [row[:2] for row in names.cells] == [["1", "-23.900"], ["0", "-24.500"]]
    assert names.header[2] == "units by level"
    assert {row[2] for row in names.cells} == {"8"}
    assert names.about.endswith("4 trials (2 completed, 1 stopped early, 1 failed)")
    shown = report.overview(planted)
    assert shown.endswith("\n  cave train vae --study mine")
    assert "best settings: model.z_dim=8" in shown
    (planted.report).mkdir()
    (planted.report / "table.csv").touch()  # of models that were trained before the search went on
    report.write_search(planted)
    assert [path.name for path in planted.report.iterdir()] == ["report.html"]
    page = (planted.report / "report.html").read_text()
    assert "cave train vae --study mine" in page
    assert page.count("<tr") == 3


def test_what_is_missing_names_the_command_that_makes_it(planted: Study) -> None:
    """No message of a study made by hand points to `dvc repro`; one of DVC's names its own dvc.yaml."""
    shutil.rmtree(planted.out / "sweep")
    shutil.rmtree(planted.out / "evaluate")
    for read in (report.table_text, report.build):
        with pytest.raises(InputError, match="run `cave train vae --study mine`"):
            read(planted)
    os.symlink("../../dvc.yaml", planted.folder / "dvc.yaml")
    (planted.root / "dvc.yaml").write_text("stages: {}\n")
    for read in (report.table_text, report.build):
        with pytest.raises(InputError, match=r"run `dvc repro experiments/mine/dvc\.yaml`"):
            read(planted)


def test_a_search_that_was_stopped_names_the_command_that_goes_on(planted: Study) -> None:
    """Before its first results a search is pointed to `cave sweep`, and not to a training."""
    for name in ("sweep", "train", "evaluate"):
        shutil.rmtree(planted.out / name)
    (planted.cache / "sweeps" / "mine").mkdir(parents=True)
    with pytest.raises(InputError, match="no results yet; run `cave sweep vae --study mine`"):
        report.overview(planted)


@pytest.mark.usefixtures("undrawn")
def test_tables_fit_into_a_narrow_terminal(planted: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """Variants that do not fit side by side stand one below the other; so do a search's trials."""
    root, command = Study.at(planted.root), 40  # characters of a command, which is never broken
    report.write(root)
    for width, tables in ((40, 3), (60, 2)):
        monkeypatch.setenv("COLUMNS", str(width))
        assert max(map(len, report.overview(planted).splitlines())) <= max(width, command)
        lines = report.table_text(root).splitlines()
        assert max(map(len, lines)) <= width
        assert sum(line.startswith("nll (nats)") for line in lines) == tables
