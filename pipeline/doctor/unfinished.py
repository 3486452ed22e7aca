"""Work that was begun and not ended: rows that wait, trials and runs whose worker has died, worktrees left behind."""

from __future__ import annotations

import json
import shlex
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pipeline.doctor.databases import database, read
from pipeline.doctor.finding import Finding, Place, ok, warning
from pipeline.doctor.project import held
from pipeline.provenance import git

__all__ = ["outbox", "runs", "trials", "worktrees"]

TRIALS = """
select s.study_name, t.number, w.value_json from trials t join studies s using (study_id)
left join trial_user_attributes w on w.trial_id = t.trial_id and w.key = 'worker'
where t.state = 'RUNNING' order by 1, 2
"""
RUNS = """
select r.name, r.run_uuid from runs r join experiments e using (experiment_id)
where r.status = 'RUNNING' and r.lifecycle_stage = 'active' and e.name = ?
"""
PREFIX = "cave-reproduce-"


def outbox(place: Place) -> Iterator[Finding]:
    """Do rows wait for the MLflow server?"""
    folder = place.cache / "outbox"
    begun = [path.parent for path in folder.glob("*/ops.jsonl")]
    waiting = [path for path in begun if not held(path / "lock")]  # a living run's own process sends it
    if waiting:
        yield warning(f"{len(waiting)} runs have rows that MLflow does not have yet", "cave sync")
    else:
        yield ok("nothing waits")


def trials(place: Place) -> Iterator[Finding]:
    """Have trials lost their worker? The next command takes them over, in the same run."""
    path = database(place, "optuna")
    if path is None or not path.is_file():
        yield ok("not looked for")
        return
    dead, alive = [], 0
    for name, number, token in read(path, TRIALS):
        if token is not None and held(Path(f"{path}.locks") / name / "workers" / str(json.loads(token))):
            alive += 1
        else:
            dead.append(f"{name} {number}")
    if dead:
        more = f" and {len(dead) - 3} more" if len(dead) > 3 else ""
        yield warning(f"trials without a living worker: {', '.join(dead[:3])}{more}; they go on", place.again)
    if alive or not dead:
        yield ok(f"{alive} run now")


def runs(place: Place) -> Iterator[Finding]:
    """Do runs say that they are running? After a kill they do until the work goes on."""
    path = database(place, "mlflow")
    if path is None or not path.is_file() or place.out is None:
        yield ok("not looked for")
        return
    found = read(path, RUNS, f"platos-cave/{place.out.name}")
    if found:
        names = ", ".join(str(name) for name, _ in found[:3]) + (" and more" if len(found) > 3 else "")
        yield warning(f"{len(found)} runs say RUNNING ({names}); if nothing runs now, they go on", place.again)
    else:
        yield ok("none says RUNNING")


def worktrees(place: Place) -> Iterator[Finding]:
    """Has a `cave reproduce` that was killed left its worktree or its folder behind?"""
    root = f"git -C {shlex.quote(str(place.root))}"
    rows = (git(place.root, "worktree", "list", "--porcelain", "-z") or b"").decode(errors="replace").split("\0")
    listed = [Path(row.removeprefix("worktree ")) for row in rows if row.startswith("worktree ")]
    trees = [path for path in listed if path.parent.name.startswith(PREFIX)]
    folders = {path.parent for path in trees} | set(Path(tempfile.gettempdir()).glob(f"{PREFIX}*"))
    left = [folder for folder in sorted(folders) if not _used(folder)]
    for folder in left:
        removed = [f"{root} worktree remove --force --force {shlex.quote(str(t))}" for t in trees if t.parent == folder]
        if folder.exists():
            removed.append(f"rm -rf {shlex.quote(str(folder))}")
        yield warning(f"{folder} is left of a `cave reproduce` (killed, or run with --keep)", "; ".join(removed))
    if not left:
        yield ok("none is left behind")


def _used(folder: Path) -> bool:
    """Does a process work in a folder?"""
    for link in Path("/proc").glob("[0-9]*/cwd"):
        try:
            if link.readlink().is_relative_to(folder):
                return True
        except OSError:
            continue
    return False
