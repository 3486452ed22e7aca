"""Runs of the present results say so in MLflow, and earlier ones say what superseded them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import InputError
from pipeline.files import read_json, write_json
from pipeline.run_folders import RunSpec
from pipeline.stages import fetch, prepare, train
from pipeline.study import Study
from pipeline.tracking import Run, Tracker, mark_current
from tests.small import splits
from tests.workshop import make_study, rows

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _own_stores(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "CAVE_OPTUNA_URL", "DVC_ROOT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return make_study(tmp_path)


def start(study: Study, stage: str, variant: str, seed: int = 0, *, key: str, parent: str | None = None) -> Run:
    spec = RunSpec(stage=stage, variant=variant, seed=seed, params=study.params, rng_seed=0)
    return Tracker(study).start(spec, key=key, name=key, splits=splits(), about="a run", parent=parent)


def finished(study: Study, stage: str, variant: str, seed: int = 0, *, key: str, parent: str | None = None) -> str:
    run = start(study, stage, variant, seed, key=key, parent=parent)
    run.finish()
    return str(run.run_id)


def result(folder: Path, run: str | None, key: str) -> None:
    """Write what a stage leaves of its run."""
    write_json(folder / "mlflow.json", {"experiment": "1", "run": run, "key": key})


def marks(study: Study) -> dict[str, tuple[str | None, str | None]]:
    """Return by a run's key what it says: `current` and `superseded_by`."""
    query = (
        "select k.value, c.value, s.value from tags k"
        " left join tags c on c.run_uuid = k.run_uuid and c.key = 'current'"
        " left join tags s on s.run_uuid = k.run_uuid and s.key = 'superseded_by' where k.key = 'cave.key'"
    )
    return {key: (current, by) for key, current, by in rows(study.shared_root / "mlflow.db", query)}


def test_of_two_generations_one_is_current(study: Study) -> None:
    """The run that the results name is current, the one before says which superseded it; both ways, and once."""
    first, second = (finished(study, "train", "vae", key=key) for key in ("first", "second"))
    other = finished(study, "train", "hvae", key="other")
    result(study.train("hvae") / "seed-0", other, "other")
    folder = study.train("vae") / "seed-0"
    result(folder, second, "second")
    assert mark_current(study)
    assert marks(study) == {"first": ("false", second), "second": ("true", None), "other": ("true", None)}
    before = (study.shared_root / "mlflow.db").read_bytes()
    assert mark_current(study)
    assert (study.shared_root / "mlflow.db").read_bytes() == before
    result(folder, first, "first")  # as after `dvc checkout`
    mark_current(study)
    assert marks(study) == {"first": ("true", None), "second": ("false", first), "other": ("true", None)}


def test_trials_follow_their_sweep(study: Study) -> None:
    """Trials are current with their parent, and are superseded by its successor; one that runs says nothing."""
    old, new = (finished(study, "sweep", "vae", key=f"{key}") for key in ("old", "new"))
    for parent, key in ((old, "old"), (new, "new")):
        finished(study, "trial", "vae", key=f"{key}/0", parent=parent)
    start(study, "trial", "vae", key="new/1", parent=new).close()
    result(study.sweep("vae"), new, "new")
    mark_current(study)
    assert marks(study) == {
        "old": ("false", new),
        "old/0": ("false", new),
        "new": ("true", None),
        "new/0": ("true", None),
        "new/1": (None, None),
    }
    result(study.sweep("vae"), None, "")  # its space is empty now
    mark_current(study)
    assert marks(study)["new"] == ("false", None)


def test_what_left_the_study_is_not_current(study: Study) -> None:
    """Variants and seeds that the study no longer has are not current, though their files are there."""
    for variant, seed in (("vae", 0), ("vae", 1), ("hvae", 0)):
        run = finished(study, "train", variant, seed, key=f"{variant} {seed}")
        result(study.train(variant) / f"seed-{seed}", run, "")
    mark_current(study)
    assert {current for current, _ in marks(study).values()} == {"true"}
    params = study.params.override({"train.seeds": [0], "variants": {"vae": {"model.depth": 1}}})
    mark_current(replace(study, params=params))
    assert marks(study) == {"vae 0": ("true", None), "vae 1": ("false", None), "hvae 0": ("false", None)}


def test_without_a_result_nothing_is_marked(study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of work whose result is being made again stay as they are, and an experiment of DVC marks nothing."""
    run = finished(study, "train", "vae", key="a")
    mark_current(study)
    assert marks(study) == {"a": (None, None)}
    folder = study.train("vae") / "seed-0"
    result(folder, run, "a")
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    (tmp_path / ".dvc" / "tmp" / "exps" / "x").mkdir(parents=True)
    mark_current(replace(study, root=tmp_path / ".dvc" / "tmp" / "exps" / "x"))
    assert marks(study) == {"a": (None, None)}


def test_a_run_that_was_sent_late_is_found_by_its_key(study: Study) -> None:
    """A result that was written while MLflow was away names its run by the key alone."""
    run = finished(study, "train", "vae", key="late")
    finished(study, "train", "vae", key="earlier")
    result(study.train("vae") / "seed-0", None, "late")
    mark_current(study)
    assert marks(study) == {"late": ("true", None), "earlier": ("false", run)}


def test_the_experiment_says_how_to_compare(study: Study) -> None:
    """An experiment that was made before has the present description too, which filters before it groups."""
    tracker = Tracker(study).require()
    experiment = tracker.server.experiment(tracker.name, tracker.note)
    tracker.server.client.set_experiment_tag(experiment, "mlflow.note.content", "an older description")
    result(study.train("vae") / "seed-0", finished(study, "train", "vae", key="a"), "a")
    mark_current(study)
    (note,) = rows(
        study.shared_root / "mlflow.db", "select value from experiment_tags where key = 'mlflow.note.content'"
    )
    assert "search for `tags.current = 'true'` and group by the tag `variant`" in note[0]


def test_without_mlflow_a_line_says_so(
    study: Study, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A stage whose MLflow is away at its end does not fail, and says what to run."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    result(study.train("vae") / "seed-0", "0" * 32, "a")
    assert not mark_current(study)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "tag `current`" in line]
    assert line.endswith("run `cave sync` later")


def test_a_database_that_cannot_follow_stops_no_stage_at_its_end(
    study: Study, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is wrong with the project's own database is said in the same line."""

    def refuse(root: Path) -> None:
        raise InputError("mlflow.db: its artifact addresses cannot be changed")

    result(study.train("vae") / "seed-0", "0" * 32, "a")
    monkeypatch.setattr("pipeline.tracking.connection.relocate", refuse)
    assert not mark_current(study)
    assert "(mlflow.db: its artifact addresses cannot be changed); run `cave sync` later" in capsys.readouterr().err


def test_a_stage_that_ran_again_supersedes_its_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the stage `train` has run with other settings, its runs alone are current."""
    monkeypatch.setenv("CAVE_WORKERS", "1")
    ids: list[Any] = []
    for epochs in (1, 2):
        study = make_study(tmp_path, **{"train.epochs": epochs, "train.seeds": [0]})
        if epochs == 1:
            fetch.run(study)
            prepare.run(study)
        train.run(study, "vae")
        ids.append(read_json(study.train("vae") / "seed-0" / "mlflow.json")["run"])
    assert ids[0] != ids[1]
    assert sorted(marks(study).values()) == [("false", ids[1]), ("true", None)]
