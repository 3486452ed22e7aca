"""Run one training again from its MLflow run, in the code of its commit, and compare number by number.

The run has its commit, the patch of what was not committed, its settings, the digest of its data, and the versions,
device and threads it had. A git worktree of that commit, outside the project and gone afterwards, takes the patch; its
own `pipeline.retrain` trains there, with no address of a store. Numbers are equal when they are so bit for bit.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import processes
from pipeline.environment import Resources, child_variables
from pipeline.errors import InputError
from pipeline.files import read_json
from pipeline.processes.signals import ignore_signals
from pipeline.retrain import FORMAT
from pipeline.run_folders import PATCH, SPEC
from pipeline.run_folders.git import git, git_failure
from pipeline.run_folders.provenance import CAP, PATCHES
from pipeline.study import Study
from pipeline.text import plural
from pipeline.tracking import LoggedRun

__all__ = ["Comparison", "reproduce"]

KINDS = {"code_digest": "code", "data_digest": "data", "params_digest": "params"}  # all else by its name
HIDDEN = ("MLFLOW_", "CAVE_OPTUNA_URL", "PG", "DVC_", "PYTHONSAFEPATH")  # variables that the training must not see
ELSEWHERE = "make room, or set TMPDIR to a folder on another disk"
ROOM = 2**20  # bytes beside the code: what the run has stored, and what comes out
OLDER_SPEC = "provenance/settings.json"  # of a run whose commit has `pipeline.work` instead of `pipeline.retrain`
NEEDED = {"git_commit", "patch", "variant", "study", "seed"}  # tags


def reproduce(root: Path, run_id: str, *, keep: bool = False) -> Comparison:
    """Train again what the run trained, print both sets of numbers, and return their comparison.

    Raises `InputError` where the run is not there, is not of one training, or its code cannot be had.
    """
    study = Study.at(root)
    then = LoggedRun.read(study, run_id)
    _check(then)
    with _temporary_folder(keep) as scratch:
        _check_room(study.root, then.tags["git_commit"], scratch)
        spec = then.download(scratch / "run", SPEC, OLDER_SPEC)
        content = read_json(spec, "format", "out")
        commit, tags = then.tags["git_commit"], then.tags
        uncommitted = " and its uncommitted changes" if tags["patch"] == "whole" else ""
        print(
            f"run {run_id}: {tags['variant']}, {tags['stage']} of study {tags['study']}, seed {tags['seed']},"
            f" {plural(len(then.epochs), 'epoch')}; commit {commit[:12]}{uncommitted}",
            flush=True,
        )
        with _worktree(study.root, commit, scratch, keep) as tree:
            if tags["patch"] == "whole":
                patch = then.download(scratch / "run", PATCH)
                if patch.stat().st_size > CAP:
                    raise InputError(f"run {run_id}: {PATCHES['cut'].replace(' and were cut', '')}, which none is")
                if reason := git_failure(tree, "apply", "--binary", "--whitespace=nowarn", str(patch)):
                    fault = f"run {run_id}: its uncommitted changes do not fit commit {commit[:12]}"
                    raise InputError(f"{fault}: {reason}")
            prefix = git(study.root, "rev-parse", "--show-prefix") or b""
            project = tree / prefix.decode().strip()
            out, data_folder = scratch / "out", study.root / str(content["out"]) / "data"
            state = tags.get("state", tags.get("trial_state", "complete"))  # the second of earlier versions
            ended = then.status == "FINISHED" and state == "complete"
            epochs = 0 if ended else max(then.epochs)
            words = [str(word) for word in (spec, out, data_folder, study.cache, epochs)]
            module = "pipeline.retrain" if (project / "pipeline" / "retrain.py").exists() else "pipeline.work"
            environment = _environment(tags, project)
            processes.run([[module, *words]], project, Resources(), environment=environment)
        result = read_json(out / "result.json")
    if result.get("format") != FORMAT:
        raise InputError(f"run {run_id}: its code writes results of format {result.get('format')!r}, not {FORMAT}")
    comparison = Comparison.of(then, result)
    print(comparison.text())
    return comparison


def _check(then: LoggedRun) -> None:
    """Raise `InputError` unless the run is of one training whose code is known."""
    run, stage = f"run {then.run_id}:", then.tags.get("stage")
    if stage == "sweep":
        raise InputError(f"{run} is a sweep; give the run of one of its trials or of a final model")
    if stage not in ("train", "trial") or not set(then.tags) >= NEEDED:
        raise InputError(f"{run} does not record where its numbers come from, so it cannot be run again")
    if "repeats" in then.tags:
        other = then.tags["repeats"]
        raise InputError(f"{run} has the settings of trial {other} and took its record; give the run of trial {other}")
    if not then.epochs:
        raise InputError(f"{run} has not finished an epoch, so that there is nothing to compare")
    if not re.fullmatch(r"[0-9a-f]{7,64}", then.tags.get("git_commit", "")):
        raise InputError(f"{run} was not made in a git repository by its code, so that its code is not known")
    if then.tags["patch"] in PATCHES:
        raise InputError(f"{run} {PATCHES[then.tags['patch']]}, so that its code is not known")


def _environment(tags: Mapping[str, str], project: Path) -> dict[str, str]:
    """Return the variables of the training: its threads and device as they were, and no store."""
    resources = {"CAVE_THREADS": tags.get("threads", ""), "CAVE_DEVICE": tags.get("device", "")}
    changes = {name: value for name, value in resources.items() if value}
    return child_variables(changes, {"PYTHONPATH": str(project)}, without=HIDDEN)


@contextmanager
def _temporary_folder(keep: bool) -> Iterator[Path]:
    """Make a temporary folder outside the project and, unless it is to be kept, remove it in the end."""
    try:
        scratch = Path(tempfile.mkdtemp(prefix="cave-reproduce-")).resolve()
        (scratch / "run").mkdir()
    except OSError as error:
        at = f"{error.filename}: " if error.filename else ""
        raise InputError(f"no temporary folder can be made: {at}{error.strerror}; {ELSEWHERE}") from None
    try:
        yield scratch
    finally:
        if not keep:
            with ignore_signals():
                shutil.rmtree(scratch, ignore_errors=True)


def _check_room(root: Path, commit: str, scratch: Path) -> None:
    """Raise `InputError` where the files of a commit do not fit on the disk: git does not say that this is why."""
    rows = (git(root, "ls-tree", "-r", "-z", "--long", commit) or b"").split(b"\0")
    sizes = [row.partition(b"\t")[0].split()[-1] for row in rows if row]
    needed, free = ROOM + sum(int(size) for size in sizes if size.isdigit()), shutil.disk_usage(scratch).free
    if free < needed:
        room = f"{free / 2**20:.1f} MiB free, {needed / 2**20:.1f} MiB needed"
        raise InputError(f"{scratch}: the disk is full: {room}; {ELSEWHERE}")


@contextmanager
def _worktree(root: Path, commit: str, scratch: Path, keep: bool) -> Iterator[Path]:
    """Check a commit out as a worktree and, unless it is to be kept, remove that in the end."""
    if git(root, "cat-file", "-e", f"{commit}^{{commit}}") is None:
        raise InputError(f"commit {commit[:12]} of that run is not in the repository at {root}")
    tree = scratch / "tree"
    try:
        if reason := git_failure(root, "worktree", "add", "--detach", str(tree), commit):
            raise InputError(f"git cannot make a worktree of commit {commit[:12]} in {tree}: {reason}")
        yield tree
    finally:
        with ignore_signals():
            if keep and tree.exists():
                print(f"the code is kept in {tree}; `git worktree remove --force {tree}` removes it")
            else:
                # Twice forced: one whose making was stopped is still locked.
                git(root, "worktree", "remove", "--force", "--force", str(tree))
                shutil.rmtree(tree, ignore_errors=True)


@dataclass(frozen=True)
class Comparison:
    """A run's numbers and those of the same training run again."""

    epoch: int  # whose numbers are shown: the weights that are kept are of it
    then: dict[int, dict[str, float]]
    now: dict[int, dict[str, float]]
    weights: tuple[str, str] | None  # sha256 then and now; of a trial none are kept
    changed: dict[str, tuple[str, str]]  # what a number depends on, then and now, where they differ
    continued: dict[str, str]  # what changed in the middle of the run, when it was stopped and went on

    @classmethod
    def of(cls, then: LoggedRun, result: Mapping[str, Any]) -> Comparison:
        """Compare a run with the result of `pipeline.retrain`."""
        now = {record["epoch"]: record["metrics"] for record in result["records"]}
        old, new = then.tags.get("weights_digest"), result["weights"]
        made: dict[str, str] = result["made"]
        tags = {tag: then.tags.get(tag, "none") for tag in [*made, *(["gpu"] if "gpu" in then.tags else [])]}
        return cls(
            epoch=min(result["best"], max(then.epochs)),
            then=then.epochs,
            now=now,
            weights=(old, new) if old and new else None,
            changed={tag: (was, made.get(tag, "none")) for tag, was in tags.items() if was != made.get(tag, "none")},
            continued={k.partition("/")[2]: value for k, value in then.tags.items() if k.startswith("continued/")},
        )

    @property
    def equal(self) -> bool:
        """Are all numbers, and the weights, equal bit for bit?"""
        return self.then == self.now and (self.weights is None or self.weights[0] == self.weights[1])

    def text(self) -> str:
        """Write the table of one epoch, the verdict on all, and what changed."""
        then, now = self.then.get(self.epoch, {}), self.now.get(self.epoch, {})
        lines = [f"\n{f'epoch {self.epoch}':24s}{'then':>18s}{'now':>18s}{'difference':>14s}", "-" * 74]
        for key in dict.fromkeys([*then, *now]):
            old, new = then.get(key), now.get(key)
            words = ["none" if value is None else f"{value:.9f}" for value in (old, new)]
            gap = "" if old is None or new is None else "0" if old == new else f"{new - old:.1e}"
            lines.append(f"{key:24s}{words[0]:>18s}{words[1]:>18s}{gap:>14s}")
        return "\n".join([*lines, "", self._verdict(), *self._reasons()])

    def _verdict(self) -> str:
        count = len(self.then[min(self.then)])
        if self.equal:
            weights = f", and the weights (sha256 {self.weights[0][:12]})," if self.weights else ""
            return (
                f"equal bit for bit: all {count} metrics of all {plural(len(self.then), 'epoch')}{weights} are the same"
            )
        words = []
        if len(self.then) != len(self.now):
            words.append(f"{plural(len(self.then), 'epoch')} then, {len(self.now)} now")
        gaps = [
            (abs(self.now[epoch][key] - value), key, epoch)
            for epoch, values in self.then.items()
            for key, value in values.items()
            if key in self.now.get(epoch, {})
        ]
        if gaps and max(gaps)[0]:
            most, key, epoch = max(gaps)
            words.append(f"the largest difference is {most:.1e}, in {key} at epoch {epoch}")
        if {key for values in self.then.values() for key in values} != {key for v in self.now.values() for key in v}:
            words.append("the metrics are not the same")
        if self.weights and self.weights[0] != self.weights[1]:
            words.append(f"the weights differ (sha256 {self.weights[0][:12]} then, {self.weights[1][:12]} now)")
        return f"not equal: {'; '.join(words)}"

    def _reasons(self) -> list[str]:
        lines = [
            f"changed since: {KINDS.get(tag, tag.removeprefix('version/'))}: {was} then, {now} now"
            for tag, (was, now) in self.changed.items()
        ]
        lines += [f"the run was stopped and went on with another {tag}: {now}" for tag, now in self.continued.items()]
        if not lines and not self.equal:
            lines = ["code, data, params, versions, processor, device and threads are what they were"]
        return lines
