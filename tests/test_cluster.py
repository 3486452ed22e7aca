"""One sweep from several hosts: two clones with caches of their own, one PostgreSQL, one MLflow store or server."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import DisconnectedError, InputError
from pipeline.stages import fetch, prepare
from pipeline.study import Study
from pipeline.sweep import Sweep, run
from pipeline.sweep.coordinator import _held
from pipeline.sweep.database import Database
from pipeline.sweep.locks import SERVER, PostgresLocks, locks
from tests.postgres import PASSWORD, Postgres
from tests.small import ROOT
from tests.test_interrupts import until
from tests.tracking_server import Server
from tests.workshop import _migrated, check_sweep, make_study, rows
from tests.zygote import Program

pytestmark = pytest.mark.slow

VARIANT = "mhvae"
PATIENT = 180.0  # seconds for which a condition is waited for
EPOCHS = 30
LONG = {"sweep.epochs": EPOCHS}


class Host:
    """A clone of the project with caches of its own, and what is run on it."""

    def __init__(self, folder: Path, environment: dict[str, str], **overrides: Any) -> None:
        self.study = make_study(folder / "work", **overrides)
        shutil.copy(ROOT / "pyproject.toml", self.study.folder)
        self.environment = environment
        self.processes: list[Program] = []

    @property
    def output(self) -> str:
        """All that this host has printed."""
        return "".join(process.stdout + process.stderr for process in self.processes)

    def start(self, *words: str, **environment: str) -> Program:
        """Start a command in a process group of its own."""
        self.processes.append(Program(self.study.folder, *words, **self.environment | environment))
        return self.processes[-1]

    def worker(self, count: int = 1, **environment: str) -> Program:
        """Start `cave worker`."""
        return self.start("pipeline", "worker", "--variant", VARIANT, "--workers", str(count), **environment)

    def sweep(self, count: int = 1, **environment: str) -> Program:
        """Start the coordinator."""
        return self.start("pipeline.stages", "sweep", VARIANT, CAVE_WORKERS=str(count), **environment)

    def end(self, process: Program, code: int = 0) -> str:
        """Wait for a command's end, and return all that this host has printed."""
        assert process.wait(PATIENT) == code, self.output
        return self.output


class Cluster:
    """Hosts that share two stores and nothing else."""

    def __init__(self, folder: Path, url: str, server: Server | None = None) -> None:
        self.folder, self.url = folder, url
        self.hosts: list[Host] = []
        self.shared = folder / "shared"  # MLflow's database
        self.shared.mkdir()
        shutil.copy(_migrated(), self.shared / "mlflow.db")
        self.address = f"sqlite:///{self.shared / 'mlflow.db'}"
        if server is not None:
            self.shared, self.address = server.folder, f"http://127.0.0.1:{server.port}"

    def host(self, name: str, **overrides: Any) -> Host:
        """Make a host; a second one of a name shares its disk."""
        environment = {"CAVE_OPTUNA_URL": self.url, "MLFLOW_TRACKING_URI": self.address}
        made = Host(self.folder / name, environment, **overrides)
        self.hosts.append(made)
        return made

    def ask(self, query: str) -> list[tuple[Any, ...]]:
        """Ask Optuna's database."""
        return rows(self.url, query)

    def until(self, query: str, condition: Callable[[Any], bool] = bool) -> Any:
        """Wait until the first number that a query finds is as wanted."""
        deadline = time.monotonic() + PATIENT
        while time.monotonic() < deadline:
            if self.ask("select count(*) from pg_tables where tablename = 'trial_heartbeats'") != [(0,)]:
                answer = self.ask(query)
                if answer and condition(answer[0][0]):
                    return answer[0][0]
            time.sleep(0.05)
        raise AssertionError("\n".join([query, *(host.output for host in self.hosts)]))

    def check(self, trials: int = 4) -> None:
        """Hold the stores to all promises; the password is in nothing that any host has printed or logged."""
        seen = Study(
            self.hosts[0].study.params,
            self.hosts[0].study.folder,
            self.hosts[0].study.root,
            self.hosts[0].study.out,
            self.shared,
        )
        check_sweep(seen, VARIANT, trials, self.url)
        for host in self.hosts:
            assert PASSWORD not in (output := host.output)
            assert PASSWORD.replace("/", "%2F") not in output
            assert "Traceback" not in output
        store = (self.shared / "mlflow.db").read_bytes()
        assert PASSWORD.encode() not in store


