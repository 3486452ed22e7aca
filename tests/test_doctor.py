"""`cave doctor` finds each fault where it was really made, says what repairs it, and what it says does repair it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shlex
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest

from pipeline import addresses
from pipeline.doctor import CHECKS, Finding, Target, disk, examine, find_target, table
from pipeline.doctor.finding import Check
from pipeline.errors import InputError
from pipeline.files import file_lock, write_bytes
from pipeline.run_folders.git import dvc_starts
from pipeline.stages import fetch, prepare
from pipeline.study import Study
from pipeline.sweep import Sweep
from pipeline.sweep import database as sweep_database
from pipeline.sweep.compat import set_internal
from pipeline.tracking import Tracker, tracking_uri
from tests.small import ROOT
from tests.workshop import make_study
from tests.zygote import Program, run

pytestmark = pytest.mark.slow

IDENTITY = ("-c", "user.name=t", "-c", "user.email=t@t")
SECRET = "correct-horse"


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """Return a study that nothing is wrong with: a repository with a commit, both databases, an installation."""
    for name in ("MLFLOW_TRACKING_URI", "CAVE_OPTUNA_URL", "CAVE_DATA_MIRROR", "CAVE_DEVICE", "CAVE_WORKERS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", ON_PATH["PATH"])
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    study = make_study(tmp_path / "project")
    for name in ("pyproject.toml", "constraints.txt", ".gitignore"):
        shutil.copy(ROOT / name, study.root / name)
    optuna_database(study.shared_root / "optuna.db")
    git(study.root, "init", "-q")
    git(study.root, "add", "-A")
    git(study.root, *IDENTITY, "commit", "-qm", "all")
    return study


def optuna_database(path: Path) -> None:
    """Make Optuna's tables."""
    import optuna

    optuna.storages.RDBStorage(f"sqlite:///{path}").engine.dispose()


def git(folder: Path, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True, text=True).stdout


def findings_of(study: Study, name: str, level: str | None = None) -> list[Finding]:
    """Return what one check finds, of one level if wanted; its line must be a line."""
    checks: dict[str, Check] = {name: CHECKS[name]}
    findings = [finding for _, finding in examine(checks, find_target(study.root, study.folder))]
    assert findings
    for finding in findings:
        assert len(table(name, finding).splitlines()) == 1
        assert "itself failed" not in finding.message, finding
        assert (finding.level == "ok") == (not finding.fix)
    return [finding for finding in findings if level in (None, finding.level)]


def only(study: Study, name: str, level: str) -> Finding:
    """Return the one finding of that level."""
    (finding,) = findings_of(study, name, level)
    return finding


ON_PATH = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def apply_fix(finding: Finding, folder: Path | None = None) -> None:
    """Do what a finding says."""
    own = ON_PATH | {"PYTHONPATH": str(ROOT)}
    subprocess.run(finding.fix, shell=True, check=True, capture_output=True, env=os.environ | own, cwd=folder)


def cave(folder: Path, *words: str) -> Program:
    """Run the command line in a folder."""
    return run(folder, "pipeline", *words, code=None)


# --- All of it


def test_a_sound_study_has_no_fault(study: Study) -> None:
    """Where nothing is wrong, every check says ok."""
    results = [(name, finding) for name, finding in examine(CHECKS, find_target(study.root, study.folder))]
    assert {name for name, _ in results} == set(CHECKS)
    assert [table(name, finding) for name, finding in results if finding.level == "fault"] == []
    pinned = ("libraries", "space", "git")  # which may differ where the tests are run
    assert [table(name, f) for name, f in results if f.level == "warning" and name not in pinned] == []


def test_looking_changes_nothing(study: Study) -> None:
    """No file is made, changed or removed by any check."""
    before = {path: path.stat().st_mtime_ns for path in study.root.rglob("*") if path.is_file()}
    list(examine(CHECKS, find_target(study.root, study.folder)))
    assert {path: path.stat().st_mtime_ns for path in study.root.rglob("*") if path.is_file()} == before


def test_a_check_that_crashes_hides_no_other(study: Study) -> None:
    """A check that fails of itself is reported as such, in one line without a password, and the next is made."""

    def broken(_: Target) -> Iterator[Finding]:
        yield Finding("ok", "half")
        raise RuntimeError("two\nlines, and postgresql://me:secret@host/db")

    checks: dict[str, Check] = {"broken": broken, "unpublished": CHECKS["unpublished"]}
    lines = [table(name, finding) for name, finding in examine(checks, find_target(study.root, study.folder))]
    assert [line.split()[:2] for line in lines] == [["ok", "broken"], ["warning", "broken"], ["ok", "unpublished"]]
    assert "this check itself failed: RuntimeError: two lines, and postgresql://host/db" in lines[1]


