"""A project that was moved or copied keeps its runs, and nothing is written outside its root."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.errors import InputError
from pipeline.run_folders import SPEC, RunSpec
from pipeline.study import Study
from pipeline.tracking import LoggedRun, Run, Tracker, artifacts
from pipeline.tracking.artifacts import moved_roots, relocate
from tests.small import splits
from tests.workshop import make_study, rows

pytestmark = pytest.mark.slow

ADDRESSES = "select artifact_uri from runs union select artifact_location from experiments where experiment_id > 0"


@pytest.fixture(autouse=True)
def _own_stores(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "CAVE_OPTUNA_URL", "DVC_ROOT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """Return a study whose root has a blank and a sign in its name, with one finished run `a`."""
    made = make_study(tmp_path / "my 100% project")
    start(made, "a").finish()
    return made


def start(study: Study, key: str) -> Run:
    spec = RunSpec(stage="train", variant="mhvae", seed=0, params=study.params, rng_seed=0)
    return Tracker(study).require().start(spec, key=key, name=key, splits=splits(), about="a run")


def addresses(study: Study) -> list[str]:
    return [row[0] for row in rows(study.shared_root / "mlflow.db", ADDRESSES)]


def tree(folder: Path) -> dict[str, bytes]:
    """Return the content of every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def run_id(study: Study, key: str) -> str:
    actual = rows(
        study.shared_root / "mlflow.db", "select run_uuid from tags where key = 'cave.key' and value = ?", key
    )
    return str(actual[0][0])


def point_to(study: Study, root: Path) -> None:
    """Write addresses into the database as if it had been made at another root."""
    with sqlite3.connect(study.shared_root / "mlflow.db") as connection:
        for table, column in artifacts.COLUMNS[:2]:
            connection.execute(
                f"update {table} set {column} = replace({column}, ?, ?)", (study.shared_root.as_uri(), root.as_uri())
            )
    connection.close()


