"""Whatever happens to a run, and in whatever order: MLflow has in the end what its log has, once.

MLflow is played by a client in memory that can fail before or after it has done what it was asked for.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from mlflow.exceptions import MlflowException

from pipeline.log import LOG, STATE, Log, Record
from pipeline.params import Params
from pipeline.run_folders import RunSpec
from pipeline.study import Study
from pipeline.tracking import Run, Tracker
from pipeline.tracking.publish import Publisher
from pipeline.tracking.server import Server
from tests.small import ROOT, splits
from tests.workshop import QUICK

NIGHTLY = os.environ.get("CAVE_NIGHTLY") == "1"
EPOCHS = 6
STATUSES = ("FINISHED", "FAILED", "KILLED")


class Client:
    """MLflow in memory; `faults` says for each of the next requests if it fails, before it is done or after."""

    tracking_uri = "http://memory"

    def __init__(self) -> None:
        self.runs: dict[str, Any] = {}
        self.rows: dict[str, set[tuple[str, float, int, int]]] = {}
        self.artifacts: dict[str, dict[str, bytes]] = {}
        self.experiment: Any = None
        self.faults: list[str] = []

    def _answer(self, act: Any) -> Any:
        fault = self.faults.pop(0) if self.faults else "none"
        if fault == "before":
            raise MlflowException("away", error_code=503)
        answer = act()
        if fault == "after":
            raise MlflowException("the answer is lost", error_code=502)
        return answer

    def get_experiment_by_name(self, name: str) -> Any:
        return self._answer(lambda: self.experiment)

    def create_experiment(self, name: str, location: str | None, tags: dict[str, str]) -> str:
        def act() -> str:
            self.experiment = SimpleNamespace(experiment_id="1", lifecycle_stage="active", tags=tags)
            return "1"

        return str(self._answer(act))

    def search_runs(self, ids: list[str], query: str) -> list[Any]:
        key = query.partition("'")[2].rstrip("'")
        active = [run for run in self.runs.values() if run.info.lifecycle_stage == "active"]
        matches = [self._copy(run) for run in reversed(active) if run.data.tags["cave.key"] == key]
        return list(self._answer(lambda: matches))

    def get_run(self, run_id: str) -> Any:
        return self._answer(lambda: self._copy(self.runs[run_id]))

    def _copy(self, run: Any) -> Any:
        metrics = {key: value for key, value, *_ in self.rows[run.info.run_id]}
        data = SimpleNamespace(tags=dict(run.data.tags), params=dict(run.data.params), metrics=metrics)
        return SimpleNamespace(info=SimpleNamespace(**vars(run.info)), data=data)

    def create_run(self, experiment: str, start_time: int, tags: dict[str, str], run_name: str) -> Any:
        def act() -> Any:
            number = str(len(self.runs))
            info = SimpleNamespace(run_id=number, status="RUNNING", end_time=None)
            info.lifecycle_stage, info.artifact_uri = "active", number
            self.runs[number] = SimpleNamespace(info=info, data=SimpleNamespace(tags=dict(tags), params={}))
            self.rows[number], self.artifacts[number] = set(), {}
            return self._copy(self.runs[number])

        return self._answer(act)

    def delete_run(self, run_id: str) -> None:
        self._answer(lambda: setattr(self.runs[run_id].info, "lifecycle_stage", "deleted"))

    def get_metric_history(self, run_id: str, name: str) -> list[Any]:
        rows = [SimpleNamespace(step=step, timestamp=t) for key, _, t, step in self.rows[run_id] if key == name]
        return list(self._answer(lambda: rows))

    def log_inputs(self, run_id: str, datasets: Sequence[Any]) -> None:
        self._answer(lambda: None)

    def log_batch(self, run_id: str, metrics: Sequence[Any], params: Sequence[Any], tags: Sequence[Any]) -> None:
        def act() -> None:
            run = self.runs[run_id]
            self.rows[run_id] |= {(row.key, row.value, row.timestamp, row.step) for row in metrics}
            for param in params:
                assert run.data.params.setdefault(param.key, param.value) == param.value  # they cannot change
            run.data.tags.update({tag.key: tag.value for tag in tags})

        self._answer(act)

    def set_terminated(self, run_id: str, status: str, when: int) -> None:
        self._answer(lambda: vars(self.runs[run_id].info).update(status=status, end_time=when))

    def update_run(self, run_id: str, status: str) -> None:
        self._answer(lambda: setattr(self.runs[run_id].info, "status", status))

    def delete_tag(self, run_id: str, name: str) -> None:
        self._answer(lambda: self.runs[run_id].data.tags.pop(name, None))

    # Of artifacts:

    def list_artifacts(self, run_id: str, folder: str | None) -> list[Any]:
        places = [path_ for path_ in self.artifacts[run_id] if os.path.dirname(path_) == (folder or "")]
        return list(self._answer(lambda: [SimpleNamespace(path=path_) for path_ in places]))

    def log_artifact(self, run_id: str, path: str, folder: str | None) -> None:
        content, path_ = Path(path).read_bytes(), os.path.join(folder or "", os.path.basename(path))
        self._answer(lambda: self.artifacts[run_id].update({path_: content}))


class Machine(RuleBasedStateMachine):
    """One run of one key, of which a process at a time is the owner."""

    @initialize(stage=st.sampled_from(["trial", "train"]))
    def begin(self, stage: str) -> None:
        """Make an empty project, and start the run."""
        self.root = Path(tempfile.mkdtemp())
        params = Params.read(ROOT / "params.yaml", QUICK)
        self.study = Study(params, self.root, self.root, self.root / "experiments" / "default", self.root)
        self.client, self.stage = Client(), stage
        self.run: Run | None = None
        self.trained: dict[int, Record] = {}  # what the state has
        self.logged: set[int] = set()  # of the run that is trained now
        self.clock = 0
        self.status: str | None = None
        self.ended_once = False
        self._start()

    def teardown(self) -> None:
        """Bring MLflow up to date with nothing in the way, and compare."""
        if hasattr(self, "root"):
            if self.run is not None:
                self.crash()
            self.client.faults = []
            for _ in range(3):
                tracker = self._tracker()
                tracker.backlog.publish_all(everything=True)
            self._compare()
            shutil.rmtree(self.root)

    def _tracker(self) -> Tracker:
        tracker = Tracker(self.study)
        tracker.server._client = self.client  # type: ignore[assignment]
        return tracker

    def _start(self) -> None:
        spec = RunSpec(stage=self.stage, variant="mhvae", seed=0, params=self.study.params, rng_seed=0)
        self.run = self._tracker().start(spec, key="k", name="k", splits=splits(), about="a run")
        if not self.run.folder.has_state:
            self.trained, self.logged = {}, set()
        log = self.run.folder.log  # what training does when it begins
        log.keep_epochs(len(self.trained))
        lacking = sorted(set(self.trained) - {record.epoch for record in log.records()})
        log.append(*(self.trained[epoch].entry for epoch in lacking))
        self.logged |= set(lacking)
        self.status = None

    @property
    def path(self) -> Path:
        """The run's folder."""
        return self._tracker().folder("k")

    @precondition(lambda self: self.run is not None and len(self.trained) < EPOCHS)
    @rule(crashes=st.booleans())
    def train(self, crashes: bool) -> None:
        """Train an epoch; crash between its state and its line, or log it and publish."""
        assert self.run is not None
        self.clock += 1
        epoch = len(self.trained) + 1
        record = Record(
            epoch, epoch, 0.1, 1_700_000_000_000 + self.clock, {"train/elbo": -epoch, "valid/elbo": 2.0 * epoch}
        )
        (self.run.folder.path / STATE).touch()
        self.trained[epoch] = record
        if crashes:
            self.crash()
        else:
            self.run.folder.log.append(record.entry, sync=True)
            self.logged.add(epoch)
            self.run.publish()

    @precondition(lambda self: self.run is not None)
    @rule(faults=st.lists(st.sampled_from(["none", "before", "after"]), max_size=8))
    def away(self, faults: list[str]) -> None:
        """Let some of the next requests fail."""
        self.client.faults = faults

    @precondition(lambda self: self.run is not None)
    @rule()
    def log(self) -> None:
        """Log a result with a file, and a tag."""
        assert self.run is not None
        file = self.root / "result.json"
        file.write_text("{}")
        self.run.log_result("best", "1", {0: {"test/elbo": -1.0}}, {"": [file]})
        self.run.set_tags({"variant": "vae"})

    @precondition(lambda self: self.run is not None)
    @rule()
    def crash(self) -> None:
        """Die: the kernel releases the lock, and nothing else happens."""
        assert self.run is not None
        self.run.close()
        self.run = None

    @precondition(lambda self: self.run is None)
    @rule()
    def tear(self) -> None:
        """Leave a part of a line, as a kill in the middle of a write does."""
        if (self.path / LOG).exists():
            with (self.path / LOG).open("ab") as file:
                file.write(b'{"type":"epoch","epo')

    @precondition(lambda self: self.run is None)
    @rule()
    def resume(self) -> None:
        """Start the same work again."""
        self._start()

    @precondition(lambda self: self.run is None)
    @rule()
    def sync(self) -> None:
        """Publish from another process."""
        self._tracker().backlog.publish_all(everything=True)

    @precondition(lambda self: self.run is None)
    @rule()
    def lose_state(self) -> None:
        """Delete the state, so that work starts anew."""
        (self.path / STATE).unlink(missing_ok=True)

    @precondition(lambda self: self.run is not None and not self.run._closed)
    @rule(status=st.sampled_from(STATUSES))
    def finish(self, status: str) -> None:
        """End the run; work that has finished is cleared away."""
        assert self.run is not None
        self.run.finish(status, "a reason" if status == "FAILED" else "")
        self.status = status
        self.run = None
        if status == "FINISHED":
            self._tracker().backlog.discard_states(self.path)

    @invariant()
    def steps_are_unique(self) -> None:
        """At no moment has a run an epoch twice, or one without those before it."""
        for run_id in self.client.runs if hasattr(self, "client") else ():
            steps = sorted(step for key, *_, step in self.client.rows[run_id] if key == "valid/elbo")
            assert steps == list(range(1, len(steps) + 1))

    def _compare(self) -> None:
        active = [run for run in self.client.runs.values() if run.info.lifecycle_stage == "active"]
        ids = [run.data.tags["cave.folder"] for run in active]
        assert len(set(ids)) == len(ids)  # none was made twice
        assert all(run.info.status != "RUNNING" for run in active)
        if self.stage == "trial":
            assert len(active) == 1
        for run in active:
            rows = self.client.rows[run.info.run_id]
            values = {(key, step): value for key, value, _, step in rows}
            assert len(values) == len(rows)
            assert all(value == 2.0 * step for (key, step), value in values.items() if key == "valid/elbo")
            assert ("cave.best" in run.data.tags) == (("test/elbo", 0) in values)
            assert "provenance/spec.json" in self.client.artifacts[run.info.run_id]
            assert run.data.tags["mlflow.note.content"].endswith(f"`cave reproduce {run.info.run_id}`.")
            if run.info.status == "FINISHED":
                assert "reason" not in run.data.tags
        latest = active[-1]
        if self.status is not None:
            assert latest.info.status == self.status
        logged_steps = {step for key, *_, step in self.client.rows[latest.info.run_id] if key == "valid/elbo"}
        assert self.logged <= logged_steps
        for path in self.study.runs.glob(f"*/{LOG}"):
            assert Log(path.parent).read()[-1]["type"] == "published"
            assert (path.parent / STATE).exists()


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let MLflow be the client in memory, which is asked without a pause."""
    for name in ("MLFLOW_TRACKING_URI", "DVC_ROOT"):
        monkeypatch.delenv(name, raising=False)
    for name in ("PAUSE", "FACTOR", "BACK_OFF", "LONGEST"):
        monkeypatch.setattr(f"pipeline.tracking.server.{name}", 0.0)
    monkeypatch.setattr(Server, "_location", lambda self, name: None)

    def repository(self: Publisher) -> Any:
        client, run_id = self.server.client, self._artifacts
        return SimpleNamespace(
            list_artifacts=lambda folder: client.list_artifacts(run_id, folder),
            log_artifact=lambda path, folder: client.log_artifact(run_id, path, folder),
        )

    monkeypatch.setattr(Publisher, "_repository", repository)


@pytest.mark.usefixtures("memory")
def test_new_work_leaves_the_run_of_finished_work_that_still_waits() -> None:
    """A training ends while MLflow is away, and the same is trained anew: each has a run of its own."""
    machine = Machine()
    machine.begin("train")
    machine.train(crashes=False)
    machine.client.faults = ["before"] * 3
    machine.finish("FINISHED")
    machine.resume()
    machine.train(crashes=False)
    machine.finish("KILLED")
    machine.teardown()
    first, second = machine.client.runs.values()
    assert (first.info.status, second.info.status) == ("FINISHED", "KILLED")
    assert first.data.tags["cave.folder"] < second.data.tags["cave.folder"]
    assert "restarted" not in first.data.tags | second.data.tags


@pytest.mark.slow
@pytest.mark.usefixtures("memory")
def test_mlflow_has_in_the_end_what_the_log_has() -> None:
    """Append, publish, crash, tear, resume, lose the state, end, and a server that is away, in any order."""
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=400 if NIGHTLY else 25,
            stateful_step_count=25,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            phases=(Phase.generate,),
        ),
    )