REPORTS = "select count(*) from trial_intermediate_values"


@pytest.fixture
def cluster(tmp_path: Path, postgres: Postgres) -> Iterator[Cluster]:
    """Return a cluster on a fresh database; whatever still runs in the end is killed."""
    with _cluster(Cluster(tmp_path, postgres.fresh())) as made:
        yield made


@pytest.fixture
def served(tmp_path: Path, postgres: Postgres) -> Iterator[Cluster]:
    """Return a cluster whose hosts share a PostgreSQL and a real `mlflow server`."""
    (tmp_path / "server").mkdir()
    server = Server(tmp_path / "server")
    server.start()
    try:
        with _cluster(Cluster(tmp_path, postgres.fresh(), server)) as made:
            yield made
    finally:
        server.stop()


@contextmanager
def _cluster(made: Cluster) -> Iterator[Cluster]:
    yield made
    for process in (process for host in made.hosts for process in host.processes):
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture
def study(tmp_path: Path, postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> Study:
    """Return a small study with its data prepared, whose sweeps live in a fresh PostgreSQL database."""
    monkeypatch.setenv("CAVE_THREADS", "1")
    monkeypatch.setenv("CAVE_OPTUNA_URL", postgres.fresh())
    made = make_study(tmp_path)
    fetch.run(made)
    prepare.run(made)
    return made


@contextmanager
def holding(study: Study, name: str) -> Iterator[PostgresLocks]:
    """Hold a lock on a connection of its own."""
    made = locks(Database.of(study))
    assert isinstance(made, PostgresLocks)
    with made.hold(name):
        yield made


def test_a_sweep_runs_on_postgresql(study: Study) -> None:
    """By a plain `postgresql://` address the sweep keeps its promises, as on SQLite, and leaves no lock."""
    url = os.environ["CAVE_OPTUNA_URL"]
    best = run(Sweep(study, VARIANT), 1)
    check_sweep(study, VARIANT, 4, url)
    assert run(Sweep(study, VARIANT), 1) == best


def test_advisory_locks_are_locks(study: Study) -> None:
    """What one connection holds another cannot have and sees as living, until the first is gone."""
    store = Database.of(study)
    with holding(study, "mine"):
        other = locks(store)
        with pytest.raises(BlockingIOError), other.hold("mine", wait=False):
            pass
        assert other.held(["mine", "yours"]) == {"mine"}
    assert other.held(["mine", "yours"]) == set()
    with other.hold("mine", wait=False):
        assert other.held(["mine"]) == {"mine"}


def test_a_lost_connection_is_noticed(study: Study, postgres: Postgres) -> None:
    """A holder whose connection the server ends learns it at its next check, and its lock is free."""
    with holding(study, "mine") as held:
        held.check()
        database = os.environ["CAVE_OPTUNA_URL"].rpartition("/")[2]
        postgres.ask(f"select pg_terminate_backend(pid) from pg_stat_activity where datname = '{database}'")
        with pytest.raises(DisconnectedError, match=r"the connection to postgresql.* is lost"):
            held.check()
        with locks(Database.of(study)).hold("mine", wait=False):
            pass


def test_the_client_gives_up_before_the_server(study: Study) -> None:
    """The lock's connection asks for both ends' time limits, and the client's are the shorter ones."""
    held = locks(Database.of(study))
    assert isinstance(held, PostgresLocks)
    mine = {name: int(value) for name, value in held.connection.info.get_parameters().items() if value.isdigit()}
    client = mine["keepalives_idle"] + mine["keepalives_interval"] * mine["keepalives_count"]

    def server(name: str) -> int:
        row = held.connection.execute("SELECT setting::int FROM pg_settings WHERE name = %s", [name]).fetchone()
        assert row is not None
        return int(row[0])

    idle, interval, count = (server(f"tcp_keepalives_{name}") for name in ("idle", "interval", "count"))
    assert 60 + client < idle + interval * count
    assert 60_000 + mine["tcp_user_timeout"] < server("tcp_user_timeout")


def test_a_server_that_knows_fewer_settings_is_enough(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an older PostgreSQL does not know is not asked of it, and the rest is."""
    monkeypatch.setitem(SERVER, "of_a_later_version", "0")
    held = locks(Database.of(study))
    assert isinstance(held, PostgresLocks)
    assert held.connection.execute("SHOW tcp_keepalives_idle").fetchone() == ("60",)
    with held.hold("mine", wait=False):
        pass


def test_a_connection_that_cannot_be_set_up_is_closed(
    study: Study, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the server refuses a setting, that is one line, and no connection is left."""
    import psycopg

    made: list[psycopg.Connection[Any]] = []
    real = psycopg.connect

    def connect(*args: Any, **kwargs: Any) -> psycopg.Connection[Any]:
        made.append(real(*args, **kwargs))
        return made[-1]

    monkeypatch.setattr(psycopg, "connect", connect)
    monkeypatch.setitem(SERVER, "idle_session_timeout", "never")
    with pytest.raises(InputError, match=r"Optuna at postgresql.* cannot be used: invalid value"):
        locks(Database.of(study))
    assert [connection.closed for connection in made] == [True]


@pytest.mark.nightly
def test_a_second_coordinator_shares_the_sweep(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    """Over the network, too, it helps the first, whose process and host it names, and writes when that has ended."""
    helping = threading.Thread(target=run, args=(Sweep(study, VARIANT), 1))
    with _held(Sweep(study, VARIANT)):
        helping.start()
        complete = "select count(*) from trials where state = 'COMPLETE'"
        until(lambda: rows(os.environ["CAVE_OPTUNA_URL"], complete) == [(4,)])
        assert not (study.sweep(VARIANT) / "best.json").exists()
    helping.join()
    check_sweep(study, VARIANT, 4, os.environ["CAVE_OPTUNA_URL"])
    assert (study.sweep(VARIANT) / "best.json").exists()
    shares = f"process {os.getpid()} on host {os.uname().nodename} works on this sweep already; shares it with 1 worker"
    assert shares in capsys.readouterr().out


@pytest.mark.parametrize(
    "url", ["mysql://me:secret@host/db", "sqlite://", "postgresql+psycopg2://me:secret@host/db", "what"]
)
def test_other_stores_get_one_line(study: Study, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """A store of another kind is refused with what is allowed, and without its password."""
    monkeypatch.setenv("CAVE_OPTUNA_URL", url)
    with pytest.raises(
        InputError, match=r"CAVE_OPTUNA_URL: .* given; allowed: sqlite:///FILE and postgresql"
    ) as caught:
        Database.of(study)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_postgresql_has_three_names(study: Study, monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    """All of them lead to psycopg 3, and none shows the password."""
    monkeypatch.setenv("CAVE_OPTUNA_URL", f"{scheme}://me:secret@host:5433/db")
    store = Database.of(study)
    assert (store.url.drivername, store.url.password) == ("postgresql+psycopg", "secret")
    assert str(store) == "postgresql://host:5433/db"


def test_a_database_out_of_reach_gets_one_line(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong password or a closed port is an `InputError` that does not hold the password."""
    url = os.environ["CAVE_OPTUNA_URL"]
    for wrong in (url.replace("open-sesame", "wrong-sesame"), url.replace("127.0.0.1:", "127.0.0.1:1")):
        monkeypatch.setenv("CAVE_OPTUNA_URL", wrong)
        with pytest.raises(InputError, match=r"Optuna at postgresql.* cannot be used") as caught:
            run(Sweep(study, VARIANT), 1)
        assert "sesame" not in str(caught.value)


@pytest.mark.parametrize(
    ("version", "command"),
    [("v2.6.0.a", "optuna storage upgrade --storage postgresql"), ("v9.9.9.a", "pip install --upgrade optuna")],
)
def test_a_schema_of_another_version_is_told_with_the_command_that_mends_it(
    study: Study, postgres: Postgres, version: str, command: str
) -> None:
    """Tables of an older Optuna, or of a newer, are one line with the upgrade's command, and no connection is left."""
    assert Sweep(study, VARIANT).optuna.trials == []
    database = os.environ["CAVE_OPTUNA_URL"].rpartition("/")[2]
    postgres.ask(f"update alembic_version set version_num = '{version}'", database)
    gc.collect()
    with pytest.raises(InputError, match=command):
        Sweep(study, VARIANT).trials()
    gc.collect()
    others = f"select count(*) from pg_stat_activity where datname = '{database}'"
    deadline = time.monotonic() + PATIENT
    while postgres.ask(others) != [(0,)]:  # the server's side of a closed connection takes a moment to end
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.nightly
def test_two_hosts_that_start_at_once_share_a_sweep(served: Cluster) -> None:
    """On a fresh database, two lone `cave worker`s finish exactly the trials; one writes, nothing is left running."""
    cluster = served
    first, second = cluster.host("a"), cluster.host("b")
    started = [first.worker(), second.worker(2)]
    output = [host.end(process) for host, process in zip((first, second), started, strict=True)]
    cluster.check()
    assert all("joins sweep default/mhvae-" in text for text in output)
    written = [host.study.sweep(VARIANT) / "best.json" for host in (first, second)]
    assert any(path.exists() for path in written)
    assert not [path for host in (first, second) for path in host.study.runs.glob("*/")]
    first.end(first.worker())  # finds nothing to do
    cluster.check()


@pytest.mark.nightly
def test_a_worker_helps_a_coordinator(cluster: Cluster) -> None:
    """A coordinator on one host and workers of another: the coordinator alone writes the outputs."""
    first, second = cluster.host("a", **LONG), cluster.host("b", **LONG)
    fetch.run(first.study)
    prepare.run(first.study)
    coordinator = first.sweep(1)
    cluster.until(REPORTS, lambda count: count >= 2)
    os.killpg(coordinator.pid, signal.SIGSTOP)
    helper = second.worker(1)
    workers = "select count(distinct value_json) from trial_system_attributes where key = 'cave:worker'"
    cluster.until(workers, lambda count: count == 2)
    os.killpg(coordinator.pid, signal.SIGCONT)
    second.end(helper)
    first.end(coordinator)
    cluster.check()
    assert (first.study.sweep(VARIANT) / "best.json").exists()


@pytest.mark.parametrize("how", ["cluster", pytest.param("served", marks=pytest.mark.nightly)])
@pytest.mark.parametrize(
    "shared", [False, pytest.param(True, marks=pytest.mark.nightly)], ids=["own disks", "shared disk"]
)
def test_a_dead_hosts_trial_is_finished_by_another(request: pytest.FixtureRequest, shared: bool, how: str) -> None:
    """Its trial goes on from its checkpoint where the disk is shared, and else anew, in the same run either way."""
    cluster: Cluster = request.getfixturevalue(how)
    first = cluster.host("a", **LONG)
    second = cluster.host("a" if shared else "b", **LONG)
    done, held = 5, cluster.folder / "held"  # epochs of the second trial, after which it stands still
    doomed = first.worker(1, CAVE_FAULT=f"state-written:{EPOCHS + done}:{held}", CAVE_FAULT_SIGNAL="SIGSTOP")
    until(held.exists)
    os.killpg(doomed.pid, signal.SIGKILL)
    doomed.wait()
    runs = (
        "select t.number, a.value_json from trials t join trial_system_attributes a on a.trial_id = t.trial_id"
        " and a.key = 'cave:mlflow_run_id' order by t.number"
    )
    before = cluster.ask(runs)
    # It dies at this pass if it trains all of the trial once more, and is never there if it goes on.
    mark = cluster.folder / "anew"
    second.end(second.worker(1, CAVE_FAULT=f"state-written:{3 * EPOCHS - done + 1}:{mark}"))
    cluster.check()
    assert mark.exists() == (not shared)
    assert cluster.ask(runs)[: len(before)] == before


@pytest.mark.nightly
def test_a_cut_connection_gives_up_a_trial_and_doubles_nothing(cluster: Cluster, postgres: Postgres) -> None:
    """A worker whose lock's connection is ended stops and starts again; the sweep keeps all promises."""
    host = cluster.host("a", **LONG)
    process = host.worker(2)
    cluster.until(REPORTS, lambda count: count >= 10)
    holders = "select pid from pg_locks where locktype = 'advisory' and granted"
    database = cluster.url.rpartition("/")[2]
    postgres.ask(f"select pg_terminate_backend(pid) from ({holders}) held", database)
    output = host.end(process)
    cluster.check()
    assert "a worker starts again: the connection to" in output


@pytest.mark.parametrize(
    "how",
    [
        pytest.param("coordinator", marks=pytest.mark.nightly),
        pytest.param("coordinator alone", marks=pytest.mark.nightly),
        pytest.param("workers", marks=pytest.mark.nightly),
    ],
)
def test_a_database_that_crashes_and_returns_loses_nothing(
    tmp_path: Path, postgres: Postgres, cluster: Cluster, how: str
) -> None:
    """Stopped in the middle and started again, PostgreSQL finds coordinator and workers going on by themselves."""
    host = cluster.host("a", **LONG)
    fetch.run(host.study)
    prepare.run(host.study)
    process = host.worker(2) if how == "workers" else host.sweep(1 if how == "coordinator alone" else 2)
    cluster.until(REPORTS, lambda count: count >= 10)
    postgres.stop()
    deadline = time.monotonic() + PATIENT
    while "lost" not in host.output and time.monotonic() < deadline:
        time.sleep(0.1)
    postgres.start()
    host.end(process)
    cluster.check()
    assert (host.study.sweep(VARIANT) / "best.json").exists()


@pytest.mark.parametrize(
    "point",
    [
        pytest.param("trial-admitted", marks=pytest.mark.nightly),
        pytest.param("epoch-reported", marks=pytest.mark.nightly),
        pytest.param("run-opened", marks=pytest.mark.nightly),
    ],
)
def test_a_worker_that_dies_beside_others_loses_nothing(cluster: Cluster, point: str) -> None:
    """Of two workers of a host one is killed, or the process that began them: the others, or the next, make it good."""
    host = cluster.host("a")
    mark = cluster.folder / "mark"
    host.end(host.worker(2, CAVE_FAULT=f"{point}:1:{mark}"), 0 if point != "run-opened" else -signal.SIGKILL)
    assert mark.exists()
    host.end(host.worker(1))
    cluster.check()


@pytest.mark.nightly
def test_ctrl_c_of_a_lone_worker_leaves_nothing_running(cluster: Cluster) -> None:
    """All runs are ended, the sweep's own too; `cave worker` again finishes."""
    host = cluster.host("a", **LONG)
    process = host.worker(1)
    cluster.until(REPORTS, lambda count: count >= 5)
    os.killpg(process.pid, signal.SIGINT)
    host.end(process, 130)
    store = cluster.folder / "shared" / "mlflow.db"
    assert rows(store, "select count(*) from runs where status = 'RUNNING'") == [(0,)]
    host.end(host.worker(1))
    cluster.check()


@pytest.mark.nightly
def test_a_second_terminal_adds_workers_on_sqlite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any server, `cave worker` joins the sweep of the same folder."""
    host = Host(tmp_path, {}, **LONG)
    first, second = host.worker(1), host.worker(1)
    host.end(first)
    host.end(second)
    check_sweep(host.study, VARIANT, 4)
    owners = "select count(distinct value_json) from trial_system_attributes where key = 'cave:worker'"
    assert rows(host.study.shared_root / "optuna.db", owners) == [(2,)]
