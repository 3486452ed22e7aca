"""A project made by the package alone, in a folder without a copy of the code.

The stages of its `dvc.yaml` depend on `pyproject.toml`, which pins the package's version, in place of the code.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import pipeline
from pipeline.errors import InputError
from pipeline.files import write_text
from pipeline.location import nearest_project
from pipeline.project.defaults import FILES

__all__ = ["MADE", "project_around"]

COPIES = {  # by the path in the project, the file that is copied
    "params.yaml": "params.yaml",
    ".gitignore": "gitignore",
    ".dvcignore": "dvcignore",
    ".dvc/.gitignore": "dvc_gitignore",
    ".dvc/plots/curves.json": "curves.json",
    ".dvc/plots/page.html": "page.html",
}
MADE = (*COPIES, ".dvc/config", "dvc.yaml", "pyproject.toml")  # the last one makes the folder a project
CODE = re.compile(r"( +- )\$\{root\}/pipeline/\S+\n(?: +- \$\{root\}/pipeline/\S+\n)*")
ABOUT_CODE = re.compile(r"# A stage depends on every module .*")
ABOUT_PIN = "# A stage depends on pyproject.toml, which pins the package: after an upgrade, change the version there."
PROJECT = """# `cave` takes the folder of this file, beside params.yaml, for the root of a project.
[project]
name = "{name}"
version = "0"
requires-python = ">=3.11"
dependencies = ["platos-cave=={version}"]
"""


@contextmanager
def project_around(folder: Path) -> Iterator[tuple[Path, bool]]:
    """Yield the root of the project around a folder, and whether it is made here: where there is none.

    What was made is removed again if the block fails.

    Raises:
        InputError: a file is in the way, or cannot be written.
    """
    if (root := nearest_project(folder)) is not None:
        yield root, False
        return
    contents = _contents(folder)
    blocked = [name for name, text in contents.items() if (folder / name).exists() and _read(folder / name) != text]
    if blocked:
        raise InputError(f"{folder}: inside no project, and {blocked[0]} is there already; make one in another folder")
    new = [name for name in contents if not (folder / name).exists()]
    try:
        for name in MADE:
            write_text(folder / name, contents[name])
        yield folder, True
    except BaseException:
        for name in reversed(new):
            with suppress(OSError):
                (folder / name).unlink(missing_ok=True)
        for name in (".dvc/plots", ".dvc"):
            with suppress(OSError):
                (folder / name).rmdir()
        raise


def _contents(folder: Path) -> Mapping[str, str]:
    """Return what the files of a project in a folder hold, by their paths."""
    contents = {name: _read(FILES / source) for name, source in COPIES.items()}
    config = _read(FILES / "dvc_config")
    if not any((parent / ".git").exists() for parent in (folder, *folder.parents)):
        config = config.replace("[core]\n", "[core]\n    no_scm = true\n")
    stages = CODE.sub(r"\1${root}/pyproject.toml\n", _read(FILES / "stages.yaml"))
    stages = ABOUT_CODE.sub(ABOUT_PIN, stages)
    name = re.sub(r"[^a-z0-9]+", "-", folder.name.lower()).strip("-") or "study"
    project = PROJECT.format(name=name, version=pipeline.__version__)
    return contents | {".dvc/config": config, "dvc.yaml": stages, "pyproject.toml": project}


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
