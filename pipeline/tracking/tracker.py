"""A study's experiment in MLflow: its runs are started, continued and found."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

from pipeline import faults
from pipeline.data import Splits
from pipeline.environment import Resources
from pipeline.errors import InputError
from pipeline.run_folders import Header, RunFolder, RunSpec, experiment_name, folder_of, new_id, now
from pipeline.study import Study
from pipeline.tracking.backlog import Backlog
from pipeline.tracking.connection import quoted
from pipeline.tracking.describe import describe
from pipeline.tracking.experiment import about
from pipeline.tracking.run import Run
from pipeline.tracking.server import Server
from pipeline.tracking.tags import mlflow_name, read_tags

__all__ = ["Tracker"]

PATIENCE = 60.0  # seconds that a run's folder is waited for: another process may be publishing it
UNIQUE = ("trial", "sweep")  # stages whose key is of one run only; a final model may be trained again


class Tracker:
    """A study's experiment in MLflow."""

    def __init__(self, study: Study, resources: Resources | None = None) -> None:
        self.study = study
        self.resources = resources or Resources()  # that the runs which are started here are worked on with
        self.server = Server(study)
        self.name = experiment_name(study)
        self.note = about(study)
        self.backlog = Backlog(study, self.server, self.name)

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
        reproducible: bool = True,
    ) -> Run:
        """Start the run of a piece of work, or go on in the one that it has, here or elsewhere.

        Work whose folder is there goes on in its run. Else it takes a run of its key that MLflow has: a finished one
        only if no other work has this key. `inputs` are the DVC outs whose hashes become tags;
        `reproducible` says whether `cave reproduce` can train it again.

        Raises:
            InputError: another process works on the run, or the disk cannot be written.
        """
        with ExitStack() as released:
            folder, reuse = self.open(key, released), spec.stage in UNIQUE
            replaced = folder.status == "FINISHED" and not folder.has_state and not reuse
            if folder.entries and (replaced or folder.header.type != "run"):
                folder.set_aside()
                folder = self.open(key, released)
            about_run = describe(self.study, spec, splits, about, inputs, parent, self.resources)
            start = {"type": "start", "time": now(), "address": self.server.identity, "origin": about_run.origin}
            if folder.entries:
                folder.log.append(start)
            else:
                header = self.header(
                    "run",
                    key,
                    reuse_finished=reuse,
                    reproducible=reproducible and spec.rng_seed is not None,
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
            folder = self.open(key, released)
            if folder.entries and folder.header.type == "results" and folder.header.run_id != run_id:
                folder.set_aside()
                folder = self.open(key, released)
            if not folder.entries:
                folder.log.append(self.header("results", key, run_id=run_id).model_dump())
            run = Run(self, folder)
            run.publish(forced=True)
            released.pop_all()
        return run

    def header(self, kind: Literal["run", "results"], key: str, **fields: Any) -> Header:
        """Return the first line of the log of a run that begins now."""
        return Header(
            type=kind,
            version=2,
            id=new_id(),
            time=now(),
            address=self.server.identity,
            experiment=self.name,
            note=self.note,
            key=key,
            **fields,
        )

    def open(self, key: str, released: ExitStack) -> RunFolder:
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
            query = f"tags.`{mlflow_name('key')}` LIKE {quoted(f'{prefix}%')}"
            while True:
                page = self.server.client.search_runs([experiment], query, page_token=token)
                for run in page:  # the latest first
                    ids.setdefault(read_tags(run.data.tags)["key"], str(run.info.run_id))
                if not (token := page.token):
                    break
        return ids
