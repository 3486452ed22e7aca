"""Runs in MLflow: found again by their key, never doubled, and no secret told."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import InputError
from pipeline.study import Study
from pipeline.tracking import Run, Tracker
from pipeline.training import Record
from tests.small import ROOT, splits
from tests.workshop import make_study, rows

RECORDS = [
    Record(epoch, epoch * 4, 0.1 * epoch, 1_700_000_000_000 + epoch, {"valid/elbo": -1.5 * epoch})
    for epoch in (1, 2, 3)
]


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return make_study(tmp_path)


def start(study: Study, key: str = "a", *, goes_on: bool = False, anew: bool | None = None) -> Run:
    return Tracker(study).start(
        Work(stage="train", variant="mhvae", seed=0, params=study.params, stream=0),
        key=key,
        name=key,
        splits=splits(),
        about="a run",
        goes_on=goes_on,
        anew=anew,
    )


def query(study: Study, what: str, *values: str) -> list[tuple[Any, ...]]:
    return rows(study.store / "mlflow.db", what, *values)


def test_a_record_sent_twice_is_there_once(study: Study) -> None:
    """Rows carry their own time, so that sending them again after a crash changes nothing."""
    run = start(study)
    run.log_records(RECORDS)
    run.log_records(RECORDS[1:])
    run.close()
    run = start(study, goes_on=True)
    run.log_records(RECORDS)
    run.finish()
    again = start(study, goes_on=True)
    again.log_records(RECORDS)
    again.finish()
    assert again.run_id == run.run_id
    assert query(study, "select step from metrics order by step") == [(1,), (2,), (3,)]
    assert query(study, "select status from runs") == [("FINISHED",)]


def test_work_that_goes_on_continues_its_run(study: Study) -> None:
    """Work whose state is there goes on in the run of its key, set running again, also after it was killed."""
    first = start(study)
    first.finish("KILLED")
    second = start(study, goes_on=True)
    assert second.run_id == first.run_id
    assert query(study, "select status from runs") == [("RUNNING",)]
    second.finish()


def test_work_that_starts_anew_leaves_no_half_run(study: Study) -> None:
    """Without its state, work goes on in the run of its key that has not finished, else in one of its own."""
    finished = start(study)
    finished.finish()
    killed = start(study)
    killed.finish("KILLED")
    anew = start(study)
    anew.finish()
    assert killed.run_id == anew.run_id != finished.run_id
    assert query(study, "select status from runs") == [("FINISHED",)] * 2


@pytest.mark.parametrize("cache", ["gone", "there"])
def test_epochs_that_are_run_again_keep_their_first_rows(study: Study, cache: str) -> None:
    """Work whose state is lost passes epochs that its run has: each is there once, and the run says `restarted`."""
    first = start(study, goes_on=True, anew=True)
    first.log_records(RECORDS[:2])
    first.send(forced=True)
    first.close()
    if cache == "gone":
        shutil.rmtree(study.cache)
    again = start(study, goes_on=True, anew=True)
    later = [replace(record, timestamp=record.timestamp + 999) for record in RECORDS]
    again.log_records(later)
    again.finish()
    found = query(study, "select step, timestamp from metrics order by step")
    assert found == [(record.epoch, record.timestamp) for record in (*RECORDS[:2], later[2])]
    assert query(study, "select value from tags where key = 'restarted'") == [("true",)]
    assert query(study, "select count(*) from runs") == [(1,)]


def test_work_that_was_not_lost_is_not_called_so(study: Study) -> None:
    """A run that was killed and goes on from its state, by its outbox or without it, is not `restarted`."""
    for anew in (True, False, False):
        run = start(study, goes_on=True, anew=anew)
        run.log_records(RECORDS)
        run.send(forced=True)
        run.close()
    shutil.rmtree(study.cache)
    start(study, goes_on=True).finish()
    assert query(study, "select value from tags where key = 'restarted'") == []
    assert query(study, "select step from metrics order by step") == [(1,), (2,), (3,)]


def test_work_that_goes_on_elsewhere_says_so(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a run goes on with and did not begin with, here other threads, is a tag beside that of the beginning."""
    monkeypatch.setattr("torch.get_num_threads", lambda: 1)
    first = start(study)
    first.close()
    monkeypatch.setattr("torch.get_num_threads", lambda: 7)
    start(study, goes_on=True).close()
    found = query(study, "select key, value from tags where run_uuid = ? and key like '%threads'", str(first.run_id))
    assert set(found) == {("threads", "1"), ("continued/threads", "7")}


@pytest.mark.parametrize("cache", ["gone", "there"])
def test_a_run_that_was_killed_before_its_files_gets_them(study: Study, cache: str) -> None:
    """Work that goes on keeps its provenance if the process before it was killed too early to."""
    run = start(study)
    run.close()
    folder = study.store / "mlartifacts" / study.name / str(run.run_id) / "artifacts" / "provenance"
    shutil.rmtree(folder)
    if cache == "gone":
        shutil.rmtree(study.cache)
    start(study, goes_on=True).close()
    assert {path.name for path in folder.iterdir()} == {"settings.json", "params.yaml"}