def test_a_moved_project_keeps_its_runs(study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """After a move, files of earlier runs are found, new runs lie at the new place, and the old one stays away."""
    old = study.root
    moved = Study.at(shutil.move(old, tmp_path / "other" / "näme"))
    start(moved, "b").finish()
    messages = [line for line in capsys.readouterr().err.splitlines() if "was made in" in line]
    assert messages == [f"mlflow.db was made in {old}; its artifact addresses now point to {moved.root}"]
    assert not old.exists()
    assert all(address.startswith(f"{moved.root.as_uri()}/mlartifacts/") for address in addresses(moved))
    (tmp_path / "files").mkdir()
    for key in ("a", "b"):
        assert LoggedRun.read(moved, run_id(moved, key)).download(tmp_path / "files", SPEC).is_file()
    assert capsys.readouterr().err == ""


def test_a_copy_writes_into_itself_alone(study: Study, tmp_path: Path) -> None:
    """A run in a copy leaves the original byte for byte as it was, and finds the copied files."""
    copy = Study.at(shutil.copytree(study.root, tmp_path / "copy"))
    before = tree(study.root)
    start(copy, "b").finish()
    assert tree(study.root) == before
    assert len(list((copy.root / "mlartifacts" / copy.name).iterdir())) == 2
    assert all(address.startswith(copy.root.as_uri()) for address in addresses(copy))
    start(study, "c").finish()  # and the original goes on as before
    assert all(address.startswith(study.root.as_uri()) for address in addresses(study))


@pytest.mark.parametrize("scheme", ["file", "plain"])
def test_a_folder_of_another_user_that_is_not_there(study: Study, scheme: str) -> None:
    """A project that came from a home which this machine does not have is used where it is now."""
    elsewhere = Path("/home/nobody at all/project")
    point_to(study, elsewhere)
    if scheme == "plain":
        with sqlite3.connect(study.shared_root / "mlflow.db") as connection:
            connection.execute(
                "update runs set artifact_uri = replace(artifact_uri, ?, ?)", (elsewhere.as_uri(), str(elsewhere))
            )
        connection.close()
    assert moved_roots(study.shared_root) == [elsewhere]
    start(study, "b").finish()
    assert moved_roots(study.shared_root) == []
    assert {address.partition("/mlartifacts/")[0] for address in addresses(study)} <= {
        study.root.as_uri(),
        str(study.root),
    }
    assert not elsewhere.exists()


def test_an_address_that_a_user_chose_stays(study: Study, tmp_path: Path) -> None:
    """A bucket, and a folder elsewhere that holds artifacts and no project, are left alone."""
    disk = tmp_path / "disk"
    (disk / "mlartifacts" / "mine").mkdir(parents=True)
    chosen = ["s3://bucket/mlartifacts/mine", (disk / "mlartifacts" / "mine").as_uri()]
    with sqlite3.connect(study.shared_root / "mlflow.db") as connection:
        for number, address in enumerate(chosen):
            connection.execute(
                "insert into experiments (name, artifact_location, lifecycle_stage, workspace)"
                " values (?, ?, 'active', 'default')",
                (f"chosen {number}", address),
            )
    connection.close()
    moved = Study.at(shutil.move(study.root, tmp_path / "moved"))
    relocate(moved.shared_root)
    assert set(chosen) <= set(addresses(moved))
    assert len([a for a in addresses(moved) if a.startswith(moved.root.as_uri())]) == 2


def test_another_project_that_logs_to_a_database_keeps_its_artifacts(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two clones that share one's database each keep their artifacts, whichever opens it, also with its own beside."""
    other = make_study(tmp_path / "other")
    start(replace(other, out=other.out.with_name("theirs")), "own").finish()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{study.shared_root / 'mlflow.db'}")
    start(replace(other, out=other.out.with_name("wide")), "b").finish()
    before = addresses(study)
    start(study, "c").finish()
    assert set(before) <= set(addresses(study))
    assert len([address for address in before if address.startswith(other.root.as_uri())]) == 2


def test_a_database_elsewhere_is_not_touched(study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database outside the root belongs to whoever named it, and its addresses stay."""
    shared = shutil.move(study.shared_root / "mlflow.db", tmp_path / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{shared}")
    before = Path(shared).read_bytes()
    relocate(Path(shutil.move(study.root, tmp_path / "moved")))
    assert Path(shared).read_bytes() == before


def test_many_processes_move_a_database_once(study: Study, tmp_path: Path) -> None:
    """Of processes that start at once after a move, one changes the addresses and says so."""
    moved = shutil.move(study.root, tmp_path / "moved")
    code = "import sys, pathlib; from pipeline.tracking.artifacts import relocate; relocate(pathlib.Path(sys.argv[1]))"
    words = [sys.executable, "-c", code, str(moved)]
    running = [subprocess.Popen(words, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    messages = "".join(process.communicate()[1] for process in running)
    assert [process.returncode for process in running] == [0] * 4
    assert messages.count("\n") == 1


def test_a_move_that_breaks_off_changes_nothing(study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All addresses are changed in one transaction, or none is."""
    moved = Study.at(shutil.move(study.root, tmp_path / "moved"))
    before = addresses(moved)
    monkeypatch.setattr(artifacts, "COLUMNS", (*artifacts.COLUMNS[:1], ("runs", "no_such_column")))
    monkeypatch.setattr(artifacts, "_unrelated", lambda error: False)
    with pytest.raises(InputError, match="no such column"):
        relocate(moved.shared_root)
    assert addresses(moved) == before


def test_a_database_that_cannot_be_written_is_said(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A stage does not start on a moved database that it cannot change; a command that reads goes on with a line."""
    moved = Study.at(shutil.move(study.root, tmp_path / "moved"))
    monkeypatch.setattr(
        artifacts,
        "_open",
        lambda file: sqlite3.connect(f"file:{artifacts.quote(str(file))}?mode=ro", uri=True, isolation_level=None),
    )
    with pytest.raises(InputError, match=r"mlflow.db: its artifact addresses cannot be changed to .*readonly database"):
        Tracker(moved).require()
    actual = LoggedRun.read(moved, run_id(moved, "a"))
    assert "its artifact addresses cannot be changed" in capsys.readouterr().err
    with pytest.raises(InputError, match=r"its artifacts are to lie in .*: no such file or directory"):
        actual.download(tmp_path, SPEC)


def test_artifacts_that_are_gone_are_named(study: Study, tmp_path: Path) -> None:
    """A run whose artifact folder is not there says so, instead of having no provenance."""
    folder = study.root / "mlartifacts" / study.name / run_id(study, "a") / "artifacts"
    actual = LoggedRun.read(study, run_id(study, "a"))
    shutil.move(study.root / "mlartifacts", tmp_path / "elsewhere")
    with pytest.raises(InputError) as messages:
        actual.download(tmp_path, SPEC)
    assert f"its artifacts are to lie in {folder}: no such file or directory" in str(messages.value)


def test_an_artifact_folder_that_cannot_be_written_stops_a_stage(study: Study, tmp_path: Path) -> None:
    """Before it works, a stage names the folder that artifacts cannot go to."""
    shutil.move(study.root / "mlartifacts", tmp_path / "elsewhere")
    (study.root / "mlartifacts").touch()
    with pytest.raises(InputError, match=r"keeps this study's artifacts in .*, and .*mlartifacts is not a folder"):
        Tracker(study).require()


def test_what_waits_in_a_moved_project_is_published(study: Study, tmp_path: Path) -> None:
    """Lines that waited for a project's own database are sent to it where it is now, and work goes on in its run."""
    waiting = start(study, "b")
    waiting.set_tags({"late": "yes"})
    waiting.folder.log.append({"type": "tags", "tags": {"later": "yes"}})
    waiting.close()
    moved = Study.at(shutil.move(study.root, tmp_path / "moved"))
    result = Tracker(moved).require().backlog.publish_all(everything=True)
    assert (result.done, result.elsewhere) == (1, {})
    assert rows(moved.shared_root / "mlflow.db", "select value from tags where key = 'later'") == [("yes",)]
    assert os.listdir(moved.runs) == []
