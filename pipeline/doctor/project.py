"""The project's own files: parameters, the repository, DVC's record of what was made, and its locks."""

from __future__ import annotations

import fcntl
import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

from pipeline import data
from pipeline.doctor.finding import Finding, Target, fault, ok, warning
from pipeline.doctor.processes import command
from pipeline.errors import InputError
from pipeline.params import Params, read_yaml
from pipeline.run_folders.git import dvc_starts, git
from pipeline.study import pipeline_text
from pipeline.text import plural

__all__ = ["dvc_busy", "dvc_lock", "git_state", "held", "params", "pipelines"]

CONFLICT = re.compile(rb"^(<{7}|>{7})( |$)", re.MULTILINE)


def params(target: Target) -> Iterator[Finding]:
    """Are the parameters sound?"""
    path = target.folder / "params.yaml"
    try:
        sound = Params.read(path)
        data.check(sound.data)
    except InputError as error:
        yield fault(str(error), f"edit {path}; run `cave check` afterwards")
    else:
        yield ok(f"sound: {sound.data.name}, variants {', '.join(sound.variants)}")


def git_state(target: Target) -> Iterator[Finding]:
    """Is there a git repository, so that runs can record their code?"""
    root = shlex.quote(str(target.root))
    begin = f"git -C {root} init && git -C {root} add -A && git -C {root} commit -m 'Begin'"
    if not dvc_starts(target.root):
        yield fault("not a git repository, without which DVC does not start, nor can runs be reproduced", begin)
    elif shutil.which("git") is None:
        yield warning("git is not installed: runs cannot record their code", "apt-get install git")
    elif git(target.root, "rev-parse", "--is-inside-work-tree") is None:
        if any((folder / ".git").exists() for folder in [target.root, *target.root.parents]):
            safe = f"git config --global --add safe.directory {root}"
            yield warning(
                "git refuses this repository (another owner's, or damaged): runs cannot record their code", safe
            )
        else:
            yield warning("not a git repository: runs cannot record their code, nor be reproduced", begin)
    elif (head := git(target.root, "rev-parse", "--short=12", "HEAD")) is None:
        yield warning("nothing is committed yet: runs cannot be reproduced", begin)
    else:
        unmerged = git(target.root, "ls-files", "--unmerged", "-z")
        if unmerged:
            names = sorted({row.rpartition(b"\t")[2].decode(errors="replace") for row in unmerged.split(b"\0") if row})
            yield fault(f"a merge is not finished: {', '.join(names[:3])}", f"git -C {root} merge --abort")
        shallow = " (a shallow clone)" if git(target.root, "rev-parse", "--is-shallow-repository") == b"true\n" else ""
        yield ok(f"commit {head.decode().strip()}{shallow}")


def pipelines(target: Target) -> Iterator[Finding]:
    """Is the `dvc.yaml` of each study a copy of the root's?"""
    copies = sorted((target.root / "experiments").glob("*/dvc.yaml"))
    if not copies:
        yield ok("the root's alone")
        return
    try:
        links = [path.parent.name for path in copies if path.is_symlink()]
        stale = [
            path.parent.name
            for path in copies
            if not path.is_symlink() and path.read_bytes() != pipeline_text(target.root, path.parent)
        ]
    except OSError as error:
        yield fault(f"{error.filename}: cannot be read: {error.strerror}", "git checkout HEAD -- dvc.yaml")
        return
    fix = f"cd {shlex.quote(str(target.root))} && cave study refresh"
    if links:
        what = "between commits DVC cannot read links, and then shows no params, metrics or plots"
        yield fault(f"dvc.yaml is a link in {', '.join(links)}: {what}", fix)
    if stale:
        yield warning(f"dvc.yaml is not the root's in {', '.join(stale)}", fix)
    if not links and not stale:
        yield ok(f"{len(copies)} copies of dvc.yaml, all equal to the root's")


def dvc_lock(target: Target) -> Iterator[Finding]:
    """Is DVC's record of what was made readable?"""
    path = target.folder / "dvc.lock"
    if not path.is_file():
        yield ok("none yet")
        return
    name = shlex.quote(str(path))
    committed = git(target.folder, "cat-file", "-e", "HEAD:./dvc.lock") is not None
    fix = f"git -C {shlex.quote(str(target.folder))} checkout HEAD -- dvc.lock" if committed else f"rm {name}"
    fix += f" && {target.again}"
    if CONFLICT.search(path.read_bytes()):
        yield fault(f"{path} holds the marks of a merge conflict", fix)
        return
    try:
        content = read_yaml(path)
    except InputError as error:
        yield fault(str(error), fix)
        return
    stages = content.get("stages") if isinstance(content, dict) else None
    if not isinstance(stages, dict) or not all(isinstance(stage, dict) and "cmd" in stage for stage in stages.values()):
        yield fault(f"{path} is damaged: it does not list stages with their commands", fix)
    else:
        yield ok(f"{plural(len(stages), 'stage')} made")


def dvc_busy(target: Target) -> Iterator[Finding]:
    """Is a DVC command running, or has one that was killed left locks that still hold?

    `lock` counts while the kernel holds it, so that the file alone means nothing. `rwlock` names processes; DVC itself
    passes over those that have ended, but not one whose number another process has now, nor a file it cannot read.
    """
    folder = target.root / ".dvc" / "tmp"
    findings = []
    if held(folder / "lock"):
        text = (folder / "lock").read_text(errors="replace").strip()
        who = f"process {text} ({_command(text) or 'ended; a child of it holds the lock'})" if text else "a process"
        holder = f"fuser -v {shlex.quote(str(folder / 'lock'))}"
        findings.append(
            warning(f"a DVC command is at work: {who}", f"wait for it, or see who holds the lock: {holder}")
        )
    path = folder / "rwlock"
    remove = f"rm {shlex.quote(str(path))}"
    try:
        locks = json.loads(path.read_text(encoding="utf-8"))
        rows = list(locks.get("write", {}).values())
        rows += [row for several in locks.get("read", {}).values() for row in several]
        named = {int(row["pid"]): str(row["cmd"]) for row in rows}
    except FileNotFoundError:
        named = {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        findings.append(fault(f"{path} is damaged, and DVC cannot read it", remove))
        named = {}
    for pid, words in named.items():
        now = command(pid)
        if now is not None and "dvc" in now:
            findings.append(warning(f"process {pid} is at work: {words[:60]}", "wait for it"))
        elif now is not None:
            findings.append(
                fault(f"a killed '{words[:60]}' has left its lock; its number {pid} is now '{now}'", remove)
            )
    yield from findings or [ok("none is held")]


def _command(text: str) -> str | None:
    return command(int(text)) if text.isdecimal() else None


def held(path: Path) -> bool:
    """Does a process hold the kernel's lock on a file?"""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
