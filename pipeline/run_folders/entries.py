"""Lines of a run's log: the first, which says whose run it is, and the last, with their times and ids."""

from __future__ import annotations

import time
import uuid
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.errors import InputError
from pipeline.log import LOG, Entry

__all__ = ["DamagedError", "Header", "end", "new_id", "now", "read_header"]


class DamagedError(InputError):
    """A run's folder that this program has not written."""


class Header(BaseModel):
    """The first line of a log: which run it is, and what MLflow gets when the run begins."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["run", "results"]  # `results` are added to a run that MLflow has already
    version: int = 1  # 2: the run's own tags have the prefix `cave.` in MLflow
    id: str  # of this folder; that of a folder that was made later is greater
    time: int
    address: str
    experiment: str
    note: str  # the experiment's description
    key: str  # by which work that goes on, wherever it does, finds its run
    run_id: str | None = None  # of the run that results are added to; without it, the latest of the key
    reuse_finished: bool = True  # whether a finished run of the key may be taken
    reproducible: bool = False  # whether `cave reproduce` can train it again
    name: str = ""
    tags: dict[str, str] = {}
    params: dict[str, str] = {}
    dataset: dict[str, str] = {}
    files: list[str] = []


def read_header(path: Path, entries: list[Entry]) -> Header:
    """Return the first of a log's lines; raise `DamagedError` where it is none."""
    try:
        return Header.model_validate(entries[0])
    except (IndexError, ValidationError):
        raise DamagedError(f"{path}: its {LOG} does not say whose run it is; remove the folder") from None


def now() -> int:
    """Return the milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def new_id() -> str:
    """Return an id that is greater than those that were made before."""
    return f"{now():013d}-{uuid.uuid4().hex[:12]}"


def end(status: str | None, reason: str, time: int | None = None) -> dict[str, Any]:
    """Return the line that ends the work on a run, at a `time` in milliseconds since 1970, or now."""
    return {"type": "end", "status": status, "time": now() if time is None else time, "reason": reason}
