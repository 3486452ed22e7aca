"""Where runs lie: the folder of a key, the folders of a study, and what an earlier version has left."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import InputError
from pipeline.files import sha256
from pipeline.log import LOG, Log
from pipeline.run_folders.entries import read_header
from pipeline.study import Study

__all__ = ["earlier_version_runs", "experiment_name", "folder_of", "study_folders"]


def folder_of(runs: Path, key: str) -> Path:
    """Return where the run of a key lies: a name that can be read, and is no other key's."""
    readable = re.sub(r"[^\w.-]+", "_", key)[-80:]
    return runs / f"{readable}-{sha256([key.encode()])[:8]}"


def experiment_name(study: Study) -> str:
    """Return the name of a study's experiment in MLflow."""
    return f"platos-cave/{study.name}"


def study_folders(study: Study, prefix: str = "") -> Iterator[Path]:
    """Yield the folders of a study's runs, of those whose key begins with `prefix`; damaged ones are left out."""
    for path in sorted(study.runs.glob(f"*/{LOG}")):
        try:
            header = read_header(path.parent, Log(path.parent).read())
        except InputError:
            continue
        if header.experiment == experiment_name(study) and header.key.startswith(prefix):
            yield path.parent


def earlier_version_runs(cache: Path) -> int:
    """Return how many runs an earlier version of this program has left there, which only that version can publish."""
    return len(list((cache / "outbox").glob("*/ops.jsonl")))
