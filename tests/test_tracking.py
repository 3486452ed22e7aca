"""Runs in MLflow: found again by their key, never doubled, and no secret in them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import InputError
from pipeline.log import STATE, Record
from pipeline.run_folders import RunSpec
from pipeline.study import Study
from pipeline.tracking import Run, Tracker
from tests.small import ROOT, splits
from tests.workshop import make_study, rows

RECORDS = [
    Record(epoch, epoch * 4, 0.1 * epoch, 1_700_000_000_000 + epoch, {"valid/elbo": -1.5 * epoch})
    for epoch in (1, 2, 3)
]


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return make_study(tmp_path)


def start(study: Study, key: str = "a", stage: str = "train") -> Run:
    spec = RunSpec(stage=stage, variant="mhvae", seed=0, params=study.params, rng_seed=0)
    return Tracker(study).start(spec, key=key, name=key, splits=splits(), about="a run")


def log(run: Run, records: Sequence[Record]) -> None:
    """Log epochs, as training does."""
    for record in records:
        run.log_record(record)


def keep_state(run: Run) -> None:
    """Leave a state that work can go on from."""
    (run.folder.path / STATE).touch()


def query(study: Study, what: str, *values: str) -> list[tuple[Any, ...]]:
    return rows(study.shared_root / "mlflow.db", what, *values)


def test_a_record_sent_twice_is_there_once(study: Study) -> None:
    """Rows carry their own time, so that sending them again after a crash changes nothing."""
    run = start(study)
    keep_state(run)
    log(run, RECORDS)
    log(run, RECORDS[1:])
    run.close()
    for _ in range(2):
        again = start(study)
        log(again, RECORDS)
        again.finish()
        assert again.run_id == run.run_id
    assert query(study, "select step from metrics order by step") == [(1,), (2,), (3,)]
    assert query(study, "select status from runs") == [("FINISHED",)]


def test_work_that_goes_on_continues_its_run(study: Study) -> None:
    """Work whose state is there goes on in its run, set running again, also after it was killed."""
    first = start(study)
    keep_state(first)
    first.finish("KILLED")
    second = start(study)
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


def test_a_trial_goes_on_in_the_run_of_its_key_whatever_its_status(study: Study) -> None:
    """The key of a trial is its own: a host that takes it over after its end has reached MLflow continues that run."""
    first = start(study, stage="trial")
    log(first, RECORDS)
    first.finish()
    assert not first.folder.path.exists()
    second = start(study, stage="trial")
    second.finish()
    assert second.run_id == first.run_id
    assert query(study, "select status from runs") == [("FINISHED",)]


@pytest.mark.parametrize("folder", ["gone", "there"])
def test_epochs_that_are_run_again_keep_their_first_rows(study: Study, folder: str) -> None:
    """Work whose state is lost passes epochs that its run has: each is there once, and the run says `restarted`."""
    first = start(study)
    log(first, RECORDS[:2])
    first.publish(forced=True)
    first.close()
    if folder == "gone":
        shutil.rmtree(study.cache)
    again = start(study)
    again.folder.log.keep_epochs(0)  # as training does without a state
    later = [replace(record, timestamp=record.timestamp + 999) for record in RECORDS]
    log(again, later)
    again.finish()
    actual = query(study, "select step, timestamp from metrics order by step")
    assert actual == [(record.epoch, record.timestamp) for record in (*RECORDS[:2], later[2])]
    assert query(study, "select value from tags where key = 'restarted'") == [("true",)]
    assert query(study, "select count(*) from runs") == [(1,)]


def test_work_that_was_not_lost_is_not_called_so(study: Study) -> None:
    """A run that was killed and goes on from its state, with its folder or without it, is not `restarted`."""
    for _ in range(3):
        run = start(study)
        log(run, RECORDS)
        run.publish(forced=True)
        run.close()
    shutil.rmtree(study.cache)
    start(study).finish()
    assert query(study, "select value from tags where key = 'restarted'") == []
    assert query(study, "select step from metrics order by step") == [(1,), (2,), (3,)]


def test_work_that_goes_on_elsewhere_says_so(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a run goes on with and did not begin with, here other threads, is a tag beside that of the beginning."""
    monkeypatch.setattr("torch.get_num_threads", lambda: 1)
    first = start(study)
    first.close()
    monkeypatch.setattr("torch.get_num_threads", lambda: 7)
    start(study).close()
    actual = query(study, "select key, value from tags where run_uuid = ? and key like '%threads'", str(first.run_id))
    assert set(actual) == {("cave.threads", "1"), ("cave.continued/threads", "7")}