def test_the_settings_of_a_run_lead_back_to_its_work(study: Study) -> None:
    """`settings.json` of a run holds the work as it was, every parameter, and the digest of its data."""
    folder = study.store / "mlartifacts" / study.name / str(start(study).run_id) / "artifacts" / "provenance"
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
    run.finish()
    client, experiment = run.tracker.store.client, run.tracker.experiment_id
    client.delete_run(run.run_id)
    assert run.tracker.find(run.run_id).missing
    client.delete_experiment(experiment)
    assert Tracker(study).require().experiment_id == experiment
    assert start(study).run_id != run.run_id


def test_a_run_that_is_deleted_under_its_work_is_made_anew(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deleting a run in the UI while it trains stops nothing: the next exchanges make another, with all its rows."""
    monkeypatch.setattr("pipeline.tracking.store.BACK_OFF", 0.0)
    monkeypatch.setattr("pipeline.tracking.store.SHARE", 0.0)
    run = start(study)
    run.log_records(RECORDS[:1])
    run.send(forced=True)
    first = run.run_id
    run.tracker.store.client.delete_run(first)
    run.log_records(RECORDS[1:])
    run.send(forced=True)
    run.finish()
    assert run.run_id not in (None, first)
    found = query(study, "select step from metrics where run_uuid = ? order by step", str(run.run_id))
    assert found == [(1,), (2,), (3,)]
    assert query(study, "select status from runs where lifecycle_stage = 'active'") == [("FINISHED",)]


def test_a_run_of_another_store_is_not_found(study: Study) -> None:
    """A run that this store does not have is told nothing, by its id or by its key; what is told of it is dropped."""
    for run in (Tracker(study).find("0" * 32), Tracker(study).find(None, "nobody's")):
        run.log_once("evaluation", "1", {0: {"test/elbo": -1.0}}, {})
        run.finish(None)
        assert run.missing
    assert list((study.cache / "outbox").iterdir()) == []


def test_a_run_is_told_its_results_once(study: Study) -> None:
    """Results that are logged a second time are there once, results that changed are added; the run stays ended."""
    run = start(study)
    run.finish()
    for run_id, mark in ((run.run_id, "1"), (None, "1"), (run.run_id, "2")):
        told = Tracker(study).find(run_id, "a")
        told.log_once("evaluation", mark, {0: {"test/elbo": -1.0}, 5: {"milestone/elbo": -2.0}}, {})
        told.finish(None)
        assert not told.missing
    assert query(study, "select key, count(*) from metrics group by key") == [("milestone/elbo", 2), ("test/elbo", 2)]
    assert query(study, "select status from runs") == [("FINISHED",)]


def test_artifacts_lie_at_the_root_whatever_the_working_folder(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An artifact logged from elsewhere is kept in mlartifacts of the study's store."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    file = tmp_path / "note.txt"
    file.write_text("x")
    run = start(study)
    run.log_files("notes", [file])
    file.write_text("changed")
    run.finish()
    assert [path.read_text() for path in (study.store / "mlartifacts").rglob("note.txt")] == ["x"]
    assert [path.parent.name for path in (study.store / "mlartifacts").rglob("note.txt")] == ["notes"]
    assert list(elsewhere.iterdir()) == []


def test_a_store_that_cannot_be_used_gets_one_line(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tracking address that MLflow cannot open is an `InputError` of one line, without its password."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "gopher://me:secret@nowhere/")
    with pytest.raises(InputError) as caught:
        Tracker(study).require()
    assert "gopher://nowhere/ cannot be used" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


KILLED = """
import os, signal, sys
from pathlib import Path
import sqlalchemy
from pipeline.study import Study
from pipeline.tracking import Tracker

left = int(sys.argv[1])

def count(*_):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)

sqlalchemy.event.listen(sqlalchemy.Engine, "after_cursor_execute", count)
Tracker(Study.at(Path.cwd())).require()
"""


@pytest.mark.slow
@pytest.mark.parametrize("statements", [3, 60, 200, 400])
def test_a_fresh_database_is_whole_or_absent(study: Study, statements: int) -> None:
    """Killed at one of the hundreds of statements that make MLflow's tables, a study starts as for the first time."""
    (study.store / "mlflow.db").unlink()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", KILLED, str(statements)]
    killed = subprocess.run(command, cwd=study.folder, env=environment, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (study.store / "mlflow.db").exists()
    run = start(study)
    run.log_records(RECORDS)
    run.finish()
    assert query(study, "select status from runs") == [("FINISHED",)]
    assert [path.name for path in study.store.glob("*mlflow.db*")] == ["mlflow.db"]


@pytest.mark.slow
def test_a_database_may_have_any_name(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """An address that quotes a space, one of SQLite's own, and a root with a percent sign lead to these files."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{study.store}/my%20runs.db")
    start(study).finish()
    assert rows(study.store / "my runs.db", "select status from runs") == [("FINISHED",)]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///file:{study.store / 'own.db'}?uri=true")
    start(study).finish()
    assert rows(study.store / "own.db", "select status from runs") == [("FINISHED",)]
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    other = make_study(study.store / "a%20b")
    start(other).finish()
    assert rows(other.store / "mlflow.db", "select status from runs") == [("FINISHED",)]
    assert not (study.store / "a b").exists()


@pytest.mark.slow
def test_a_file_system_without_links_will_do(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a file cannot have two names, the database is made all the same."""

    def refused(*_: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", refused)
    (study.store / "mlflow.db").unlink()
    start(study).finish()
    assert query(study, "select status from runs") == [("FINISHED",)]
    assert [path.name for path in study.store.glob("*mlflow.db*")] == ["mlflow.db"]