def test_the_command_ends_with_1_for_a_fault_alone(study: Study) -> None:
    """`cave doctor` prints a line a finding, no traceback, and its exit code says whether there is a fault."""
    done = cave(study.root, "doctor")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert {line.split()[0] for line in done.stdout.splitlines()} <= {"ok", "warning"}
    (study.shared_root / "mlflow.db").write_bytes(b"no database" * 1000)
    done = cave(study.root, "doctor")
    assert (done.returncode, done.stderr) == (1, "")
    assert [line.split()[1] for line in done.stdout.splitlines() if line.startswith("fault")] == ["databases"]


def test_a_study_is_named(study: Study) -> None:
    """`cave doctor NAME` looks at that study, also where its parameters cannot be read; another name is refused."""
    folder = study.root / "experiments" / "wide"
    folder.mkdir(parents=True)
    (folder / "params.yaml").write_text("model: [")
    done = cave(study.root, "doctor", "wide")
    assert (done.returncode, done.stderr) == (1, "")
    assert "fault    params       params.yaml: not readable as YAML" in done.stdout
    done = cave(study.root, "doctor", "deep")
    assert done.returncode == 2
    assert done.stderr == "error: study: 'deep' given; `cave study list` shows those that are there\n"


# --- The installation


def test_a_missing_and_a_wrong_library_are_told(study: Study) -> None:
    """A library that pyproject.toml asks for and that is not there, or too old, is a fault; another pin a warning."""
    path = study.root / "pyproject.toml"
    text = path.read_text()
    path.write_text(text.replace('"numpy>=2.2"', '"numpy>=99", "no-such-library>=1"'))
    (study.root / "constraints.txt").write_text("# pins\nnumpy==0.1\n")
    missing, unfit = findings_of(study, "libraries", "fault")
    assert missing.message == "missing: no-such-library"
    assert unfit.message.startswith("of the wrong version: numpy ")
    assert "(0.1)" in only(study, "libraries", "warning").message
    path.write_text(text.replace(">=3.11", ">=3.99"))
    assert ">=3.99 is needed" in only(study, "python", "fault").message


