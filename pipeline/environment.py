"""The environment variables that the project reads, in one place; everything else gets their values as arguments.

`Resources` says how work is done: workers, threads, device, launcher. The functions below say where things lie and who
has started this process. Options of the command line replace variables in `Resources.read`, and worker processes get
theirs from `child_variables`, so that nothing is handed on by changing `os.environ`.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from pipeline.errors import InputError
from pipeline.redaction import DATA_MIRROR

__all__ = [
    "CRASH",
    "CRASH_SIGNAL",
    "PARENT",
    "STATUS",
    "WORKER",
    "Resources",
    "TrackingCredentials",
    "WorkerRole",
    "child_variables",
    "crash_request",
    "data_mirror",
    "has_screen",
    "mlflow_retries",
    "plain_output",
    "postgres_default",
    "replace_variables",
    "sends_status",
    "set_defaults",
    "set_variables",
    "shared_root",
    "started_by_dvc",
    "store_address",
    "temporary_folder",
    "visible_gpus",
]

WORKER, PARENT = "CAVE_WORKER_OF", "CAVE_WORKER_PARENT"  # set for worker processes: their number, their parent's id
STATUS = "CAVE_WORKER_STATUS"  # set for worker processes whose output a display reads
CRASH, CRASH_SIGNAL = "CAVE_FAULT", "CAVE_FAULT_SIGNAL"


def _count(name: str, text: str) -> int:
    """Parse a whole number from 1."""
    if not text.isdecimal() or int(text) < 1:
        raise InputError(f"{name}: '{text}' given; allowed: a whole number from 1")
    return int(text)


def _share(name: str, text: str) -> float:
    """Parse a fraction of 1, or a whole number."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (0 <= value <= 1 or (math.isfinite(value) and value == int(value) > 1)):
        raise InputError(f"{name}: '{text}' given; allowed: a number from 0 to 1, or a whole number")
    return value


def _text(name: str, text: str) -> str:
    return text


PARSERS: dict[str, Callable[[str, str], Any]] = {
    "workers": _count,
    "threads": _count,
    "device": _text,
    "launcher": _text,
    "gpus_per_worker": _share,
    "cpus_per_worker": _share,
    "ray_address": _text,
}


@dataclass(frozen=True)
class Resources:
    """How work is done: no property of a study, and so no part of `params.yaml`. None leaves a choice to the program.

    Each field is the variable CAVE_<FIELD>. An empty variable counts as unset, but for CAVE_WORKERS and CAVE_THREADS.
    """

    workers: int | None = None  # processes; default: one a core, or as many as the GPUs have room for
    threads: int | None = None  # of each worker; default: cores / workers
    device: str = "auto"  # CUDA where there is a GPU
    launcher: str = "local"  # what starts workers
    gpus_per_worker: float | None = None
    cpus_per_worker: float | None = None  # cores that Ray reserves for a worker
    ray_address: str = "auto"  # `auto`, `local` or HOST:PORT

    @classmethod
    def read(cls, **options: Any) -> Resources:
        """Return the resources that the environment names; an option that is not None replaces its variable.

        Raises:
            InputError: a value is not allowed.
        """
        resources, errors = cls.read_valid(**options)
        if errors:
            raise errors[0]
        return resources

    @classmethod
    def read_valid(cls, **options: Any) -> tuple[Resources, list[InputError]]:
        """Return the resources with defaults in place of invalid values, and an error for each of these."""
        values, errors = dict[str, Any](), list[InputError]()
        for field, parse in PARSERS.items():
            option = options.get(field)
            text = os.environ.get(_variable(field), "") if option is None else str(option)
            if text or (field in ("workers", "threads") and _variable(field) in os.environ):
                try:
                    values[field] = parse(_variable(field), text)
                except InputError as error:
                    errors.append(error)
        return cls(**values), errors

    def variables(self) -> dict[str, str]:
        """Return the environment variables that `read` makes these resources of."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {_variable(name): str(value) for name, value in values.items() if value is not None}

    def changed_variables(self) -> dict[str, str]:
        """Return those variables of these resources that differ from the environment's own."""
        current = type(self).read_valid()[0].variables()
        return {name: text for name, text in self.variables().items() if current.get(name) != text}


def _variable(field: str) -> str:
    return f"CAVE_{field.upper()}"


