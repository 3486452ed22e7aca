"""Runs in MLflow: found again by their key, never doubled, and no secret told."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pipeline.errors import InputError
from pipeline.study import Study
from pipeline.tracking import Run, Tracker
from pipeline.training import Record
from pipeline.work import Work
from tests.small import splits
from tests.workshop import make_study, rows

RECORDS = [
    Record(epoch, epoch * 4, 0.1 * epoch, 1_700_000_000_000 + epoch, {"valid/elbo": -1.5 * epoch})
    for epoch in (1, 2, 3)
]


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return make_study(tmp_path)


def start(study: Study, key: str = "a", *, goes_on: bool = False) -> Run:
    return Tracker(study).start(
        Work(stage="train", variant="mhvae", seed=0, params=study.params, stream=0),
        key=key,
        name=key,
        splits=splits(),
        about="a run",
        goes_on=goes_on,
    )


def test_a_record_sent_twice_is_there_once(study: Study) -> None:
    """Rows carry their own time, so that sending them again after a crash changes nothing."""
    run = start(study)
    run.log_records(RECORDS)
    run.log_records(RECORDS[1:])
    assert rows(study.store / "mlflow.db", "select step from metrics order by step") == [(1,), (2,), (3,)]


def test_work_that_goes_on_continues_its_run(study: Study) -> None:
    """Work whose state is there goes on in the run of its key, set running again, also after it was killed."""
    first = start(study)
    first.finish("KILLED")
    second = start(study, goes_on=True)
    assert second.run_id == first.run_id
    assert rows(study.store / "mlflow.db", "select status from runs") == [("RUNNING",)]


def test_work_that_starts_anew_leaves_no_half_run(study: Study) -> None:
    """Without its state, work gets a run of its own; one that was killed is deleted, a finished one is kept."""
    finished = start(study)
    finished.finish()
    killed = start(study)
    killed.finish("KILLED")
    anew = start(study)
    assert len({finished.run_id, killed.run_id, anew.run_id}) == 3
    active = rows(study.store / "mlflow.db", "select run_uuid from runs where lifecycle_stage = 'active'")
    assert set(active) == {(finished.run_id,), (anew.run_id,)}


def test_work_that_goes_on_elsewhere_says_so(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a run goes on with and did not begin with, here other threads, is a tag beside that of the beginning."""
    first = start(study)
    monkeypatch.setattr("torch.get_num_threads", lambda: 7)
    start(study, goes_on=True)
    query = "select key, value from tags where run_uuid = ? and key like '%threads'"
    assert set(rows(study.store / "mlflow.db", query, first.run_id)) == {("threads", "1"), ("continued/threads", "7")}


def test_a_run_that_was_killed_before_its_files_gets_them(study: Study) -> None:
    """Work that goes on keeps its provenance if the process before it was killed too early to."""
    folder = study.store / "mlartifacts" / study.name / start(study).run_id / "artifacts" / "provenance"
    shutil.rmtree(folder)
    start(study, goes_on=True)
    assert {path.name for path in folder.iterdir()} == {"settings.json", "params.yaml"}


def test_the_settings_of_a_run_lead_back_to_its_work(study: Study) -> None:
    """`settings.json` of a run holds the work as it was, every parameter, and the digest of its data."""
    folder = study.store / "mlartifacts" / study.name / start(study).run_id / "artifacts" / "provenance"
    work = Work(stage="train", variant="mhvae", seed=0, params=study.params, stream=0)
    found, data_digest = Work.read(folder / "settings.json")
    assert found.settings(splits()) == work.settings(splits())
    assert (found.params.train, data_digest) == (work.params.train, splits().digest)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"format": 2}', "format 2 given; allowed: 1"),
        ("[]", "format [] given; allowed: 1"),
        ('{"format": 1, "params": {"model": 3}}', "not the settings of a run"),
        ('{"format": 1}', "not the settings of a run"),
        ("{", "not readable as JSON"),
    ],
)
def test_settings_that_are_none_get_one_line(tmp_path: Path, text: str, told: str) -> None:
    """A file that is not a run's settings, or one of a later format, is an `InputError`."""
    (tmp_path / "settings.json").write_text(text)
    with pytest.raises(InputError) as caught:
        Work.read(tmp_path / "settings.json")
    assert told in str(caught.value)


def test_a_deleted_run_is_not_found_and_a_deleted_experiment_is_restored(study: Study) -> None:
    """What was deleted in the UI stops nothing: the run counts as gone, the experiment comes back."""
    run = start(study)
    tracker = run.tracker
    tracker.client.delete_run(run.run_id)
    assert tracker.find(run.run_id) is None
    tracker.client.delete_experiment(tracker.experiment_id)
    assert Tracker(study).experiment_id == tracker.experiment_id
    assert start(study).run_id != run.run_id


def test_a_run_of_another_store_is_not_found(study: Study) -> None:
    """`find` gives nothing for a run id that this store does not have."""
    assert Tracker(study).find("0" * 32) is None
    run = start(study)
    assert run.tracker.find(run.run_id) is not None


def test_artifacts_lie_at_the_root_whatever_the_working_folder(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An artifact logged from elsewhere is kept in mlartifacts of the study's store."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    file = tmp_path / "note.txt"
    file.write_text("x")
    start(study).log_files("notes", [file])
    assert [path.parent.name for path in (study.store / "mlartifacts").rglob("note.txt")] == ["notes"]
    assert list(elsewhere.iterdir()) == []


def test_a_store_that_cannot_be_used_gets_one_line(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tracking address that MLflow cannot open is an `InputError` of one line, without its password."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "gopher://me:secret@nowhere/")
    with pytest.raises(InputError) as caught:
        Tracker(study)
    assert "gopher://nowhere/ cannot be used" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)
