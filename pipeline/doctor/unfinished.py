"""Work that was begun and not ended: rows that wait, trials and runs whose worker has died, worktrees left behind."""

from __future__ import annotations

import json
import re
import shlex
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from pipeline.addresses import lock_folder, worker_lock
from pipeline.doctor.databases import database, read
from pipeline.doctor.finding import Finding, Target, ok, warning
from pipeline.doctor.processes import working
from pipeline.doctor.project import held
from pipeline.errors import InputError
from pipeline.log import LOG, Log
from pipeline.run_folders import earlier_version_runs
from pipeline.run_folders.git import git
from pipeline.study import Study
from pipeline.text import plural

__all__ = ["runs", "trials", "unpublished", "worktrees"]

TRIALS = """
select s.study_name, t.number, w.value_json from trials t join studies s using (study_id)
left join trial_system_attributes w on w.trial_id = t.trial_id and w.key = 'cave:worker'
where t.state = 'RUNNING' order by 1, 2
"""
RUNS = """
select r.name, r.run_uuid, k.value from runs r join experiments e using (experiment_id)
left join tags k on k.run_uuid = r.run_uuid and k.key in ('cave.key', 'key')
where r.status = 'RUNNING' and r.lifecycle_stage = 'active' and e.name = ?
"""
SWEEP = re.compile(r"([^/]+/[^/]+-[0-9a-f]{10})/[0-9a-f]{32}(/[0-9]+)?$")  # a key
OLDER = "left of an older version of params, data or code, with which nothing goes on"
PREFIX = "cave-reproduce-"


def unpublished(target: Target) -> Iterator[Finding]:
    """Does MLflow lack lines of runs that no process works on?"""
    folders = [path.parent for path in sorted((target.cache / "runs").glob(f"*/{LOG}"))]
    # The process that works on a run publishes it.
    waiting = [path for path in folders if not held(path / "lock") and not _is_published(path)]
    if waiting:
        have = "have" if len(waiting) > 1 else "has"
        yield warning(f"{plural(len(waiting), 'run')} {have} rows that MLflow does not have yet", "cave sync")
    else:
        yield ok("nothing waits")
    if older := earlier_version_runs(target.cache):
        line = f"{plural(older, 'run')} of an earlier version did not reach MLflow whole"
        yield warning(line, "cave sync, by that version of the code; or: rm -r .cache/outbox")


def _is_published(folder: Path) -> bool:
    return [entry["type"] for entry in Log(folder).read()[-1:]] == ["published"]


def trials(target: Target) -> Iterator[Finding]:
    """Have trials lost their worker? The next command takes them over, in the same run."""
    path = database(target, "optuna")
    if path is None or not path.is_file():
        yield ok("not looked for")
        return
    dead, alive = list[tuple[str, str]](), 0
    for name, number, token in read(path, TRIALS):
        if token is not None and held(lock_folder(path) / worker_lock(name, str(json.loads(token)))):
            alive += 1
        else:
            dead.append((name, number))
    today, study = _today(target, bool(dead)), f"{target.out.name}/" if target.out is not None else ""
    own = [trial for trial in dead if trial[0].startswith(study)]
    older = [trial for trial in own if today and trial[0] not in today]
    if len(own) > len(older):
        goes = "they go on" if today else "they go on if params, data and code are what they were"
        yield warning(f"trials without a living worker: {_few(t for t in own if t not in older)}; {goes}", target.again)
    if older:
        yield ok(f"trials {OLDER}: {_few(older)}")
    if len(dead) > len(own):
        others = _few(trial for trial in dead if trial not in own)
        yield ok(f"trials of other studies without a living worker: {others}; see `cave doctor STUDY`")
    if alive or not dead:
        yield ok(f"{plural(alive, 'trial')} at work now")


def _few(trials: Iterable[tuple[str, str]]) -> str:
    names = [f"{name} {number}" for name, number in trials]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _today(target: Target, needed: bool) -> set[str]:
    """Return the names of the study's sweeps by params, data and code of today; none where it has no data."""
    if not needed:
        return set()
    from pipeline.sweep import Sweep

    try:
        study = Study.at(target.folder)
        return {search.name for variant in study.params.variants for search in Sweep(study, variant).searches()}
    except InputError:
        return set()


def runs(target: Target) -> Iterator[Finding]:
    """Do runs say that they are running? After a kill they do until the work goes on."""
    path = database(target, "mlflow")
    if path is None or not path.is_file() or target.out is None:
        yield ok("not looked for")
        return
    running = read(path, RUNS, f"platos-cave/{target.out.name}")
    sweeps = {run_id: match[1] for _, run_id, key in running if (match := SWEEP.match(key or ""))}
    today = _today(target, bool(sweeps))
    older = [row for row in running if today and row[1] in sweeps and sweeps[row[1]] not in today]
    goes_on = [row for row in running if row not in older]
    if goes_on:
        yield warning(f"{_count(goes_on)} RUNNING ({_named(goes_on)}); if nothing runs now, they go on", target.again)
    if older:
        url = shlex.quote(f"sqlite:///{path}")
        delete = "; ".join(f"MLFLOW_TRACKING_URI={url} mlflow runs delete --run-id {row[1]}" for row in older[:3])
        yield warning(f"{_count(older)} RUNNING, {OLDER}: {_named(older)}", f"let them be, or: {delete}")
    if not running:
        yield ok("none says RUNNING")


def _count(rows: Sequence[tuple[str, ...]]) -> str:
    return f"{plural(len(rows), 'run')} {'say' if len(rows) > 1 else 'says'}"


def _named(rows: Sequence[tuple[str, ...]]) -> str:
    return ", ".join(row[0] for row in rows[:3]) + (" and more" if len(rows) > 3 else "")


def worktrees(target: Target) -> Iterator[Finding]:
    """Has a `cave reproduce` that was killed left its worktree or its folder behind?"""
    root = f"git -C {shlex.quote(str(target.root))}"
    rows = (git(target.root, "worktree", "list", "--porcelain", "-z") or b"").decode(errors="replace").split("\0")
    listed = [Path(row.removeprefix("worktree ")) for row in rows if row.startswith("worktree ")]
    trees = [path for path in listed if path.parent.name.startswith(PREFIX)]
    folders = {path.parent for path in trees} | set(Path(tempfile.gettempdir()).glob(f"{PREFIX}*"))
    used = {folder: working(folder) for folder in sorted(folders)}
    for folder in (folder for folder, at_work in used.items() if not at_work):
        removed = [f"{root} worktree remove --force --force {shlex.quote(str(t))}" for t in trees if t.parent == folder]
        if folder.exists():
            removed.append(f"rm -rf {shlex.quote(str(folder))}")
        doubt = ", if no process works in it, which could not be seen" if used[folder] is None else ""
        yield warning(f"{folder} is left of a `cave reproduce` (killed, or run with --keep){doubt}", "; ".join(removed))
    if all(used.values()):
        yield ok("none is left behind")