@dataclass(frozen=True)
class WorkerRole:
    """What a worker process knows of its start."""

    siblings: int  # workers that were started together, this one included
    parent: int | None  # the process that started it

    @classmethod
    def read(cls) -> WorkerRole | None:
        """Return this process's role, or None where it is no worker."""
        if WORKER not in os.environ:
            return None
        parent = os.environ.get(PARENT)
        return cls(_count(WORKER, os.environ[WORKER]), None if parent is None else int(parent))


@dataclass(frozen=True)
class TrackingCredentials:
    """How MLflow's client logs in to its server."""

    token: str
    user: str
    password: str
    verify: bool | str  # whether certificates are checked, or the file to check them with

    @classmethod
    def read(cls) -> TrackingCredentials:
        """Return what MLflow's own variables say."""
        verify: bool | str = os.environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() not in ("1", "true")
        return cls(
            token=os.environ.get("MLFLOW_TRACKING_TOKEN", ""),
            user=os.environ.get("MLFLOW_TRACKING_USERNAME", ""),
            password=os.environ.get("MLFLOW_TRACKING_PASSWORD", ""),
            verify=os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH", verify) if verify else verify,
        )


def shared_root(root: Path) -> Path:
    """Return where databases and caches lie: the root that DVC names (for `dvc exp run --temp`), else the project's."""
    return Path(os.environ.get("DVC_ROOT") or root).resolve()


def store_address(variable: str) -> str:
    """Return the address in MLFLOW_TRACKING_URI or CAVE_OPTUNA_URL, empty where it is unset."""
    return os.environ.get(variable, "")


def data_mirror() -> str:
    """Return the folder or address that published files are fetched from instead of their own, empty without one."""
    return os.environ.get(DATA_MIRROR, "")


def postgres_default(name: str) -> str:
    """Return what libpq takes for a part of an address that is missing, such as PGHOST."""
    return os.environ.get(name, "")


def started_by_dvc() -> bool:
    """Return whether this process is a stage that DVC runs."""
    return "DVC_STAGE" in os.environ


def plain_output() -> bool:
    """Return whether only lines are to be printed, also on a terminal: in a CI job, or where TERM can do no more."""
    return os.environ.get("CI", "").lower() not in ("", "0", "false") or os.environ.get("TERM", "") in ("", "dumb")


def has_screen() -> bool:
    """Return whether a browser could be seen here: on macOS, or where a display server or BROWSER is set."""
    return sys.platform == "darwin" or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"))


def sends_status() -> bool:
    """Return whether this process is a worker whose output a display reads."""
    return STATUS in os.environ


def visible_gpus() -> list[str] | None:
    """Return the GPUs that CUDA_VISIBLE_DEVICES names, None where it is unset."""
    text = os.environ.get("CUDA_VISIBLE_DEVICES")
    return None if text is None else [word.strip() for word in text.split(",")] if text.strip() else []


def temporary_folder() -> Path:
    """Return the folder that TMPDIR names, whether it can be used or not."""
    return Path(os.environ.get("TMPDIR") or "/tmp")


def crash_request() -> tuple[str | None, str]:
    """Return where tests let this process crash (see `faults`), and with which signal."""
    return os.environ.get(CRASH), os.environ.get(CRASH_SIGNAL, "SIGKILL")


def child_variables(*changes: Mapping[str, str], without: tuple[str, ...] = ()) -> dict[str, str]:
    """Return the variables of a child process: this process's, less those that begin with `without`, and `changes`."""
    own = {name: value for name, value in os.environ.items() if not (without and name.startswith(without))}
    for change in changes:
        own |= change
    return own


def mlflow_retries() -> int:
    """Return how often MLflow's client itself repeats a request."""
    return int(os.environ.get("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0"))


def replace_variables(variables: Mapping[str, str]) -> None:
    """Give a process that was forked ahead the variables of the worker that it becomes."""
    os.environ.clear()
    os.environ.update(variables)


def set_variables(variables: Mapping[str, str]) -> None:
    """Set variables that a library reads when it is imported."""
    os.environ.update(variables)


def set_defaults(variables: Mapping[str, str]) -> None:
    """Set variables that a library reads when it is imported, unless the user has set them."""
    for name, value in variables.items():
        os.environ.setdefault(name, value)