def test_variables_are_looked_at(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """A count that is none, a device that is not there and a mirror that is gone are faults, repaired by unset."""
    monkeypatch.setenv("CAVE_WORKERS", "many")
    monkeypatch.setenv("CAVE_DEVICE", "cuda:99")
    monkeypatch.setenv("CAVE_DATA_MIRROR", str(study.root / "gone"))
    for name, variable in (("variables", "WORKERS"), ("device", "DEVICE"), ("data mirror", "DATA_MIRROR")):
        assert only(study, name, "fault").fix == f"unset CAVE_{variable}"


# --- The disk


@pytest.fixture
def small_disk(study: Study) -> Iterator[Path]:
    """Mount a disk of a mebibyte at the study's cache."""
    study.cache.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=1m,nr_inodes=200", "tmpfs", str(study.cache)]
    if os.geteuid() != 0 or subprocess.run(words, capture_output=True).returncode != 0:
        pytest.skip("mounting a disk needs root")
    yield study.cache
    subprocess.run(["umount", "-l", str(study.cache)], check=True)


def fill(folder: Path) -> None:
    """Write until the disk is full."""
    with (folder / "filler").open("wb", buffering=0) as file:

        def write() -> None:
            while True:
                file.write(bytes(4096))

        with pytest.raises(OSError, match="No space left"):
            write()


def test_a_full_disk_is_found(study: Study, small_disk: Path) -> None:
    """A disk without room is a fault of room and of writing; what is removed makes room again."""
    fill(small_disk)
    assert "the disk is full" in only(study, "space", "fault").message
    assert "no space left on device" in only(study, "writing", "fault").message
    (small_disk / "filler").unlink()
    assert not findings_of(study, "writing", "fault")


def test_the_folder_for_temporary_files_is_looked_at(
    study: Study, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk is found under the folder for temporary files too."""
    monkeypatch.setattr("pipeline.doctor.disk.tempfile.tempdir", str(small_disk / "tmp"))
    (small_disk / "tmp").mkdir()
    fill(small_disk)
    assert str(small_disk / "tmp") in " ".join(finding.message for finding in findings_of(study, "writing", "fault"))


def test_a_disk_without_room_for_another_file_is_found(study: Study, small_disk: Path) -> None:
    """Where only the number of files is used up, that is reported too."""

    def touch() -> None:
        for number in range(300):
            (small_disk / str(number)).touch()

    with pytest.raises(OSError, match="No space left"):
        touch()
    assert ", 0 files" in only(study, "space", "fault").message
    assert findings_of(study, "writing", "fault")


def test_little_room_is_told_wherever_the_tests_run(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """The numbers that the system gives decide: none free a fault, little a warning."""
    real = os.statvfs(study.root)

    def room(blocks: int) -> None:
        values = [4096, 4096, 10**6, blocks, blocks, 10**6, 10**6, 10**6, *list(real)[8:]]
        monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result(values))

    for blocks, level in ((10, "fault"), (10**5, "warning"), (10**6, "ok")):
        room(blocks)
        assert findings_of(study, "space", level)


def test_a_read_only_disk_is_found(study: Study, small_disk: Path) -> None:
    """A disk mounted read-only is a fault, and what is said repairs it."""
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    finding = only(study, "writing", "fault")
    assert "read-only file system" in finding.message
    apply_fix(finding)
    assert not findings_of(study, "writing", "fault")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_found(study: Study) -> None:
    """A folder without permission to write is a fault, and what is said repairs it."""
    study.cache.mkdir()
    study.cache.chmod(0o555)
    finding = only(study, "writing", "fault")
    assert "permission denied" in finding.message
    apply_fix(finding)
    assert not findings_of(study, "writing", "fault")


MOUNTS = """22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:40 / /home rw shared:2 - nfs4 server:/home rw,vers=4.2
31 30 8:2 / /home/local rw - xfs /dev/sdb1 rw
32 22 0:41 / /mnt/with\\040blank rw - cifs //server/share rw
33 22 0:42 / /srv rw - fuse.sshfs me@host:/ rw
34 33 0:43 / /srv rw - tmpfs tmpfs rw
35 22 0:44 / /scratch rw - lustre mds@tcp:/scratch rw
"""


@pytest.mark.parametrize(
    ("path", "point", "kind"),
    [
        ("/home/me/cave", "/home", "nfs4"),
        ("/home/local/cave", "/home/local", "xfs"),
        ("/homes/me", "/", "ext4"),
        ("/mnt/with blank/cave", "/mnt/with blank", "cifs"),
        ("/srv/cave", "/srv", "tmpfs"),
        ("/scratch", "/scratch", "lustre"),
        ("/", "/", "ext4"),
    ],
)
def test_the_longest_and_last_mount_counts(path: str, point: str, kind: str) -> None:
    """The file system of a path is that of its nearest mount point, and of the last mounted there."""
    assert disk.mount(Path(path), MOUNTS) == (point, kind)


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "smb3", "9p", "lustre", "gpfs", "fuse.sshfs", "ceph"])
def test_a_database_on_a_network_is_found(study: Study, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite on a network file system is a fault; with servers for both stores it is but a warning."""
    mounts = study.root / "mountinfo"
    mounts.write_text(f"22 1 8:1 / / rw - ext4 /dev/sda1 rw\n30 22 0:40 / {study.root} rw - {kind} server:/ rw\n")
    monkeypatch.setattr(disk, "MOUNTS", mounts)
    assert kind in only(study, "file system", "fault").message
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("CAVE_OPTUNA_URL", "postgresql+psycopg://127.0.0.1:9/db")
    assert kind in only(study, "file system", "warning").message


def test_what_a_killed_writer_left_is_found(study: Study) -> None:
    """The temporary file of a writer killed in the middle is found when it is old, and what is said removes it."""
    code = (
        "import os, signal, sys; from pathlib import Path; from pipeline import files;"
        "os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL);"
        "files.write_bytes(Path(sys.argv[1]), b'half')"
    )
    path = study.out / "it's best.json"
    command = [sys.executable, "-c", code, str(path)]
    subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False)
    (remains,) = path.parent.iterdir()
    assert findings_of(study, "leftovers", "ok")  # its writer may live
    os.utime(remains, (0, 0))
    write_bytes(path, b"whole")
    finding = only(study, "leftovers", "warning")
    assert remains.name in finding.message
    apply_fix(finding)
    assert list(path.parent.iterdir()) == [path]


# --- Databases


def test_a_damaged_database_is_found(study: Study) -> None:
    """A database with a torn page in its middle, and one that is none, are faults."""
    path = study.shared_root / "mlflow.db"
    content = bytearray(path.read_bytes())
    content[4096:12288] = b"\xff" * 8192
    path.write_bytes(content)
    assert "mlflow.db is damaged" in only(study, "databases", "fault").message
    path.write_bytes(b"x" * 5000)
    assert "not a database" in only(study, "databases", "fault").message


def test_a_locked_database_is_found(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database that another process keeps locked is a fault that names the process; to end it is the repair."""
    monkeypatch.setattr("pipeline.doctor.databases.PATIENCE", 0.3)
    code = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None); c.execute('begin immediate')"
    command = [
        sys.executable,
        "-c",
        code + "; print(1, flush=True); sys.stdin.read()",
        str(study.shared_root / "optuna.db"),
    ]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"1\n"
        finding = only(study, "databases", "fault")
        assert "optuna.db has been locked" in finding.message
        assert finding.fix == f"kill {holder.pid}"
        apply_fix(finding)
        holder.wait()
    assert not findings_of(study, "databases", "fault")


def test_one_database_for_both_is_found(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow and Optuna in one file is a fault: each counts its migrations in a table of the same name."""
    monkeypatch.setenv("CAVE_OPTUNA_URL", f"sqlite:///{study.shared_root / 'mlflow.db'}")
    assert "share" in only(study, "databases", "fault").message


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("postgresql://a:x@HOST/db", "postgresql+psycopg://b:y@host:5432/db?sslmode=require"),
        ("postgres://me@/db", "postgresql://me@127.0.0.1:5432/db"),
        ("postgresql://host/?dbname=db", "postgresql:///db?host=host&port=5432"),
        ("postgresql://me@host", "postgresql://host/me"),
        ("sqlite:///one.db", "sqlite:///sub/../one.db?timeout=3"),
    ],
)
def test_one_database_by_two_names_is_found(
    study: Study, first: str, second: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever user, driver, port or path it is written with, one database is reported, and refused by the commands."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", first)
    monkeypatch.setenv("CAVE_OPTUNA_URL", second)
    assert "share" in only(study, "databases", "fault").message
    done = cave(study.root, "check")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: MLflow and Optuna share the database ")
    if first.startswith("postgres"):
        pytest.importorskip("psycopg")  # without the driver, that it is missing is said first
    with pytest.raises(InputError, match=r"MLflow and Optuna share the database [^@]*, and would spoil"):
        Tracker(study).require()


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("postgresql://host/db", "postgresql://host/other"),
        ("postgresql://host/db", "postgresql://host:5433/db"),
        ("postgresql://host/db", "postgresql://elsewhere/db"),
        ("http://host/db", "postgresql://host/db"),
        ("sqlite:///one.db", "sqlite:///other.db"),
    ],
)
def test_two_databases_are_no_fault(study: Study, first: str, second: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another host, port, name or kind is another database."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", first)
    monkeypatch.setenv("CAVE_OPTUNA_URL", second)
    assert not findings_of(study, "databases", "fault")
    addresses.require_separate(study.shared_root)


