"""A study's experiment in MLflow: runs are started and found, and what MLflow lacks of them is published."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from pipeline import faults
from pipeline.data import Splits
from pipeline.errors import InputError
from pipeline.redaction import one_line
from pipeline.runs import (
    DamagedError,
    Header,
    RunFolder,
    RunSpec,
    end,
    experiment_name,
    folder_of,
    new_id,
    now,
)
from pipeline.study import Study
from pipeline.text import plural
from pipeline.tracking.connection import quoted
from pipeline.tracking.describe import describe
from pipeline.tracking.publish import Publisher
from pipeline.tracking.run import Run
from pipeline.tracking.server import Server

__all__ = ["Published", "Tracker"]

PATIENCE = 60.0  # seconds that a run's folder is waited for: another process may be publishing it
UNIQUE = ("trial", "sweep")  # stages whose key is of one run only; a final model may be trained again


@dataclass
class Published:
    """How many folders were published, remain, belong to work that is going on, or to other addresses."""

    done: int = 0
    remaining: int = 0
    refused: int = 0  # of those left: MLflow takes them at no time
    busy: int = 0
    failed: bool = False
    elsewhere: dict[str, int] = field(default_factory=dict)  # by their address

    @property
    def waiting(self) -> int:
        """How many are left that MLflow will take."""
        return self.remaining - self.refused


class Tracker:
    """A study's experiment in MLflow."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self.server = Server(study)
        self.name = experiment_name(study)
        self.note = (
            f"Study **{study.name}** of platos-cave on `{study.params.data.name}`.\n\n"
            "Runs with `stage = train` are the final models, one a seed, with their test results; a run with"
            " `stage = sweep` carries its best trial's settings and holds the trials as children. Runs of the present"
            " results have the tag `current = true`, earlier ones `superseded_by`, the run in their place. To compare"
            " variants, search for `tags.current = 'true'` and group by the tag `variant`."
            " `rate/z*` are the log-ratio rates of each level: their sum is `kl`, a single one may be negative. All"
            " bounds are in nats per example."
        )
        self.behind = False  # whether a run of this process has left a folder that MLflow lacks
        self._refused: set[Path] = set()  # folders that MLflow was found to refuse

    def require(self) -> Tracker:
        """Raise `InputError` unless MLflow can be used; the experiment is created with its first run."""
        self.server.require(self.name, self.note)
        return self

    @property
    def experiment_id(self) -> str | None:
        """The experiment's id, once it is known."""
        return self.server.experiments.get(self.name)

    def folder(self, key: str) -> Path:
        """Return the folder of a key's run."""
        return folder_of(self.study.runs, key)

    def start(
        self,
        spec: RunSpec,
        *,
        key: str,
        name: str,
        splits: Splits,
        about: str,
        inputs: Sequence[Path] = (),
        parent: str | None = None,
    ) -> Run:
        """Start the run of a piece of work, or go on in the one that it has, here or elsewhere.

        Work whose folder is there goes on in its run. Else it takes a run of its key that MLflow has: a finished one
        only if no other work has this key. `inputs` are the DVC outs whose hashes become tags.

        Raises:
            InputError: another process works on the run, or the disk cannot be written.
        """
        with ExitStack() as released:
            folder, reuse = self._open(key, released), spec.stage in UNIQUE
            replaced = folder.status == "FINISHED" and not folder.has_state and not reuse
            if folder.entries and (replaced or folder.header.type != "run"):
                folder.set_aside()
                folder = self._open(key, released)
            about_run = describe(self.study, spec, splits, about, inputs, parent)
            start = {"type": "start", "time": now(), "address": self.server.identity, "origin": about_run.origin}
            if folder.entries:
                folder.log.append(start)
            else:
                header = Header(
                    type="run",
                    id=new_id(),
                    time=now(),
                    address=self.server.identity,
                    experiment=self.name,
                    note=self.note,
                    key=key,
                    reuse_finished=reuse,
                    reproducible=spec.rng_seed is not None,
                    name=name,
                    tags=about_run.tags,
                    params=about_run.params,
                    dataset=about_run.dataset,
                    files=list(about_run.files),
                )
                folder.begin(header, about_run.files, start)
            faults.crash_point("run-opened")
            run = Run(self, folder)
            run.publish(forced=spec.stage != "trial")  # a short trial's rows may as well go with its beginning
            released.pop_all()  # the run has it from here on
            return run

    def reopen(self, key: str, run_id: str | None = None) -> Run:
        """Add results to a run that was ended, that of an id or else the latest of a key; MLflow may lack it."""
        with ExitStack() as released:
            folder = self._open(key, released)
            if folder.entries and folder.header.type == "results" and folder.header.run_id != run_id:
                folder.set_aside()
                folder = self._open(key, released)
            if not folder.entries:
                header = Header(
                    type="results",
                    id=new_id(),
                    time=now(),
                    address=self.server.identity,
                    experiment=self.name,
                    note=self.note,
                    key=key,
                    run_id=run_id,
                )
                folder.log.append(header.model_dump())
            run = Run(self, folder)
            run.publish(forced=True)
            released.pop_all()
        return run

    def _open(self, key: str, released: ExitStack) -> RunFolder:
        """Lock the folder of a key, to be released with `released`."""
        try:
            folder = RunFolder.open(self.folder(key), PATIENCE)
        except BlockingIOError:
            raise InputError(f"run {key}: another process is working on it") from None
        released.callback(folder.release)
        return folder

    def run_ids(self, prefix: str) -> dict[str, str]:
        """Return the ids of the runs whose key begins with `prefix`, by their keys; none where MLflow is away."""
        ids: dict[str, str] = {}
        with self.server.request():
            experiment, token = self.server.experiment(self.name, self.note), None
            query = f"tags.key LIKE {quoted(f'{prefix}%')}"
            while True:
                page = self.server.client.search_runs([experiment], query, page_token=token)
                for run in page:  # the latest first
                    ids.setdefault(str(run.data.tags["key"]), str(run.info.run_id))
                if not (token := page.token):
                    break
        return ids

    def publish_all(
        self, *, everything: bool = False, most: int | None = None, seconds: float | None = None
    ) -> Published:
        """Publish the folders that have no living owner: of this study, or everything; at most so much.

        It stops where MLflow fails, and passes over a folder that is damaged, or that MLflow refuses, in one line.
        A run without an end was killed, and ends as such.
        """
        result = Published()
        deadline = None if seconds is None else time.monotonic() + seconds
        for path in sorted(self.study.runs.glob("*/")):
            try:
                folder = RunFolder.open(path)
            except BlockingIOError:
                result.busy += 1
                continue
            try:
                if not folder.entries or folder.published:
                    folder.remove_if_done()
                elif folder.address != self.server.identity:
                    result.elsewhere[folder.address] = result.elsewhere.get(folder.address, 0) + 1
                elif path in self._refused and not everything:
                    result.remaining, result.refused = result.remaining + 1, result.refused + 1
                elif everything or folder.header.experiment == self.name:
                    late = deadline is not None and time.monotonic() > deadline
                    enough = most is not None and result.done >= most
                    if result.failed or late or enough or not self._publish(folder, result):
                        result.remaining += 1
            except DamagedError as error:  # which is no reason to stop the work of the caller
                print(error, file=sys.stderr, flush=True)
                result.failed, result.remaining, result.refused = False, result.remaining + 1, result.refused + 1
            finally:
                folder.release()
            if result.waiting and most is not None:
                break
        return result

    def _publish(self, folder: RunFolder, result: Published) -> bool:
        """Publish a folder without an owner; return whether MLflow has all of it."""
        if not folder.ended:
            begun = folder.header.type == "run" and folder.status is None
            folder.log.append(end("KILLED" if begun else None, ""))
        result.failed = True
        with self.server.request():
            Publisher(self.server, folder).publish(owned=False)
            result.failed = False
        if self.server.refusal:
            result.failed, result.refused = False, result.refused + 1
            self.report_refusal(folder)
            return False
        if result.failed:
            return False
        folder.close_published()
        result.done += 1
        return True

    def report_refusal(self, folder: RunFolder) -> None:
        """Print once that MLflow refuses a folder, which stays where it is."""
        if folder.path in self._refused:
            return
        self._refused.add(folder.path)
        header, where = folder.header, os.path.relpath(folder.path, self.study.root)
        line = (
            f"MLflow at {self.server.address} refuses what run {header.name or header.key} has logged"
            f" ({self.server.refusal}); `cave sync` tries again, and who gives it up removes {where}"
        )
        print(one_line(line), file=sys.stderr, flush=True)

    def discard_states(self, *paths: Path) -> None:
        """Remove the states of runs whose work is done, and the folders that MLflow has all of."""
        for path in paths:
            if path.exists():
                try:
                    folder = RunFolder.open(path)
                except BlockingIOError:  # another process publishes it, and removes it
                    continue
                folder.discard_state()
                folder.release()

    def flush_at_exit(self) -> None:
        """At the end of a stage, publish what is left, for a minute, and print a line if something stays."""
        waiting = self.publish_all(seconds=60.0).waiting
        if waiting:
            wait = "waits" if waiting == 1 else "wait"
            print(
                f"{self.study.name}: {plural(waiting, 'run')} {wait} for MLflow; `cave sync` sends what is left",
                flush=True,
            )