@pytest.mark.parametrize("folder", ["gone", "there"])
def test_a_run_that_was_killed_before_its_files_gets_them(study: Study, folder: str) -> None:
    """Work that goes on keeps its provenance if the process before it was killed too early to."""
    run = start(study)
    run.close()
    artifacts = study.shared_root / "mlartifacts" / study.name / str(run.run_id) / "artifacts" / "provenance"
    shutil.rmtree(artifacts)
    if folder == "gone":
        shutil.rmtree(study.cache)
    start(study).close()
    assert {path.name for path in artifacts.iterdir()} == {"spec.json", "params.yaml"}


def test_the_specification_of_a_run_leads_back_to_its_work(study: Study) -> None:
    """`spec.json` of a run holds what it trains, every parameter, its commit, and the digest of its data."""
    folder = study.shared_root / "mlartifacts" / study.name / str(start(study).run_id) / "artifacts" / "provenance"
    spec = RunSpec(stage="train", variant="mhvae", seed=0, params=study.params, rng_seed=0)
    actual, data_digest = RunSpec.read(folder / "spec.json")
    assert actual.describe("d", "c") == spec.describe("d", "c")
    assert (actual.params.train, data_digest) == (spec.params.train, splits().digest)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"format": 3}', "format 3 given; allowed: 2"),
        ("[]", "format [] given; allowed: 2"),
        ('{"format": 2, "params": {"model": 3}}', "not the specification of a run"),
        ('{"format": 2}', "not the specification of a run"),
        ("{", "not readable as JSON"),
    ],
)
def test_a_specification_that_is_none_gets_one_line(tmp_path: Path, text: str, reason: str) -> None:
    """A file that is not a run's specification, or one of a later format, is an `InputError`."""
    (tmp_path / "spec.json").write_text(text)
    with pytest.raises(InputError) as caught:
        RunSpec.read(tmp_path / "spec.json")
    assert reason in str(caught.value)


def test_a_deleted_run_is_not_found_and_a_deleted_experiment_is_restored(study: Study) -> None:
    """What was deleted in the UI stops nothing: the run counts as gone, the experiment comes back."""
    run = start(study)
    run.finish()
    client, experiment = run.tracker.server.client, run.tracker.experiment_id
    client.delete_run(run.run_id)
    assert run.tracker.reopen("a", run.run_id).missing
    client.delete_experiment(experiment)
    assert Tracker(study).require().experiment_id == experiment
    assert start(study, "b").run_id != run.run_id


