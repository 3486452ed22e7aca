"""MLflow may be gone, slow, or lose its answers: what is logged is there in the end, once."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import pipeline.sweep.worker
from pipeline.environment import Resources
from pipeline.errors import InputError
from pipeline.files import read_json
from pipeline.jobs import train_seed
from pipeline.log import LOG, STATE, Log, Record
from pipeline.run_folders import Header, RunFolder, RunSpec
from pipeline.stages import evaluate, fetch, prepare, train
from pipeline.study import Study
from pipeline.sweep import Sweep, run
from pipeline.tracking import Run, Tracker
from pipeline.tracking.lookup import create_run
from pipeline.tracking.tags import mlflow_name
from pipeline.training import fit
from tests.small import splits
from tests.tracking_server import Proxy, Server, free_port
from tests.workshop import make_study, rows, trial_of
from tests.zygote import Program
from tests.zygote import run as run_program

pytestmark = pytest.mark.slow

RECORDS = [
    Record(epoch, epoch * 4, 0.1 * epoch, 1_700_000_000_000 + epoch, {"train/elbo": -2.0, "valid/elbo": -1.5 * epoch})
    for epoch in range(1, 41)
]
VOLATILE = ("mlflow.note.content", "mlflow.parentRunId", *map(mlflow_name, ("folder", "key", "best", "weights_digest")))
GONE = "cannot be reached (Connection refused); what is logged waits in .cache/runs\n"


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """Return a small study with its data prepared."""
    monkeypatch.setenv("CAVE_THREADS", "1")
    monkeypatch.setenv("CAVE_WORKERS", "1")
    (tmp_path / "pyproject.toml").touch()
    made = make_study(tmp_path, **{"train.seeds": [0], "sweep.trials": 4, "sweep.epochs": 3})
    fetch.run(made)
    prepare.run(made)
    return made


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Return a server that runs."""
    made = Server(tmp_path_factory.mktemp("server"))
    made.start()
    yield made
    made.stop()