def test_a_relative_database_starts_at_the_root(study: Study, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of both stores, for the commands as for the doctor, wherever they are called, and a blank is written as %20."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CAVE_OPTUNA_URL", "sqlite:///an%20other.db?x=1")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    (study.shared_root / "an other.db").write_bytes(b"no database" * 1000)
    assert "an other.db is damaged" in only(study, "databases", "fault").message
    assert sweep_database.Database.of(study).file == study.shared_root / "an other.db"
    assert tracking_uri(study) == f"sqlite:///{study.shared_root / 'mlflow.db'}"


def execute(path: Path, *statements: str) -> None:
    connection = sqlite3.connect(path)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


@pytest.mark.nightly
def test_an_old_schema_is_found_and_mended(study: Study) -> None:
    """A database one migration back is a fault, and what is said brings it to the schema of today."""
    from alembic import command
    from mlflow.store.db.utils import _get_alembic_config

    url = f"sqlite:///{study.shared_root / 'mlflow.db'}"
    with contextlib.suppress(NotImplementedError):
        command.downgrade(_get_alembic_config(url), "-1")
    if not findings_of(study, "schema", "fault"):
        pytest.skip("MLflow's last migration has no way back")
    finding = only(study, "schema", "fault")
    assert "mlflow.db is at" in finding.message
    apply_fix(finding)
    assert len(findings_of(study, "schema", "ok")) == 2


