"""From its run id, a training is run again in the code of its commit: equal, or with what changed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.errors import InputError
from pipeline.files import read_json
from pipeline.params import Params, dump_yaml
from pipeline.reproduce import Comparison, _check_room, _temporary_folder, _worktree, reproduce
from pipeline.run_folders import provenance, source
from pipeline.tracking.tags import mlflow_name, read_tags
from tests import zygote
from tests.small import ROOT
from tests.workshop import QUICK, make_study, rows

SMALL = QUICK | {
    "data.cave.images": 100,
    "train.epochs": 2,
    "train.seeds": [0],
    "train.batch_size": 50,
    "variants": {"vae": {"model.depth": 1}},
    "sweep.trials": 2,
    "sweep.epochs": 2,
    "sweep.startup_trials": 1,
}
SECRET = "correct-horse"
VARIABLES = {
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "CAVE_WORKERS": "1",
    "CAVE_THREADS": "1",
    "CAVE_DATA_MIRROR": f"http://me:{SECRET}@127.0.0.1:9/",  # never asked: the data are rendered
    "CAVE_OPTUNA_URL": "",
    "MLFLOW_TRACKING_URI": "",
    "MLFLOW_TRACKING_PASSWORD": SECRET,
    "NO_COLOR": "1",
}
LINE = """
from pathlib import Path
from pipeline.stages import fetch, prepare, sweep, train
from pipeline.tracking.tags import mlflow_name, read_tags
from pipeline.study import Study
study = Study.at(Path.cwd())
fetch.run(study)
prepare.run(study)
sweep.run(study, "vae")
train.run(study, "vae")
"""
IDENTITY = ("-c", "user.name=t", "-c", "user.email=t@t")


def run(folder: Path, *words: str, code: int = 0, **variables: str) -> str:
    """Run a module in a folder, and return all that it prints."""
    own = VARIABLES | {"PYTHONPATH": str(folder)} | variables
    done = zygote.run(folder, *words, code=code, **own)
    return done.stderr + done.stdout


def git(folder: Path, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a repository whose stages have run up to the final model, with a change that is not committed."""
    folder = tmp_path_factory.mktemp("repository")
    make_study(folder)  # for its store
    shutil.copytree(ROOT / "pipeline", folder / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", ".gitignore", "pyproject.toml"):
        shutil.copy(ROOT / name, folder / name)
    (folder / "params.yaml").write_text(dump_yaml(Params.read(ROOT / "params.yaml", SMALL)))
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, *IDENTITY, "commit", "-qm", "all")
    # A change that moves every number: the commit alone would not lead to them.
    path = folder / "pipeline" / "training" / "loop.py"
    path.write_text(path.read_text().replace('f"epoch {state.epoch}"', 'f"another epoch {state.epoch}"'))
    assert git(folder, "status", "--porcelain").strip() == "M pipeline/training/loop.py"
    (folder / "line.py").write_text(LINE)
    (folder / "output.txt").write_text(run(folder, "line"))
    return folder


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return the folder that temporary ones are made in; whatever was made in it must be gone at the end."""
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    yield tmp_path
    assert list(tmp_path.glob("cave-reproduce-*")) == []


def final(folder: Path) -> str:
    return str(read_json(folder / "experiments/default/train/vae/seed-0/mlflow.json")["run"])


def searched(folder: Path) -> dict[str, str | dict[str, str]]:
    content = read_json(folder / "experiments/default/sweep/vae/mlflow.json")
    actual: dict[str, str | dict[str, str]] = content["searches"][0]
    return actual


def trial(folder: Path) -> str:
    trials = searched(folder)["trials"]
    assert isinstance(trials, dict)
    return trials["1"]


def worktrees(folder: Path) -> int:
    return git(folder, "worktree", "list").count("\n")


@pytest.fixture
def committed(tmp_path: Path) -> tuple[Path, str]:
    """Return a repository with a commit of two mebibytes that nothing makes smaller, and the commit."""
    folder = tmp_path / "committed"
    folder.mkdir()
    git(folder, "init", "-q")
    (folder / "bytes").write_bytes(os.urandom(2**21))
    git(folder, "add", "-A")
    git(folder, *IDENTITY, "commit", "-qm", "all")
    return folder, git(folder, "rev-parse", "HEAD").strip()


def test_a_full_disk_is_told_before_git_fails_of_it(
    committed: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the code does not fit, the line names the folder, what is free and what is needed, and what to do."""
    _check_room(*committed, tmp_path)
    usage = shutil.disk_usage(tmp_path)._replace(free=2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(InputError) as caught:
        _check_room(*committed, tmp_path)
    room = "1.0 MiB free, 3.0 MiB needed; make room, or set TMPDIR to a folder on another disk"
    assert str(caught.value) == f"{tmp_path}: the disk is full: {room}"


def test_git_gives_its_own_reason(committed: tuple[Path, str], tmp_path: Path) -> None:
    """Where git makes no worktree, the line ends with what git says."""
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "in the way").touch()
    with pytest.raises(InputError, match=r"git cannot make a worktree of commit .* in .*: fatal: .* already exists"):
        _worktree(*committed, tmp_path, False).__enter__()


