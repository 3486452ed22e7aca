"""A study's experiment: its runs are started and found, and what they have left waiting is sent."""

from __future__ import annotations

import json
import os
import sys
import time
import uuid
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from pipeline import faults, processes, provenance
from pipeline.data import Splits
from pipeline.environment import Resources
from pipeline.errors import InputError
from pipeline.files import sha256
from pipeline.params import digest
from pipeline.redaction import one_line, redacted
from pipeline.study import Study
from pipeline.text import plural
from pipeline.tracking.outbox import DamagedError, Op, Outbox, end, meant_for, now
from pipeline.tracking.run import Run
from pipeline.tracking.sender import Sender, quoted
from pipeline.tracking.store import Store
from pipeline.work import Work

__all__ = ["CHANGES", "PROVENANCE", "SETTINGS", "Delivered", "Tracker"]

PROVENANCE, SETTINGS, CHANGES = "provenance", "settings.json", "changes.patch"  # the folder of artifacts, files in it
PATIENCE = 60.0  # seconds that a run's outbox is waited for: someone may be sending it


class Tracker:
    """A study's experiment in MLflow."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self.store = Store(study)
        note = (
            f"Study **{study.name}** of platos-cave on `{study.params.data.name}`.\n\n"
            "Runs with `stage = train` are the final models, one a seed, with their test results; a run with"
            " `stage = sweep` carries its best trial's settings and holds the trials as children. Runs of the present"
            " results have the tag `current = true`, earlier ones `superseded_by`, the run in their place. To compare"
            " variants, search for `tags.current = 'true'` and group by the tag `variant`."
            " `rate/z*` are the log-ratio rates of each level: their sum is `kl`, a single one may be negative. All"
            " bounds are in nats per example."
        )
        self.experiment = {"name": f"platos-cave/{study.name}", "note": note}
        self.behind = False  # is there an outbox that a run of this process has left?
        self._refused: set[Path] = set()  # outboxes that MLflow was found to refuse

    def require(self) -> Tracker:
        """Raise `InputError` unless MLflow can be reached; the first run makes the experiment."""
        self.store.require(self.experiment)
        return self

    @property
    def experiment_id(self) -> str | None:
        """The experiment's id, once MLflow has told it."""
        return self.store.experiments.get(self.experiment["name"])

    def start(
        self,
        work: Work,
        *,
        key: str,
        name: str,
        splits: Splits,
        about: str,
        inputs: Sequence[Path] = (),
        parent: str | None = None,
        goes_on: bool = False,
        anew: bool | None = None,
    ) -> Run:
        """Start the run of a piece of work, or go on in the one it has.

        Work that `goes_on` takes the run of its key, whatever has become of it; other work takes one that has
        not finished, and so leaves no half run behind. Work that is begun `anew`, its state being gone, says so if
        the run had epochs. `inputs` are the DVC outs whose hashes become tags.
        """
        anew = not goes_on if anew is None else anew
        with ExitStack() as held:
            outbox = self._outbox(key, held)
            takes = "any" if goes_on else "unfinished"
            if outbox.status == "FINISHED" and not goes_on:
                outbox.set_aside()
                outbox, takes = self._outbox(key, held), "own"
            code = provenance.code(self.study.root)
            widths = work.params.model.level_widths
            tags = {
                "stage": work.stage,
                "study": self.study.name,
                "variant": work.variant,
                "depth": str(work.params.model.depth),
                "latent_dim": str(sum(widths)),
                "widths": "-".join(map(str, widths)),
                "seed": str(work.seed),
                "params_digest": digest(work.flat),
                "mlflow.note.content": about,
                "mlflow.source.name": f"cave: {work.stage} {work.variant}",
                "mlflow.source.type": "LOCAL",
                **provenance.dvc_hashes(self.study.folder, *inputs),
            }
            if parent is not None:
                tags["mlflow.parentRunId"] = parent
            begun = now()
            outbox.append(
                {
                    "op": "start",
                    **self._whose(key),
                    "mark": f"{begun:013d}-{uuid.uuid4().hex[:12]}",  # later ones are greater
                    "name": name,
                    "time": begun,
                    "takes": takes,
                    "anew": anew,
                    "again": work.stream is not None,
                    "tags": {tag: redacted(value) for tag, value in tags.items()},
                    "origin": code.tags
                    | provenance.machine(processes.device(Resources.read().device))
                    | {"data_digest": splits.digest},
                    "params": {
                        path: value if isinstance(value, str) else json.dumps(value)
                        for path, value in work.flat.items()
                    },
                    "data": _data(splits),
                    "files": [] if outbox.ops else self._provenance(outbox, work, splits, code.patch),
                }
            )
            faults.reached("outbox-started")
            run = Run(self, outbox)
            run.send(forced=work.stage != "trial")  # a short trial's rows may as well go with its beginning
            held.pop_all()  # the run has it from here on
            return run

    def find(self, run_id: str | None, key: str | None = None) -> Run:
        """Tell a run more, that of an id or else the latest of a key; `missing` says if MLflow has none."""
        with ExitStack() as held:
            outbox = self._outbox(key or str(run_id), held)
            outbox.append({"op": "attach", **self._whose(key or str(run_id)), "run_id": run_id})
            run = Run(self, outbox)
            run.send(forced=True)
            held.pop_all()
        return run

    def _whose(self, key: str) -> Op:
        return {"address": self.store.identity, "experiment": self.experiment, "key": key}

    def _outbox(self, key: str, held: ExitStack) -> Outbox:
        """Take the outbox of a key, to be let go with `held`."""
        name = sha256([json.dumps([self.store.identity, self.experiment["name"], key]).encode()])[:16]
        try:
            outbox = Outbox.take(self.store.outboxes / name, PATIENCE)
            held.callback(outbox.release)
            return outbox
        except BlockingIOError:
            raise InputError(f"run {key}: another process is working on it") from None

    def _provenance(self, outbox: Outbox, work: Work, splits: Splits, patch: bytes) -> list[list[str]]:
        """Keep what leads to the same numbers again: a trial's settings and patch, of others the study's files too."""
        out = {"study": self.study.name, "out": os.path.relpath(self.study.out, self.study.root)}
        settings = json.dumps(work.settings(splits) | out, indent=1, default=list) + "\n"
        files: dict[str, Path | bytes] = {SETTINGS: settings.encode()}
        if patch:
            files[CHANGES] = patch
        if work.stage != "trial":
            named = {name: self.study.folder / name for name in ("params.yaml", "dvc.yaml", "dvc.lock")}
            files |= {name: path for name, path in named.items() if path.is_file()}
        return [outbox.keep(PROVENANCE, name, source) for name, source in files.items()]

    def run_ids(self, key: str) -> dict[str, str]:
        """Return the ids of the runs whose key begins with `key`, by their keys; none where MLflow is gone."""
        ids: dict[str, str] = {}
        with self.store.exchange():
            experiment, token = self.store.experiment(self.experiment), None
            wanted = f"tags.key LIKE {quoted(f'{key}%')}"
            while True:
                found = self.store.client.search_runs([experiment], wanted, page_token=token)
                for run in found:  # the latest first
                    ids.setdefault(str(run.data.tags["key"]), str(run.info.run_id))
                if not (token := found.token):
                    break
        return ids

    def deliver(self, *, everything: bool = False, most: int | None = None, seconds: float | None = None) -> Delivered:
        """Send what waits for MLflow and has no living owner: of this study, or everything; at most so much.

        It stops where MLflow fails, and passes over an outbox that is damaged, or that MLflow refuses, in one line.
        Work without an end was killed, and its run is told so.
        """
        told = Delivered()
        limit = None if seconds is None else time.monotonic() + seconds
        for folder in sorted(self.store.outboxes.glob("*/")):
            try:
                outbox = Outbox.take(folder)
            except BlockingIOError:
                told.busy += 1
                continue
            if not outbox.ops:
                outbox.remove()
                continue
            try:
                first = outbox.whose()
                address = meant_for(first)
                if address not in (self.store.identity, self.store.address):
                    told.elsewhere[address] = told.elsewhere.get(address, 0) + 1
                elif folder in self._refused and not everything:
                    told.left, told.refused = told.left + 1, told.refused + 1
                elif everything or first["experiment"]["name"] == self.experiment["name"]:
                    late = limit is not None and time.monotonic() > limit
                    enough = most is not None and told.sent >= most
                    if told.failed or late or enough or not self._deliver(outbox, told):
                        told.left += 1
            except DamagedError as error:  # which is no reason to stop the work that calls
                print(error, file=sys.stderr, flush=True)
                told.failed, told.left, told.refused = False, told.left + 1, told.refused + 1
            finally:
                outbox.release()
            if told.waiting and most is not None:
                break
        return told

    def _deliver(self, outbox: Outbox, told: Delivered) -> bool:
        if not outbox.ended:
            last = next(op["op"] for op in reversed(outbox.ops) if op["op"] in ("start", "attach", "end"))
            outbox.append(end("KILLED" if last == "start" else None, ""))
        sender = Sender(self.store, outbox)
        told.failed = True
        with self.store.exchange():
            sender.send(owned=False)
            told.failed = False
        if self.store.refused:
            told.failed, told.refused = False, told.refused + 1
            self.refuse(outbox)
            return False
        if told.failed:
            return False
        outbox.remove()
        told.sent += 1
        return True

    def refuse(self, outbox: Outbox) -> None:
        """Say that MLflow refuses what an outbox holds, once; what is there stays there."""
        if outbox.folder in self._refused:
            return
        self._refused.add(outbox.folder)
        first, where = outbox.ops[0], os.path.relpath(outbox.folder, self.study.root)
        print(
            one_line(
                f"MLflow at {self.store.address} refuses what run {first.get('name', first['key'])} has logged"
                f" ({self.store.refused}); `cave sync` tries again, and who gives it up removes {where}"
            ),
            file=sys.stderr,
            flush=True,
        )

    def last_word(self) -> None:
        """At the end of a stage, try once more to send what waits, for a minute, and say if something is left."""
        left = self.deliver(seconds=60.0).waiting
        if left:
            wait = "waits" if left == 1 else "wait"
            print(
                f"{self.study.name}: {plural(left, 'run')} {wait} for MLflow; `cave sync` sends what is left",
                flush=True,
            )


@dataclass
class Delivered:
    """How many outboxes were sent, are left, are being worked on, or are meant for other addresses."""

    sent: int = 0
    left: int = 0
    refused: int = 0  # of those left: not taken, whenever they are sent
    busy: int = 0
    failed: bool = False
    elsewhere: dict[str, int] = field(default_factory=dict)  # by their address

    @property
    def waiting(self) -> int:
        """How many are left that MLflow will take."""
        return self.left - self.refused


def _data(splits: Splits) -> dict[str, str]:
    counts = {name: len(getattr(splits, name)) for name in ("train", "valid", "test")}
    profile = {
        "images": counts,
        "shape": splits.shape,
        "protocol": splits.protocol,
        "binarization": splits.binarization,
    }
    return {
        "name": splits.name,
        "digest": splits.digest[:36],
        "source_type": "local",
        "source": json.dumps({"stage": "prepare"}),
        "profile": json.dumps(profile),
    }