def test_an_old_optuna_schema_is_found_and_mended(study: Study) -> None:
    """Optuna's database at a revision before the last is a fault, and what is said repairs it."""
    path = study.shared_root / "optuna.db"
    execute(path, "update alembic_version set version_num = 'v3.0.0.d'", "update version_info set schema_version = 11")
    finding = only(study, "schema", "fault")
    assert "optuna.db is at v3.0.0.d" in finding.message
    apply_fix(finding)
    assert len(findings_of(study, "schema", "ok")) == 2


@pytest.mark.parametrize("name", ["mlflow", "optuna"])
def test_a_newer_schema_is_found(study: Study, name: str) -> None:
    """A revision that the installed version does not know was made by a newer one."""
    execute(study.shared_root / f"{name}.db", "update alembic_version set version_num = 'v9.9'")
    finding = only(study, "schema", "fault")
    assert "a newer one made it" in finding.message
    assert finding.fix == f"pip install --upgrade {name}"


def test_a_deleted_experiment_is_found(study: Study) -> None:
    """An experiment deleted in MLflow is a warning, and what is said brings it back."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{study.shared_root / 'mlflow.db'}")
    number = client.create_experiment(f"platos-cave/{study.name}")
    assert findings_of(study, "experiment", "ok")
    client.delete_experiment(number)
    finding = only(study, "experiment", "warning")
    apply_fix(finding)
    assert findings_of(study, "experiment", "ok")


# --- Servers


class Server(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/health" else 404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def test_a_server_that_answers_and_one_that_does_not(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tracking server is asked for its health; one that is gone, or answers otherwise, is a fault."""
    monkeypatch.setenv("NO_PROXY", "*")
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        address = f"http://me:{SECRET}@127.0.0.1:{server.server_port}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        monkeypatch.setenv("CAVE_DATA_MIRROR", address)
        assert findings_of(study, "tracking", "ok")
        assert findings_of(study, "data mirror", "ok")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address + "/elsewhere")
        assert "HTTP 404" in only(study, "tracking", "fault").message
        server.shutdown()
        thread.join()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    for name in ("tracking", "data mirror"):
        finding = only(study, name, "fault")
        assert "cannot be reached" in finding.message
        assert SECRET not in finding.message