@pytest.fixture
def proxy(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """Return the way to the server, which every run of the test takes."""
    made = Proxy(server.port)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", made.address)
    yield made
    made.close()


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Send at every occasion, and again right after a failure."""
    for name in ("BACK_OFF", "LONGEST", "FACTOR", "PAUSE"):
        monkeypatch.setattr(f"pipeline.tracking.server.{name}", 0.0)


def start(study: Study, key: str = "a", *, stage: str = "trial") -> Run:
    spec = RunSpec(stage=stage, variant="mhvae", seed=0, params=study.params, rng_seed=0)
    return Tracker(study).start(spec, key=key, name=key, splits=splits(), about="a run")


def log(run: Run, records: Sequence[Record]) -> None:
    """Log epochs, as training does."""
    for record in records:
        run.folder.log.append(record.entry)
        run.publish()


def cave(study: Study, *words: str, **variables: str) -> Program:
    return run_program(study.folder, *words, code=None, NO_COLOR="1", **variables)


def waiting(study: Study) -> list[Path]:
    return [path.parent for path in study.runs.glob(f"*/{LOG}")]


def contents(database: Path, name: str) -> dict[str, Any]:
    """Return all that a database knows of a study's runs, by their names, but for times and what is random."""
    actual: dict[str, Any] = {}
    query = "select r.run_uuid, r.name, r.status from runs r join experiments e using (experiment_id)"
    for run_id, label, status in rows(
        database, f"{query} where r.lifecycle_stage = 'active' and e.name = ?", f"platos-cave/{name}"
    ):
        assert label not in actual
        query = "select key, step, value from metrics where run_uuid = ? and key not like 'training/%' order by 1, 2"
        metrics = rows(database, query, run_id)
        tags = dict(rows(database, "select key, value from tags where run_uuid = ?", run_id))
        note = tags["mlflow.note.content"].replace(run_id, "RUN").split("Optuna study")[0]
        parent = rows(database, "select name from runs where run_uuid = ?", tags.get("mlflow.parentRunId", ""))
        params = rows(database, "select key, value from params where run_uuid = ? order by key", run_id)
        inputs = rows(database, "select count(*) from inputs where destination_id = ?", run_id)
        stored = {key: value for key, value in tags.items() if key not in VOLATILE}
        actual[label] = [status, metrics, stored, note, parent, params, inputs]
        if label.startswith("mhvae trial"):
            times = rows(database, "select count(distinct timestamp) from metrics where run_uuid = ?", run_id)
            actual[label].append(times)
    return actual


def files(folder: Path, runs: int) -> set[str]:
    """Return the artifacts of that many runs, without the folders that are named after them."""
    ids = {path.parents[1].name for path in folder.rglob("spec.json")}
    assert len({path.parents[2].name for path in folder.rglob("spec.json")}) == runs, ids
    return {path.relative_to(folder).as_posix().split("/artifacts/")[1] for path in folder.rglob("*") if path.is_file()}


def undisturbed(study: Study, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return what the same sweep logs to a database that is always there."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    other = make_study(folder / study.out.name / "plain", **{"train.seeds": [0], "sweep.trials": 4, "sweep.epochs": 3})
    shutil.copytree(study.out, other.out)
    run(Sweep(other, "mhvae", resources=Resources.read()), 1)
    return contents(other.shared_root / "mlflow.db", other.name)


def at(number: int, epoch: int, action: Any) -> Any:
    """Return a `fit` that acts after an epoch of a trial."""

    def acting(*args: Any, **kwargs: Any) -> Iterator[Record]:
        for record in fit(*args, **kwargs):
            if (trial_of(kwargs["folder"]), record.epoch) == (number, epoch):
                action()
            yield record

    return acting


def test_a_line_that_a_crash_has_torn_is_no_line(tmp_path: Path) -> None:
    """Lines up to the torn one are read, and what is added later follows them."""
    first, second, third = ({"type": "tags", "tags": {name: "1"}} for name in "abc")
    folder = RunFolder.open(tmp_path / "a")
    folder.log.append(first, second)
    folder.release()
    path = tmp_path / "a" / LOG
    path.write_bytes(path.read_bytes()[:-5])
    assert Log(tmp_path / "a").read() == [first]
    again = RunFolder.open(tmp_path / "a")
    again.log.append(third)
    again.release()
    assert Log(tmp_path / "a").read() == [first, third]


def test_lines_that_did_not_reach_the_disk_are_not_in_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the disk refuses to keep lines, none of them is there, and the next ones follow the last that is."""
    first, second, third = ({"type": "tags", "tags": {name: "1"}} for name in "abc")
    made = Log(tmp_path)
    made.append(first)

    def refuse(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", refuse)
        with pytest.raises(InputError, match="cannot be written: Input/output error"):
            made.append(second, sync=True)
    made.append(third)
    assert made.read() == Log(tmp_path).read() == [first, third]


def test_a_folder_has_one_holder(tmp_path: Path) -> None:
    """Who holds it keeps others out until it is released, also where it was removed and made again."""
    first = RunFolder.open(tmp_path / "a")
    with pytest.raises(BlockingIOError):
        RunFolder.open(tmp_path / "a")
    first.remove()
    second = RunFolder.open(tmp_path / "a")
    with pytest.raises(BlockingIOError):
        RunFolder.open(tmp_path / "a")
    second.release()
    RunFolder.open(tmp_path / "a").release()


def test_no_state_outlives_what_work_needs_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever a folder's removal is killed, a state that is left has its log and the weights of all milestones."""
    names = [STATE, "epoch-1.safetensors", "epoch-2.safetensors"]
    unlink = Path.unlink
    for number, removal in itertools.product(range(4), (RunFolder.remove, RunFolder.discard_state)):
        folder = RunFolder.open(tmp_path / f"{removal.__name__}-{number}")
        folder.log.append({"type": "tags", "tags": {}}, {"type": "published", "time": 0})
        for name in names:
            (folder.path / name).touch()
        remaining = iter(range(number))

        def killed(path: Path, missing_ok: bool = False, remaining: Iterator[int] = remaining) -> None:
            if next(remaining, None) is None:
                raise KeyboardInterrupt
            unlink(path, missing_ok)

        with monkeypatch.context() as patched, suppress(KeyboardInterrupt):
            patched.setattr(Path, "unlink", killed)
            removal(folder)
        folder.release()
        assert not folder.has_state or all((folder.path / name).exists() for name in [LOG, *names])


def test_work_goes_on_while_mlflow_is_gone(
    study: Study, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Runs start, log and end; one line says that MLflow is away, and no password is anywhere."""
    port = free_port()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:correct-horse@127.0.0.1:{port}")
    for key in ("a", "b"):
        made = start(study, key)
        log(made, RECORDS)
        made.set_tags({"address": "http://me:correct-horse@127.0.0.1"})
        made.finish()
        assert made.run_id is None
    assert len(waiting(study)) == 2
    captured = capfd.readouterr()
    assert captured.err == f"MLflow at http://127.0.0.1:{port} {GONE}"
    for path in study.runs.rglob("*"):
        assert path.is_dir() or b"correct-horse" not in path.read_bytes()


def test_a_stage_does_not_start_without_mlflow(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """An address that refuses is one line and exit code 2, of every stage and of `cave sync`, and nothing is begun."""
    port = free_port()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:correct-horse@127.0.0.1:{port}")
    said = f"MLflow at http://127.0.0.1:{port} cannot be used: Connection refused"
    for stage in (lambda: run(Sweep(study, "mhvae"), 1), lambda: train.run(study, "mhvae")):
        with pytest.raises(InputError, match=said):
            stage()
    with pytest.raises(InputError, match=said):
        evaluate.run(study, "mhvae")
    done = cave(study, "pipeline", "sync")
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"error: {said}\n")
    assert not (study.shared_root / "optuna.db").exists()
    assert waiting(study) == []


def test_a_training_that_the_disk_stops_has_not_failed(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its run is logged as stopped, and the same command goes on in it."""

    def full(*args: Any, **kwargs: Any) -> Iterator[Record]:
        yield from list(fit(*args, **kwargs))[:1]
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(train_seed, "fit", full)
        with pytest.raises(OSError, match="No space left"):
            train.run(study, "mhvae")
    query = "select run_uuid, status from runs where name = 'mhvae seed 0'"
    ((run_id, status),) = rows(study.shared_root / "mlflow.db", query)
    assert status == "KILLED"
    train.run(study, "mhvae")
    assert rows(study.shared_root / "mlflow.db", query) == [(run_id, "FINISHED")]


def refused(study: Study, *keys: str) -> list[Run]:
    """Return runs with a log that no MLflow takes: a metric's name that is none."""
    made = [start(study, key) for key in keys]
    for run_ in made:
        log(run_, [replace(RECORDS[0], metrics={"valid/elbo#": 1.0})])
    return made


@pytest.mark.parametrize(
    "where", ["a database", pytest.param("a server", marks=[pytest.mark.slow, pytest.mark.nightly])]
)
def test_what_mlflow_refuses_holds_up_nothing(
    study: Study, where: str, request: pytest.FixtureRequest, capfd: pytest.CaptureFixture[str]
) -> None:
    """A folder that is refused gets a line and is kept; those after it are sent, by `cave sync` and by a run's end.

    Whichever comes first: there are enough of both.
    """
    database = study.shared_root / "mlflow.db"
    if where == "a server":
        request.getfixturevalue("proxy")
        database = request.getfixturevalue("server").database
    study = replace(study, out=study.out.rename(study.out.with_name(f"refused-{where[2]}")))
    for made in refused(study, "a", "b", "c"):
        made.close()
    for key in ("d", "e", "f"):
        start(study, key).close()
    capfd.readouterr()
    tracker = Tracker(study)
    for number in (1, 2):
        result = tracker.backlog.publish_all()
        assert (result.done, result.remaining, result.refused, result.waiting) == (3 if number == 1 else 0, 3, 3, 0)
        lines = capfd.readouterr().err.splitlines()
        assert len(lines) == (3 if number == 1 else 0)  # once a process
        for line in lines:
            assert line.startswith(f"MLflow at {tracker.server.address} refuses what run ")
            assert "valid/elbo#" in line
            assert "`cave sync` tries again" in line
    assert tracker.server.reachable
    assert len(waiting(study)) == 3
    query = "select count(*) from runs r join experiments e using (experiment_id) where e.name = ?"
    assert rows(database, query, f"platos-cave/{study.name}") == [(6,)]
    done = cave(study, "pipeline", "sync")
    assert (done.returncode, done.stdout) == (1, f"sent to MLflow at {tracker.server.address}: 0; left: 3\n")
    assert done.stderr.count("refuses what run") == 3
    assert "Traceback" not in done.stderr


def test_a_living_run_that_is_refused_ends_well(study: Study, capfd: pytest.CaptureFixture[str]) -> None:
    """Its work goes on, MLflow is not said to be gone, the line comes at its end, and the next run sends what waits."""
    (made,) = refused(study, "a")
    start(study, "b").close()
    log(made, RECORDS)
    made.finish()
    (line,) = capfd.readouterr().err.splitlines()
    assert "refuses what run a has logged" in line
    after = start(study, "c")
    after.tracker.backlog.behind = True
    after.finish()
    assert not after.tracker.backlog.behind
    assert len(waiting(study)) == 1
    assert capfd.readouterr().err.count("refuses what run a ") == 1


def test_a_file_that_is_gone_holds_up_nothing(study: Study, capfd: pytest.CaptureFixture[str]) -> None:
    """A folder whose copy of a file was removed is passed over like one that MLflow refuses."""
    for key in ("a", "b", "c"):
        made = start(study, key)
        made.log_result("files", "1", {}, {"other": [study.folder / "params.yaml"]})
        made.close()
    (waiting(study)[0] / "files" / "other" / "params.yaml").unlink()
    result = Tracker(study).backlog.publish_all()
    assert (result.done, result.refused) == (2, 1)
    assert "refuses what run" in capfd.readouterr().err


def test_what_is_meant_for_another_server_is_left_alone(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """`cave sync` sends nothing to an address that it was not logged for; it says so and ends with 1."""
    port = free_port()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    start(study).finish()
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    done = cave(study, "pipeline", "sync")
    assert done.returncode == 1
    assert f"1 meant for MLflow at http://127.0.0.1:{port}: set MLFLOW_TRACKING_URI to it\n" in done.stdout
    assert rows(study.shared_root / "mlflow.db", "select count(*) from runs") == [(0,)]
    assert len(waiting(study)) == 1


def test_what_an_earlier_version_left_is_named(study: Study) -> None:
    """`cave sync` cannot publish what an earlier version kept for MLflow: it says so in a line, and ends with 1."""
    (study.cache / "outbox" / "0123abcd").mkdir(parents=True)
    (study.cache / "outbox" / "0123abcd" / "ops.jsonl").touch()
    done = cave(study, "pipeline", "sync")
    assert done.returncode == 1
    assert "1 run of an earlier version: run `cave sync` by it, or give up .cache/outbox\n" in done.stdout


def test_work_that_runs_is_not_disturbed_and_work_that_was_killed_is_ended(study: Study) -> None:
    """What has a living owner is left to it; a run whose owner has died ends as killed, once it is published."""
    alive, dead = start(study, "a"), start(study, "b", stage="train")
    log(alive, RECORDS)
    log(dead, RECORDS)
    dead.close()
    last = dead.folder.last_time
    time.sleep(0.01)
    result = Tracker(study).backlog.publish_all()
    assert rows(study.shared_root / "mlflow.db", "select end_time from runs where name = 'b'") == [(last,)]
    assert (result.done, result.remaining, result.busy) == (1, 0, 1)
    assert rows(study.shared_root / "mlflow.db", "select name, status from runs where status != 'RUNNING'") == [
        ("b", "KILLED")
    ]
    again = start(study, "b")
    log(again, RECORDS)
    for made in (alive, again):
        made.finish()
    assert set(rows(study.shared_root / "mlflow.db", "select name, status from runs")) == {
        ("a", "FINISHED"),
        ("b", "FINISHED"),
    }
    assert rows(study.shared_root / "mlflow.db", "select count(*) from metrics") == [(2 * 80,)]


def test_a_folder_whose_work_went_on_elsewhere_adds_nothing(study: Study, tmp_path: Path) -> None:
    """Two hosts without a shared disk: what the first could not send is superseded by what the second has run again."""
    first = start(study)
    log(first, RECORDS[:3])
    first.close()
    study.cache.rename(tmp_path / "first host")
    second = start(study)
    log(second, [replace(record, timestamp=record.timestamp + 5) for record in RECORDS[:2]])
    second.publish(forced=True)
    second.close()
    study.cache.rename(tmp_path / "second host")
    (tmp_path / "first host").rename(study.cache)
    assert Tracker(study).backlog.publish_all().done == 1
    assert rows(study.shared_root / "mlflow.db", "select count(*) from metrics") == [(4,)]
    assert rows(study.shared_root / "mlflow.db", "select status from runs") == [("RUNNING",)]


def test_a_finished_run_that_waits_is_not_taken_by_new_work(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work that is done again while its finished run waits for MLflow gets a run of its own; both arrive."""
    uri = f"sqlite:///{study.shared_root / 'mlflow.db'}"
    with monkeypatch.context() as gone:
        (study.shared_root / "mlflow.db").rename(study.shared_root / "away")
        gone.setenv("MLFLOW_TRACKING_URI", uri)
        (study.shared_root / "mlflow.db").mkdir()
        for _ in range(2):
            made = start(study, stage="train")
            log(made, RECORDS)
            made.finish()
        (study.shared_root / "mlflow.db").rmdir()
        (study.shared_root / "away").rename(study.shared_root / "mlflow.db")
    assert len(waiting(study)) == 2
    assert Tracker(study).backlog.publish_all().done == 2
    assert rows(study.shared_root / "mlflow.db", "select status from runs") == [("FINISHED",)] * 2
    assert rows(study.shared_root / "mlflow.db", "select count(*) from metrics group by run_uuid") == [(80,)] * 2


@pytest.mark.nightly
@pytest.mark.parametrize(
    "back", [pytest.param(3, marks=pytest.mark.nightly), None], ids=["it comes back", "it stays away"]
)
def test_a_server_that_dies_in_a_sweep_has_all_of_it_in_the_end(
    study: Study,
    server: Server,
    proxy: Proxy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    back: int | None,
) -> None:
    """What arrives when it is back, or by `cave sync`, is what an undisturbed sweep has logged, row by row."""
    monkeypatch.setattr("pipeline.tracking.server.BACK_OFF", 0.0)
    monkeypatch.setenv("CAVE_THREADS", "1")  # which the runs have as a tag
    name = f"away-{back}"
    away = Study(study.params, study.folder, study.root, study.out.rename(study.out.with_name(name)), study.shared_root)
    dies = at(1, 2, server.stop)
    monkeypatch.setattr(pipeline.sweep.worker, "fit", dies)
    if back is not None:

        def both(*args: Any, **kwargs: Any) -> Iterator[Record]:
            return (at(back, 1, server.start) if trial_of(kwargs["folder"]) == back else dies)(*args, **kwargs)

        monkeypatch.setattr(pipeline.sweep.worker, "fit", both)
    run(Sweep(away, "mhvae", resources=Resources.read()), 1)
    captured = capfd.readouterr()
    assert captured.err.count("cannot be reached") == 1
    if back is None:
        assert f"{name}: 4 runs wait for MLflow; `cave sync` sends what is left\n" in captured.out
        assert len(waiting(away)) == 4
        (listed,) = read_json(away.sweep("mhvae") / "mlflow.json")["searches"]
        assert [listed["trials"][number] is None for number in ("0", "2", "3")] == [False, True, True]
        server.start()
        done = cave(away, "pipeline", "sync")
        assert done.returncode == 0, done.stderr
        assert f"sent to MLflow at {proxy.address}: 4; left: 0\n" in done.stdout
        assert cave(away, "pipeline", "sync").returncode == 0
    else:
        assert captured.err.count(f"MLflow at {proxy.address} is back\n") == 1
        (search,) = read_json(away.sweep("mhvae") / "mlflow.json")["searches"]
        assert None not in search["trials"].values()
    assert waiting(away) == []
    monkeypatch.setattr(pipeline.sweep.worker, "fit", fit)
    assert _same(contents(server.database, name), undisturbed(away, tmp_path, monkeypatch))


def _same(actual: dict[str, Any], expected: dict[str, Any]) -> bool:
    """Compare but for the name of the study."""
    assert set(actual) == set(expected)
    for label in expected:
        for mine, other in zip(actual[label], expected[label], strict=True):
            if isinstance(other, dict):
                mine, other = ({k: v for k, v in tags.items() if k != "study"} for tags in (mine, other))
            assert mine == other, label
    return True


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("killed", [False, True])
def test_of_a_run_that_was_made_twice_the_one_that_is_logged_to_stays(
    study: Study, monkeypatch: pytest.MonkeyPatch, killed: bool
) -> None:
    """Others may have its id by now: the trials of a sweep have that of the sweep's run; so after a kill, too."""

    def twice(server: Any, header: Header) -> Any:
        return max((create_run(server, header) for _ in range(2)), key=lambda run: str(run.info.run_id))

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.setattr("pipeline.tracking.publish.create_run", twice)
    made = start(study, "twice")
    first = made.run_id
    if killed:
        made.close()
        made = start(study, "twice")
    log(made, RECORDS)
    made.finish()
    assert made.run_id == first
    query = "select run_uuid, status from runs where lifecycle_stage = 'active'"
    assert rows(study.shared_root / "mlflow.db", query) == [(first, "FINISHED")]


@pytest.mark.usefixtures("eager")
def test_answers_that_are_lost_double_nothing(study: Study, server: Server, proxy: Proxy) -> None:
    """The server has done what it was asked for and could not say so, of every kind of request: it is there once."""
    proxy.cuts = [r"runs/create", r"log-batch", r"log-inputs", r"PUT \S*spec.json", r"runs/update", r"runs/search"]
    made = start(study, "lost", stage="train")
    for record in RECORDS:
        log(made, [record])
    made.finish()
    for _ in range(3):
        Tracker(study).backlog.publish_all()
    assert proxy.cuts == []
    assert waiting(study) == []
    query = "select run_uuid, status from runs where name = 'lost' and lifecycle_stage = 'active'"
    ((run_id, status),) = rows(server.database, query)
    assert status == "FINISHED"
    steps = rows(server.database, "select step from metrics where run_uuid = ? and key = 'valid/elbo'", run_id)
    assert sorted(steps) == [(record.epoch,) for record in RECORDS]
    assert rows(server.database, "select count(*) from inputs where destination_id = ?", run_id) == [(1,)]


def test_a_server_that_makes_a_run_twice_has_one_in_the_end(
    study: Study, server: Server, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where MLflow's client itself asks again after a lost answer, the second run that this makes is deleted."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "5")
    proxy.cuts = [r"runs/create"]
    made = start(study, "twice", stage="train")
    log(made, RECORDS)
    made.finish()
    Tracker(study).backlog.publish_all()  # what was left for later, the server having been slow to answer
    query = "select lifecycle_stage, status from runs where name = 'twice' order by 1"
    assert rows(server.database, query) == [("active", "FINISHED"), ("deleted", "RUNNING")]


@pytest.mark.nightly
def test_a_slow_server_is_asked_seldom(study: Study, proxy: Proxy) -> None:
    """Forty epochs that take no time are sent in a handful of requests, however long each of them takes."""
    made = start(study, "quick")
    for record in RECORDS:
        log(made, [record])
    made.finish()
    quick = len(proxy.requests)
    proxy.delay, proxy.requests = 0.3, []
    made = start(study, "slow")
    for record in RECORDS:
        log(made, [record])
    made.finish()
    assert max(quick, len(proxy.requests)) <= 12
    Tracker(study).require().backlog.publish_all()
    assert waiting(study) == []
