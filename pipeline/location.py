"""Which copy of the package runs: always that of the project in which a command is called.

An environment has one copy installed, often that of another clone. A command that finds itself to be another copy than
the project's own starts again with the project first on PYTHONPATH, which its workers inherit. Only the standard
library is imported here, because this runs before anything else.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

__all__ = ["has_own_code", "nearest_project", "replaced_package", "runs_code_of", "use_project_code"]

PACKAGE = Path(__file__).resolve().parent
RESTARTED = "CAVE_RESTARTED_IN"  # set by a restart: the project's root and the package that ran before


def nearest_project(start: Path) -> Path | None:
    """Return the nearest folder at or above `start` that holds both `pyproject.toml` and `params.yaml`."""
    for folder in [start, *start.parents]:
        if os.path.isfile(folder / "pyproject.toml") and os.path.isfile(folder / "params.yaml"):
            return folder
    return None


def has_own_code(root: Path) -> bool:
    """Return whether a project holds a copy of the package."""
    return os.path.isfile(root / PACKAGE.name / "__init__.py")


def runs_code_of(root: Path) -> bool:
    """Return whether the package that runs here is the copy that lies in `root`."""
    return has_own_code(root) and os.path.samefile(root / PACKAGE.name, PACKAGE)


def replaced_package(root: Path) -> str | None:
    """Return the package that this process ran before it was restarted for `root`; None without a restart."""
    restarted_in, _, package = os.environ.get(RESTARTED, "").partition(os.pathsep)
    return package if package and restarted_in == str(root.resolve()) else None


def use_project_code() -> None:
    """Restart this program with the code of the project around the working directory, unless it is what runs.

    The process ends with exit code 2 and one line on stderr where a restart did not help.
    """
    try:
        root = nearest_project(Path.cwd())
    except FileNotFoundError:  # the working directory was removed
        return
    if root is None or not has_own_code(root) or runs_code_of(root):
        return
    root = root.resolve()
    if replaced_package(root) is not None:
        reason = "Python ignores PYTHONPATH" if sys.flags.ignore_environment else "another copy comes first on its path"
        _fail(f"the code of {root} cannot be run, because {reason}: {PACKAGE} is imported; run `make env` in {root}")
    print(f"{PACKAGE} is installed here; running {root / PACKAGE.name} instead", file=sys.stderr, flush=True)
    path = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, RESTARTED: f"{root}{os.pathsep}{PACKAGE}"}
    try:
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)
    except OSError as error:
        _fail(f"the code of {root} cannot be run: {sys.executable}: {error.strerror}")


def _fail(reason: str) -> None:
    print(f"error: {reason}", file=sys.stderr, flush=True)
    sys.exit(2)