def test_a_run_that_is_deleted_under_its_work_is_made_anew(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deleting a run in the UI while it trains stops nothing: the next requests make another, with all its rows."""
    monkeypatch.setattr("pipeline.tracking.server.BACK_OFF", 0.0)
    monkeypatch.setattr("pipeline.tracking.server.FACTOR", 0.0)
    run = start(study)
    log(run, RECORDS[:1])
    run.publish(forced=True)
    first = run.run_id
    run.tracker.server.client.delete_run(first)
    log(run, RECORDS[1:])
    run.publish(forced=True)
    run.finish()
    assert run.run_id not in (None, first)
    actual = query(study, "select step from metrics where run_uuid = ? order by step", str(run.run_id))
    assert actual == [(1,), (2,), (3,)]
    assert query(study, "select status from runs where lifecycle_stage = 'active'") == [("FINISHED",)]


def test_results_for_a_run_of_another_store_are_dropped(study: Study) -> None:
    """A run that this store does not have, by its id or by its key, gets nothing, and nothing is left waiting."""
    for key, run_id in (("somebody's", "0" * 32), ("nobody's", None)):
        run = Tracker(study).reopen(key, run_id)
        run.log_result("evaluation", "1", {0: {"test/elbo": -1.0}}, {})
        run.finish(None)
        assert run.missing
    assert list(study.runs.iterdir()) == []


def test_a_run_has_its_results_once(study: Study) -> None:
    """Results that are logged a second time are there once, results that changed are added; the run stays ended."""
    run = start(study)
    run.finish()
    for run_id, digest in ((run.run_id, "1"), (None, "1"), (run.run_id, "2")):
        again = Tracker(study).reopen("a", run_id)
        again.log_result("evaluation", digest, {0: {"test/elbo": -1.0}, 5: {"milestone/elbo": -2.0}}, {})
        again.finish(None)
        assert not again.missing
    assert query(study, "select key, count(*) from metrics group by key") == [("milestone/elbo", 2), ("test/elbo", 2)]
    assert query(study, "select status from runs") == [("FINISHED",)]


@pytest.mark.parametrize("enabled", [True, False])
def test_system_metrics_arrive_where_they_are_asked_for(
    study: Study, monkeypatch: pytest.MonkeyPatch, enabled: bool
) -> None:
    """MLflow's option gives a run those of its machine, in a section of their own; epochs and end stay as they are."""
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", str(enabled).lower())
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1")
    run, several = start(study), "select count(*) > 1 from metrics where key = 'system/cpu_utilization_percentage'"
    deadline = time.monotonic() + 60
    while enabled and query(study, several) == [(0,)]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    log(run, RECORDS)
    run.finish()
    assert query(study, "select step from metrics where key = 'valid/elbo' order by step") == [(1,), (2,), (3,)]
    sections = {key.partition("/")[0] for (key,) in query(study, "select key from metrics")}
    assert sections == {"valid", "system"} if enabled else {"valid"}
    assert query(study, "select status from runs") == [("FINISHED",)]
    assert not run.folder.path.exists()


@pytest.mark.parametrize("state", [True, False])
def test_a_description_that_is_replaced_still_says_how_to_run_again(study: Study, state: bool) -> None:
    """Results replace it once the run has ended; publishing the run's folder again does not undo that."""
    run = start(study)
    if state:  # the folder stays, and the results are added to it
        keep_state(run)
    run.finish()
    for _ in range(2):
        again = Tracker(study).reopen("a", run.run_id)
        again.describe("nll 7")
        again.finish(None)
    note = query(study, "select value from tags where key = 'mlflow.note.content'")
    assert note == [(f"nll 7\n\nRun again and compare: `cave reproduce {run.run_id}`.",)]


def test_artifacts_lie_at_the_root_whatever_the_working_folder(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file is logged as it was at that moment, and is kept in mlartifacts of the study's store."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    file = tmp_path / "note.txt"
    file.write_text("x")
    run = start(study)
    run.log_result("notes", "1", {}, {"notes": [file]})
    file.write_text("changed")
    run.finish()
    assert [path.read_text() for path in (study.shared_root / "mlartifacts").rglob("note.txt")] == ["x"]
    assert [path.parent.name for path in (study.shared_root / "mlartifacts").rglob("note.txt")] == ["notes"]
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
@pytest.mark.parametrize(
    "statements", [60, *(pytest.param(count, marks=pytest.mark.nightly) for count in (3, 200, 400))]
)
def test_a_fresh_database_is_whole_or_absent(study: Study, statements: int) -> None:
    """Killed at one of the hundreds of statements that make MLflow's tables, a study starts as for the first time."""
    (study.shared_root / "mlflow.db").unlink()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", KILLED, str(statements)]
    killed = subprocess.run(command, cwd=study.folder, env=environment, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (study.shared_root / "mlflow.db").exists()
    run = start(study)
    log(run, RECORDS)
    run.finish()
    assert query(study, "select status from runs") == [("FINISHED",)]
    assert [path.name for path in study.shared_root.glob("*mlflow.db*")] == ["mlflow.db"]


@pytest.mark.slow
def test_a_database_may_have_any_name(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """An address that quotes a space, one of SQLite's own, and a root with a percent sign lead to these files."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{study.shared_root}/my%20runs.db")
    start(study).finish()
    assert rows(study.shared_root / "my runs.db", "select status from runs") == [("FINISHED",)]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///file:{study.shared_root / 'own.db'}?uri=true")
    start(study).finish()
    assert rows(study.shared_root / "own.db", "select status from runs") == [("FINISHED",)]
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    other = make_study(study.shared_root / "a%20b")
    start(other).finish()
    assert rows(other.shared_root / "mlflow.db", "select status from runs") == [("FINISHED",)]
    assert not (study.shared_root / "a b").exists()


@pytest.mark.slow
def test_a_file_system_without_links_will_do(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a file cannot have two names, the database is made all the same."""

    def refused(*_: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", refused)
    (study.shared_root / "mlflow.db").unlink()
    start(study).finish()
    assert query(study, "select status from runs") == [("FINISHED",)]
    assert [path.name for path in study.shared_root.glob("*mlflow.db*")] == ["mlflow.db"]
