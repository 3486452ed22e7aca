"""Whose code runs, and where artifacts go: what goes wrong when a project is moved, copied or cloned."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from pipeline.doctor.databases import database, read
from pipeline.doctor.finding import Finding, Target, fault, ok, warning
from pipeline.location import PACKAGE, has_own_code, replaced_package, runs_code_of
from pipeline.text import plural
from pipeline.tracking.artifacts import FOLDER, folder_fault, local_folder, moved_roots

__all__ = ["artifacts", "code"]

EXPERIMENTS = "select name, artifact_location from experiments where lifecycle_stage = 'active' and experiment_id > 0"
RUNS = "select artifact_uri from runs where lifecycle_stage = 'active' and status = 'FINISHED' and experiment_id > 0"


def code(target: Target) -> Iterator[Finding]:
    """Does the project's own code run, here and in the stages that DVC starts by `python`?"""
    activate = (
        f"make -C {shlex.quote(str(target.root))} env && . {shlex.quote(str(target.root / '.venv/bin/activate'))}"
    )
    python = shutil.which("python")
    if python is None:
        yield fault("there is no `python` on PATH, by which DVC starts every stage", activate)
    elif not os.path.samefile(Path(python).parent, Path(sys.executable).parent):
        yield warning(f"DVC starts stages by {python}, this is {sys.executable}", activate)
    if not has_own_code(target.root):
        yield ok(f"the code in {PACKAGE}; {target.root} has no code of its own")
    elif (other := replaced_package(target.root)) is not None:
        yield warning(
            f"this environment has {other} installed; each command restarts itself to run {PACKAGE}", activate
        )
    elif runs_code_of(target.root):
        yield ok(f"the code in {PACKAGE}")
    else:
        yield fault(f"the code in {PACKAGE} is used, and not the code of {target.root}", activate)


def artifacts(target: Target) -> Iterator[Finding]:
    """Do artifacts go to the project's own folder, and are those of earlier runs there?"""
    path = database(target, "mlflow")
    if path is None or not path.is_file():
        yield ok("not looked for")
        return
    former = moved_roots(target.shared_root)
    for root in former:
        yield warning(f"{path.name} was made in {root}, and its artifact addresses still point there", "cave sync")
    sound = not former
    for name, address in () if former else read(path, EXPERIMENTS):
        folder = local_folder(address)
        if folder is None or folder.is_relative_to(target.shared_root):
            continue
        if reason := folder_fault(folder):
            sound = False
            yield fault(f"{name} keeps its artifacts in {folder}, and {reason}", f"mkdir -p {shlex.quote(str(folder))}")
        else:
            yield ok(f"{name} keeps its artifacts outside of the project, in {folder}")
    if reason := folder_fault(target.shared_root / FOLDER):
        sound = False
        yield fault(
            f"artifacts cannot be kept: {reason}", f"chmod u+rwx {shlex.quote(str(target.shared_root / FOLDER))}"
        )
    places = Counter(folder for (address,) in read(path, RUNS) if (folder := local_folder(address)) is not None)
    gone = [folder for folder in places if not os.path.isdir(folder)]
    if gone and not former:
        sound = False
        yield warning(
            f"the artifacts of {plural(len(gone), 'run')} are gone, such as {gone[0]}",
            f"bring {gone[0].parents[1]} back from where it was copied or kept",
        )
    if sound:
        yield ok(f"artifacts of {plural(len(places), 'run')} are there")