def test_a_server_that_hangs_is_told(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that takes the connection and says nothing is given up."""
    import socket

    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr("pipeline.doctor.servers.PATIENCE", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert "no answer within" in only(study, "tracking", "fault").message


def test_a_postgresql_that_is_gone_is_told(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """A PostgreSQL that does not answer, or whose driver is missing, is a fault without its password."""
    monkeypatch.setenv("CAVE_OPTUNA_URL", f"postgresql+psycopg://me:{SECRET}@127.0.0.1:9/db")
    finding = only(study, "optuna", "fault")
    assert "postgresql+psycopg://127.0.0.1:9/db" in finding.message
    assert SECRET not in finding.message


# --- The project


@pytest.mark.parametrize(
    "content",
    [
        "<<<<<<< HEAD\nschema: '2.0'\n=======\nschema: '2.0'\n>>>>>>> other\n",
        "schema: '2.0'\nstages: [",
        "stages: 3\n",
        "stages:\n  a: {}\n",
        "",
    ],
)
def test_a_damaged_dvc_lock_is_found(study: Study, content: str) -> None:
    """A dvc.lock with the marks of a conflict, cut or of another form is a fault, and its last commit repairs it."""
    path = study.root / "dvc.lock"
    path.write_text("schema: '2.0'\nstages:\n  fetch:\n    cmd: python -m pipeline.stages fetch\n")
    assert findings_of(study, "dvc.lock", "ok")[0].message == "1 stage made"
    path.write_text(content)
    finding = only(study, "dvc.lock", "fault")
    assert finding.fix == f"rm {path} && dvc repro"
    git(study.root, "add", "-f", "dvc.lock")
    good = "schema: '2.0'\nstages: {}\n"
    path.write_text(good)
    git(study.root, "add", "-f", "dvc.lock")
    git(study.root, *IDENTITY, "commit", "-qm", "lock")
    path.write_text(content)
    subprocess.run(shlex.split(only(study, "dvc.lock", "fault").fix.partition(" && ")[0]), check=True)
    assert path.read_text() == good


def test_params_that_are_broken_are_told(study: Study) -> None:
    """A fault in params.yaml is reported with its one line, and the checks that need no parameters are made."""
    (study.root / "params.yaml").write_text("model: [")
    broken = find_target(study.root, study.folder)
    results = dict(examine(CHECKS, broken))
    assert results["params"].level == "fault"
    assert results["databases"].level == "ok"
    assert not [table(name, f) for name, f in results.items() if "itself failed" in f.message]


def test_the_repository_is_looked_at(study: Study, tmp_path: Path) -> None:
    """No repository, none with a commit, and a merge that is not finished are reported; a shallow clone is fine."""
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "-q", "--depth", "1", f"file://{study.root}", str(clone))
    shallow = Study.at(clone)
    assert "shallow" in only(shallow, "git", "ok").message
    for branch in ("one", "two"):
        git(study.root, "checkout", "-qb", branch, "HEAD" if branch == "one" else "HEAD~1")
        (study.root / "constraints.txt").write_text(branch)
        git(study.root, *IDENTITY, "commit", "-qam", branch)
    subprocess.run(["git", *IDENTITY, "merge", "one"], cwd=study.root, capture_output=True, check=False)
    finding = only(study, "git", "fault")
    assert "constraints.txt" in finding.message
    apply_fix(finding)
    assert not findings_of(study, "git", "fault")
    shutil.rmtree(study.root / ".git")
    assert "without which DVC does not start" in only(study, "git", "fault").message
    (study.root / ".dvc").mkdir()
    (study.root / ".dvc" / "config.local").write_text("[core]\n    no_scm = true\n")
    assert "not a git repository" in only(study, "git", "warning").message
    (study.root / ".git").mkdir()  # an empty one is none
    (study.root / ".dvc" / "config.local").unlink()
    assert "without which DVC does not start" in only(study, "git", "fault").message
    git(study.root, "init", "-q")
    assert "nothing is committed yet" in only(study, "git", "warning").message


def test_a_worktree_and_a_folder_of_a_repository_are_repositories(study: Study, tmp_path: Path) -> None:
    """DVC starts in a worktree, whose `.git` is a file, and below a repository's root; without the program, too."""
    git(study.root, "worktree", "add", "-q", "--detach", str(tmp_path / "tree"))
    (study.root / "below").mkdir()
    assert dvc_starts(tmp_path / "tree")
    assert dvc_starts(study.root / "below")
    shutil.rmtree(study.root / ".git")
    assert not dvc_starts(tmp_path / "tree")
    assert not dvc_starts(study.root / "below")


def test_the_program_git_is_looked_for(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it DVC starts, but runs cannot be traced to their code: a warning."""
    monkeypatch.setenv("PATH", str(study.root))
    finding = only(study, "git", "warning")
    assert finding.message == "git is not installed: runs cannot record their code"


def rwlock(study: Study, content: object) -> Path:
    path = study.root / ".dvc" / "tmp" / "rwlock"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.mark.parametrize("content", ["", "{", "[]", '{"write": {"a": {"pid": "x"}}}', '{"write": 3}'])
def test_a_damaged_dvc_lock_file_is_found(study: Study, content: str) -> None:
    """A `rwlock` that a full disk cut off stops every DVC command; what is said removes it."""
    path = rwlock(study, content)
    finding = only(study, "DVC's locks", "fault")
    apply_fix(finding)
    assert not path.exists()


def test_the_lock_of_a_killed_dvc_is_stale_where_its_number_is_taken(study: Study) -> None:
    """An entry of a process that has ended stops nothing; one whose number another process has is a fault."""
    with subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE) as other:
        path = rwlock(study, {"write": {"a": {"pid": other.pid, "cmd": "dvc repro"}}, "read": {}})
        finding = only(study, "DVC's locks", "fault")
        assert str(other.pid) in finding.message
        other.kill()
    assert findings_of(study, "DVC's locks", "ok")
    apply_fix(finding)
    assert not path.exists()


def test_a_lock_that_the_kernel_holds_is_not_stale(study: Study) -> None:
    """The file `lock` alone means nothing; held, a command is at work."""
    path = rwlock(study, {}).with_name("lock")
    path.write_text(f" {os.getpid()}\n")
    assert findings_of(study, "DVC's locks", "ok")
    with path.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert f"process {os.getpid()}" in only(study, "DVC's locks", "warning").message


# --- Unfinished work


def test_rows_that_wait_are_found(study: Study) -> None:
    """A run that MLflow lacks lines of, and that no process works on, is named with the command that sends them."""
    waiting = study.runs / "0123abcd"
    waiting.mkdir(parents=True)
    assert not findings_of(study, "unpublished", "warning")
    (waiting / "log.jsonl").write_text('{"type":"start"}\n')
    assert only(study, "unpublished", "warning").fix == "cave sync"
    with file_lock(waiting / "lock"):
        assert not findings_of(study, "unpublished", "warning")
    (waiting / "log.jsonl").write_text('{"type":"start"}\n{"type":"published"}\n')
    assert not findings_of(study, "unpublished", "warning")


def test_what_an_earlier_version_left_is_found(study: Study) -> None:
    """Rows that an earlier version kept for MLflow are named with what sends them, or gives them up."""
    remains = study.cache / "outbox" / "0123abcd"
    remains.mkdir(parents=True)
    (remains / "ops.jsonl").touch()
    finding = only(study, "unpublished", "warning")
    assert finding.message.startswith("1 run of an earlier version")
    assert finding.fix == "cave sync, by that version of the code; or: rm -r .cache/outbox"


def test_a_trial_without_a_worker_is_found(study: Study) -> None:
    """A running trial is reported as left where no living process holds its worker's lock, and only then."""
    import optuna

    name = f"{study.name}/vae-0123456789"
    made = optuna.create_study(storage=f"sqlite:///{study.shared_root / 'optuna.db'}", study_name=name)
    assert findings_of(study, "trials", "ok")
    trial = made.ask()
    set_internal(trial, "worker", "token")
    finding = only(study, "trials", "warning")
    assert f"{name} 0" in finding.message
    assert finding.fix.startswith("the same `cave sweep`") or finding.fix == "dvc repro"
    with file_lock(Path(f"{study.shared_root / 'optuna.db'}.locks") / name / "workers" / "token"):
        assert only(study, "trials", "ok").message == "1 trial at work now"


def test_a_run_that_says_running_is_found(study: Study) -> None:
    """A run that was killed says RUNNING in MLflow until its work goes on."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{study.shared_root / 'mlflow.db'}")
    number = client.create_experiment(f"platos-cave/{study.name}")
    run = client.create_run(number, run_name="vae seed 0")
    assert "vae seed 0" in only(study, "runs", "warning").message
    client.set_terminated(run.info.run_id)
    assert findings_of(study, "runs", "ok")


@pytest.mark.nightly
def test_what_nothing_goes_on_with_is_not_said_to_go_on(study: Study) -> None:
    """Trials and runs of today's params go on; of older ones, or of other studies, that is reported as what it is."""
    import optuna
    from mlflow import MlflowClient

    fetch.run(study)
    prepare.run(study)
    database = f"sqlite:///{study.shared_root / 'optuna.db'}"
    today, older = Sweep(study, "vae").name, f"{study.name}/vae-0123456789"
    client = MlflowClient(f"sqlite:///{study.shared_root / 'mlflow.db'}")
    number = client.create_experiment(f"platos-cave/{study.name}")

    def begin(name: str) -> None:
        optuna.create_study(storage=database, study_name=name, load_if_exists=True).ask()
        client.create_run(number, run_name=name, tags={"key": f"{name}/{'0' * 32}/0"})

    begin(older)
    assert f"left of an older version of params, data or code, with which nothing goes on: {older} 0" in str(
        only(study, "trials", "ok")
    )
    finding = only(study, "runs", "warning")
    assert "of an older version" in finding.message
    begin(today)
    assert f"{today} 0; they go on" in only(study, "trials", "warning").message
    assert older in findings_of(study, "trials", "ok")[0].message
    subprocess.run(["bash", "-c", finding.fix.partition("or: ")[2]], check=True, env=os.environ | ON_PATH)
    assert f"({today}); if nothing runs now, they go on" in only(study, "runs", "warning").message
    begin("other/vae-0123456789")
    assert "trials of other studies" in findings_of(study, "trials", "ok")[-1].message


def test_a_worktree_whose_use_cannot_be_seen_is_told_so(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the system does not say where this user's processes work, that is said, and not that none does."""
    (tmp_path / "tmp" / "cave-reproduce-x").mkdir()
    assert "could not be seen" not in only(study, "worktrees", "warning").message

    def denied(process: psutil.Process) -> str:
        raise psutil.AccessDenied(process.pid)

    monkeypatch.setattr(psutil.Process, "cwd", denied)
    assert "could not be seen" in only(study, "worktrees", "warning").message


def test_a_worktree_that_was_left_is_found(study: Study, tmp_path: Path) -> None:
    """The worktree of a killed `cave reproduce` is reported unless a process works in it, and can be removed."""
    folder = tmp_path / "tmp" / "cave-reproduce-it's"
    git(study.root, "worktree", "add", "-q", "--detach", str(folder / "tree"))
    command = [sys.executable, "-c", "print(1, flush=True); input()"]
    with subprocess.Popen(command, cwd=folder / "tree", stdin=subprocess.PIPE, stdout=subprocess.PIPE) as worker:
        assert worker.stdout is not None
        worker.stdout.readline()
        assert findings_of(study, "worktrees", "ok")
        worker.kill()
    apply_fix(only(study, "worktrees", "warning"))
    assert not folder.exists()
    assert findings_of(study, "worktrees", "ok")
    assert git(study.root, "worktree", "list").count("\n") == 1


# --- The everyday commands in those states


def test_writing_on_a_full_disk_gets_one_line(study: Study, small_disk: Path) -> None:
    """What does not fit on a full disk, and a lock on a disk that cannot be written, are reported with their path."""
    fill(small_disk)
    with pytest.raises(InputError, match=rf"{small_disk / 'a'}: cannot be written: No space left"):
        write_bytes(small_disk / "a", bytes(2**20))
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(InputError, match=rf"{small_disk / 'x'}: cannot be written: Read-only file system"):
        take(small_disk / "x")


def take(path: Path) -> None:
    with file_lock(path):
        pass


def test_a_moved_database_is_found(study: Study, tmp_path: Path) -> None:
    """Addresses that point to a former root are found, and what is said changes them."""
    tracker = Tracker(study).require()
    tracker.server.experiment(tracker.name, tracker.note)
    moved = Study.at(shutil.move(study.root, tmp_path / "moved"))
    finding = only(moved, "artifacts", "warning")
    assert f"was made in {study.root}" in finding.message
    apply_fix(finding, moved.root)
    assert only(moved, "artifacts", "ok").message == "artifacts of 0 runs are there"


def test_artifacts_that_are_gone_or_outside_are_found(study: Study, tmp_path: Path) -> None:
    """Runs whose artifacts are gone are counted; a folder outside the project is named, and a fault where it fails."""
    tracker = Tracker(study).require()
    tracker.server.experiment(tracker.name, tracker.note)
    with contextlib.closing(sqlite3.connect(study.shared_root / "mlflow.db")) as connection, connection:
        connection.execute(
            "insert into runs (run_uuid, status, lifecycle_stage, artifact_uri, experiment_id)"
            " values ('a', 'FINISHED', 'active', ?, 1)",
            ((study.shared_root / "mlartifacts/default/a/artifacts").as_uri(),),
        )
    finding = only(study, "artifacts", "warning")
    assert finding.message.startswith("the artifacts of 1 run are gone, such as ")
    (study.shared_root / "mlartifacts/default/a/artifacts").mkdir(parents=True)
    assert only(study, "artifacts", "ok").message == "artifacts of 1 run are there"
    (tmp_path / "disk" / "mlartifacts").mkdir(parents=True)
    with contextlib.closing(sqlite3.connect(study.shared_root / "mlflow.db")) as connection, connection:
        location = (tmp_path / "disk/mlartifacts/default").as_uri()
        connection.execute("update experiments set artifact_location = ? where experiment_id = 1", (location,))
    assert any("outside of the project, in " in finding.message for finding in findings_of(study, "artifacts", "ok"))
    (tmp_path / "disk/mlartifacts/default").touch()
    assert "default is not a folder" in only(study, "artifacts", "fault").message


def test_the_code_that_runs_is_looked_at(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """A restart for the project's own code is said; another copy, or no `python` for DVC, is a fault."""
    assert only(study, "code", "ok").message.endswith("has no code of its own")
    (study.root / "pipeline").symlink_to(ROOT / "pipeline")
    assert only(study, "code", "ok").message == f"the code in {ROOT / 'pipeline'}"
    monkeypatch.setenv("CAVE_RESTARTED_IN", f"{study.root}{os.pathsep}/other/pipeline")
    assert "has /other/pipeline installed" in only(study, "code", "warning").message
    monkeypatch.delenv("CAVE_RESTARTED_IN")
    (study.root / "pipeline").unlink()
    (study.root / "pipeline").mkdir()
    (study.root / "pipeline" / "__init__.py").touch()
    assert "and not the code of" in only(study, "code", "fault").message
    monkeypatch.setenv("PATH", "")
    assert any("no `python` on PATH" in finding.message for finding in findings_of(study, "code", "fault"))


@pytest.mark.parametrize(("count", "message"), [(1, "1 run has rows"), (2, "2 runs have rows")])
def test_counts_are_singular_or_plural(study: Study, count: int, message: str) -> None:
    """One run has rows that wait, two have."""
    for number in range(count):
        (study.runs / str(number)).mkdir(parents=True)
        (study.runs / str(number) / "log.jsonl").touch()
    assert only(study, "unpublished", "warning").message.startswith(message)