@pytest.mark.parametrize("fault", ["unusable", "none"])
def test_without_a_temporary_folder_the_line_says_so(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that cannot be used is named; where Python finds none, the line names those that it tried."""
    if fault == "unusable":
        (tmp_path / "file").touch()
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "file"))
    else:
        monkeypatch.setattr(tempfile, "tempdir", None)
        monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(tmp_path / "gone")])
    with pytest.raises(
        InputError, match=r"no temporary folder can be made: .*/(file|gone).*; make room, or set TMPDIR"
    ):
        _temporary_folder(False).__enter__()


@pytest.mark.parametrize(("file", "module"), [("spec.json", "pipeline.retrain"), ("settings.json", "pipeline.work")])
def test_a_run_is_trained_by_the_program_of_its_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, module: str
) -> None:
    """A run of a commit that has no `pipeline.retrain` is given to the program that it has, with the file it reads."""
    from mlflow import MlflowClient

    root, started = make_study(tmp_path / "root").root, list[list[str]]()
    path = root / f"{module.replace('.', '/')}.py"
    path.parent.mkdir()
    path.touch()
    git(root, "init", "-q")
    git(root, "add", "pipeline", "params.yaml")
    git(root, *IDENTITY, "commit", "-qm", "all")
    client = MlflowClient(f"sqlite:///{root / 'mlflow.db'}")
    experiment = client.create_experiment("e", (root / "mlartifacts").as_uri())
    tags = {"stage": "train", "git_commit": git(root, "rev-parse", "HEAD").strip(), "patch": "none"}
    tags |= {"variant": "vae", "study": "s", "seed": "0"}
    run_id = client.create_run(experiment, tags=tags).info.run_id
    client.log_metric(run_id, "train/elbo", 1.0, step=1)
    provenance_folder = root / "mlartifacts" / run_id / "artifacts" / "provenance"
    provenance_folder.mkdir(parents=True)
    (provenance_folder / file).write_text('{"format": 1, "out": "."}')

    def train(commands: list[list[str]], *_: object, **__: object) -> None:
        started.append(commands[0])
        record = {"epoch": 1, "metrics": {"train/elbo": 1.0}}
        result = {"format": 1, "records": [record], "best": 1, "weights": None, "made": {}}
        Path(commands[0][2]).mkdir()
        (Path(commands[0][2]) / "result.json").write_text(json.dumps(result))

    monkeypatch.setattr("pipeline.processes.run", train)
    assert reproduce(root, run_id).equal
    assert started[0][0] == module
    assert Path(started[0][1]).name == file


@pytest.fixture
def tagged(repository: Path) -> Iterator[Path]:
    """Return the repository, whose run's tags, files and study's data may be changed: they are put back."""
    folder_path = {path: path.read_bytes() for path in repository.glob("mlartifacts/**/provenance/*")}
    before = rows(repository / "mlflow.db", "select key, value, run_uuid from tags")
    yield repository
    with sqlite3.connect(repository / "mlflow.db") as connection:
        connection.executemany("update tags set value = ?2 where key = ?1 and run_uuid = ?3", before)
    connection.close()
    for path, content in folder_path.items():
        path.write_bytes(content)


def tag(folder: Path, run_id: str, key: str, value: str) -> None:
    with sqlite3.connect(folder / "mlflow.db") as connection:
        assert connection.execute(
            "update tags set value = ? where key = ? and run_uuid = ?", (value, mlflow_name(key), run_id)
        ).rowcount
    connection.close()


@pytest.mark.slow
def test_every_run_tells_where_it_comes_from(repository: Path) -> None:
    """Each run has its code, versions, processor, device and threads as tags, and its provenance as files."""
    expected = {"git_commit", "git_dirty", "code_digest", "patch", "data_digest", "params_digest", "seed"}
    expected |= {f"version/{name}" for name in ("python", "torch", "numpy", "mlflow", "optuna")}
    expected |= {"platform", "cpu", "device", "threads"}
    files = {
        "sweep": {"spec.json", "changes.patch", "params.yaml", "dvc.yaml"},
        "train": {"spec.json", "changes.patch", "params.yaml", "dvc.yaml"},
        "trial": {"spec.json", "changes.patch"},
    }
    for run_id, stage, uri in rows(
        repository / "mlflow.db",
        "select run_uuid, value, artifact_uri from runs join tags using (run_uuid) where key = 'stage'",
    ):
        tags = read_tags(dict(rows(repository / "mlflow.db", "select key, value from tags where run_uuid = ?", run_id)))
        assert expected <= set(tags)
        assert (tags["git_dirty"], tags["patch"]) == ("true", "whole")
        assert tags["threads"] == "1" or stage == "sweep"  # whose parent trains nothing
        assert tags["git_commit"] == git(repository, "rev-parse", "HEAD").strip()
        folder = Path(uri.removeprefix("file://")) / "provenance"
        assert {path.name for path in folder.iterdir()} == files[stage]
        assert "another epoch" in (folder / "changes.patch").read_text()
        assert f"cave reproduce {run_id}" in tags["mlflow.note.content"] or stage == "sweep"


@pytest.mark.slow
def test_the_final_model_comes_out_equal_bit_for_bit(repository: Path, scratch: Path) -> None:
    """`cave reproduce` of a final run, patch and all, ends with 0; nothing is left of it and no store has changed."""
    before = {path: path.read_bytes() for path in (repository / "experiments").rglob("*") if path.is_file()}
    stores = [
        rows(repository / "mlflow.db", "select * from metrics"),
        rows(repository / "mlflow.db", "select * from tags"),
    ]
    output = run(repository, "pipeline", "reproduce", final(repository))
    assert "equal bit for bit: all 12 metrics of all 2 epochs, and the weights (sha256 " in output
    assert "and its uncommitted changes" in output
    assert "changed since" not in output
    assert worktrees(repository) == 1
    assert {path: path.read_bytes() for path in (repository / "experiments").rglob("*") if path.is_file()} == before
    assert [rows(repository / "mlflow.db", f"select * from {table}") for table in ("metrics", "tags")] == stores


@pytest.mark.nightly
def test_a_trial_comes_out_equal_though_its_data_are_gone(
    repository: Path, scratch: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A trial, which leaves no weights to compare, is run again on data that are prepared anew to the same digest."""
    data = repository / "experiments" / "default" / "data"
    data.rename(scratch / "data")
    try:
        actual = reproduce(repository, trial(repository))
    finally:
        (scratch / "data").rename(data)
    assert actual.equal
    assert actual.weights is None
    assert set(actual.now) == {1, 2}
    assert "changed since" not in capfd.readouterr().out
    assert worktrees(repository) == 1


@pytest.mark.nightly
def test_a_pruned_trial_is_run_as_far_as_it_came(tagged: Path, scratch: Path) -> None:
    """Of a trial that was pruned after an epoch, that epoch is run again and is equal."""
    run_id = trial(tagged)
    tag(tagged, run_id, "state", "pruned")
    with sqlite3.connect(tagged / "mlflow.db") as connection:
        later = connection.execute("select * from metrics where run_uuid = ? and step = 2", (run_id,)).fetchall()
        connection.execute("delete from metrics where run_uuid = ? and step = 2", (run_id,))
    connection.close()
    actual = reproduce(tagged, run_id)
    with sqlite3.connect(tagged / "mlflow.db") as connection:
        connection.executemany(f"insert into metrics values ({','.join('?' * len(later[0]))})", later)
    connection.close()
    assert actual.equal
    assert set(actual.now) == {1}


@pytest.mark.slow
def test_what_changed_is_told(
    tagged: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Data that are no longer there are prepared anew; versions and data unlike those of then are named."""
    run_id = final(tagged)
    tag(tagged, run_id, "version/torch", "2.0.0")
    tag(tagged, run_id, "data_digest", "0" * 32)
    (settings,) = [p for p in tagged.glob("mlartifacts/**/spec.json") if run_id in str(p)]
    settings.write_text(json.dumps(read_json(settings) | {"data_digest": "0" * 32}))
    actual = reproduce(tagged, run_id)
    assert actual.equal
    output = capfd.readouterr().out
    assert "changed since: torch: 2.0.0 then, 2." in output
    assert f"changed since: data: {'0' * 32} then, " in output
    assert "equal bit for bit" in output


@pytest.mark.slow
def test_without_its_patch_a_run_comes_out_otherwise(
    tagged: Path, scratch: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Where numbers differ, the largest difference and what changed are printed, and the exit code is 1."""
    tag(tagged, final(tagged), "patch", "none")
    output = run(tagged, "pipeline", "reproduce", final(tagged), code=1)
    assert "not equal: the largest difference is " in output
    assert "the weights differ (sha256 " in output
    assert "changed since: code: " in output
    assert worktrees(tagged) == 1


@pytest.mark.slow
def test_what_cannot_be_run_again_gets_one_line(tagged: Path, scratch: Path) -> None:
    """An unknown run, a sweep, a cut patch, a foreign commit, a patch that does not fit: an `InputError` says so."""
    run_id, sweep = final(tagged), str(searched(tagged)["run"])
    for name, output in (
        ("0" * 32, f"run {'0' * 32}: not in MLflow at sqlite:///{tagged}/mlflow.db"),
        ("no such/run", "run no such/run: not in MLflow"),
        (sweep, f"run {sweep} is a sweep; give the run of one of its trials or of a final model"),
    ):
        with pytest.raises(InputError) as caught:
            reproduce(tagged, name)
        assert output.replace(f"run {sweep} is", f"run {sweep}: is") in str(caught.value)
    (patch,) = [path for path in tagged.glob("mlartifacts/**/changes.patch") if run_id in str(path)]
    patch.write_text(patch.read_text().replace("-        with seeded", "-        with something else"))
    with pytest.raises(InputError, match="its uncommitted changes do not fit commit"):
        reproduce(tagged, run_id)
    commit = git(tagged, "rev-parse", "HEAD").strip()
    for key, value, reason in (
        ("git_commit", "f" * 40, "commit ffffffffffff of that run is not in the repository at"),
        ("git_commit", "none", "was not made in a git repository"),
        ("git_commit", "--upload-pack=x", "was not made in a git repository"),
        ("patch", "cut", "its uncommitted changes were more than 1 MiB and were cut, so that its code is not known"),
        ("patch", "withheld", "its uncommitted changes hold a password and were not kept"),
    ):
        tag(tagged, run_id, key, value)
        with pytest.raises(InputError) as caught:
            reproduce(tagged, run_id)
        assert reason in str(caught.value)
        tag(tagged, run_id, "git_commit", commit)
    assert worktrees(tagged) == 1


@pytest.mark.slow
def test_on_the_command_line_bad_input_ends_with_2(repository: Path) -> None:
    """A run that does not exist gets one line, with exit code 2."""
    output = run(repository, "pipeline", "reproduce", "0" * 32, code=2)
    assert output.startswith(f"error: run {'0' * 32}: not in MLflow")
    assert output.count("\n") == 1


@pytest.mark.slow
def test_ctrl_c_leaves_nothing_behind(repository: Path, scratch: Path) -> None:
    """Stopped as soon as its worktree is there, `cave reproduce` removes it and ends with 130."""
    variables = {"PYTHONPATH": str(repository), "TMPDIR": str(scratch)}
    process = zygote.Program(repository, "pipeline", "reproduce", final(repository), **variables)
    while worktrees(repository) == 1 and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    assert worktrees(repository) == 1


@pytest.mark.slow
def test_a_worktree_is_kept_if_wanted(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """With `--keep`, the run's code stays in the folder that is printed, until it is removed by hand."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr("pipeline.processes.run", lambda *_, **__: None)
    with pytest.raises(InputError):  # nothing was trained
        reproduce(repository, final(repository), keep=True)
    (tree,) = tmp_path.glob("cave-reproduce-*/tree")
    assert "removes it" in capfd.readouterr().out
    assert "another epoch" in (tree / "pipeline" / "training" / "loop.py").read_text()
    git(repository, "worktree", "remove", "--force", str(tree))


@pytest.mark.slow
def test_no_file_holds_a_password(repository: Path, tmp_path: Path) -> None:
    """Passwords in the addresses of stores and in variables stand in no file, no database and no line."""
    folder = tmp_path / "copy"
    shutil.copytree(repository, folder, symlinks=True)
    optuna = f"postgresql://me:{SECRET}@127.0.0.1:9/db"
    mlflow = f"sqlite:///file:{folder / 'mlflow.db'}?uri=true&password={SECRET}"
    output = run(folder, "pipeline.stages", "sweep", "vae", CAVE_OPTUNA_URL=optuna, code=2)
    moved, error = (line for line in output.splitlines() if line.startswith(("mlflow.db", "error")))
    assert moved == f"mlflow.db was made in {repository}; its artifact addresses now point to {folder}"
    assert error.startswith("error: Optuna at postgresql://127.0.0.1:9/db cannot be used: ")
    before = final(folder)
    output += run(folder, "pipeline.stages", "train", "vae", MLFLOW_TRACKING_URI=mlflow)
    assert final(folder) != before  # the address with the password in it was used
    output += run(folder, "pipeline", "reproduce", final(folder), MLFLOW_TRACKING_URI=mlflow)
    assert "equal bit for bit" in output
    assert SECRET not in output
    files = [path for parent in (repository, tmp_path) for path in parent.rglob("*") if path.is_file()]
    assert [path for path in files if SECRET.encode() in path.read_bytes()] == []


def make_repository(folder: Path) -> Path:
    folder.mkdir()
    git(folder, "init", "-q")
    (folder / ".gitignore").write_text("*.env\n")
    (folder / "code.py").write_text("x = 1\n")
    (folder / "one.env").write_text("a\n")
    (folder / "pipeline").symlink_to(source.PACKAGE)  # the code that runs, which is the repository's own
    git(folder, "add", "-f", ".")
    git(folder, *IDENTITY, "commit", "-qm", "all")
    provenance.code.cache_clear()
    return folder


def test_a_patch_holds_tracked_files_alone(tmp_path: Path) -> None:
    """What git tracks is in the patch, binary and new files too; untracked files and those it ignores are not."""
    folder = make_repository(tmp_path / "r")
    assert (provenance.code(folder).state, provenance.code(folder).dirty) == ("none", "false")
    git(folder, "config", "diff.noprefix", "true")  # would make a patch that does not apply
    (folder / "code.py").write_bytes(b"x = 2\r\n\xff")
    (folder / "new.bin").write_bytes(bytes(range(256)))
    git(folder, "add", "new.bin")
    (folder / "one.env").write_text("changed\n")
    (folder / "two.env").write_text("ignored\n")
    (folder / "three.txt").write_text("untracked\n")
    provenance.code.cache_clear()
    actual = provenance.code(folder)
    assert (actual.state, actual.dirty) == ("whole", "true")
    other = make_repository(tmp_path / "other")
    (tmp_path / "patch").write_bytes(actual.patch)
    git(other, "apply", "--binary", str(tmp_path / "patch"))
    assert (other / "code.py").read_bytes() == b"x = 2\r\n\xff"
    assert (other / "new.bin").read_bytes() == bytes(range(256))
    assert (other / "one.env").read_text() == "a\n"
    assert sorted(path.name for path in other.iterdir() if path.name != ".git") == [
        ".gitignore",
        "code.py",
        "new.bin",
        "one.env",
        "pipeline",
    ]


def test_a_patch_is_capped_and_holds_no_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than the cap is cut and called so; a patch with a password of the environment is not kept at all."""
    folder = make_repository(tmp_path / "r")
    (folder / "code.py").write_text("x = 2\n" * 300_000)
    provenance.code.cache_clear()
    actual = provenance.code(folder)
    assert (actual.state, len(actual.patch)) == ("cut", provenance.CAP)
    (folder / "code.py").write_text(f"password = '{SECRET}'\n")
    monkeypatch.setenv("CAVE_OPTUNA_URL", f"postgresql://me:{SECRET}@host/db")
    provenance.code.cache_clear()
    assert (provenance.code(folder).state, provenance.code(folder).patch) == ("withheld", b"")


def test_where_there_is_no_repository_nothing_is_known(tmp_path: Path) -> None:
    """Outside git, commit and dirty flag say so, and there is no patch."""
    provenance.code.cache_clear()
    actual = provenance.code(tmp_path)
    assert (actual.commit, actual.dirty, actual.state, actual.patch) == ("none", "unknown", "none", b"")


def test_an_empty_place_has_no_runs(tmp_path: Path) -> None:
    """Where nothing was run, a run id is unknown and no database is created."""
    (tmp_path / "params.yaml").write_text(dump_yaml(Params.read(ROOT / "params.yaml", SMALL)))
    with pytest.raises(InputError, match="there are no runs yet"):
        reproduce(tmp_path, "0" * 32)
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]


def comparison(**changes: object) -> Comparison:
    epochs = {1: {"valid/elbo": -3.0, "valid/kl": 1.0}, 2: {"valid/elbo": -2.0, "valid/kl": 1.5}}
    values = {"epoch": 2, "then": epochs, "now": epochs, "weights": ("a", "a"), "changed": {}, "continued": {}}
    return Comparison(**(values | changes))  # type: ignore[arg-type]


def test_the_largest_difference_is_found_in_any_epoch() -> None:
    """The verdict names the metric and epoch of the largest difference, though the table shows another epoch."""
    now = {1: {"valid/elbo": -3.0, "valid/kl": 1.25}, 2: {"valid/elbo": -2.0, "valid/kl": 1.5}}
    actual = comparison(now=now)
    assert not actual.equal
    assert "not equal: the largest difference is 2.5e-01, in valid/kl at epoch 1" in actual.text()
    assert "code, data, params, versions, processor, device and threads are what they were" in actual.text()


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"weights": ("a", "b")}, "not equal: the weights differ (sha256 a then, b now)"),
        ({"now": {1: {"valid/elbo": -3.0, "valid/kl": 1.0}}}, "not equal: 2 epochs then, 1 now"),
        ({"now": {1: {"valid/elbo": -3.0}, 2: {"valid/elbo": -2.0}}}, "not equal: the metrics are not the same"),
        ({"continued": {"threads": "4"}}, "the run was stopped and went on with another threads: 4"),
        ({"changed": {"threads": ("2", "1")}}, "changed since: threads: 2 then, 1 now"),
        ({"weights": None}, "equal bit for bit: all 2 metrics of all 2 epochs are the same"),
    ],
)
def test_each_difference_is_printed(changes: dict[str, object], line: str) -> None:
    """Weights, epochs and metrics that differ are each named; so is what changed, before or in the middle."""
    assert line in comparison(**changes).text()
