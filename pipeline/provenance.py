"""Where a number comes from: the code it was worked out by, the commit, and DVC's hashes of its inputs."""

from __future__ import annotations

import ast
import subprocess
from pathlib import Path
from typing import Any

from pipeline.files import sha256
from pipeline.params import read_yaml

__all__ = ["code_digest", "dvc_hashes", "git_state", "module_files"]

PACKAGE = Path(__file__).resolve().parent


def module_files(module: str) -> set[Path]:
    """Return the files of `module` and of all that it imports inside the package, directly or not.

    The package's own `__init__.py` is left out: it imports nothing until it is called.
    """
    found: set[Path] = set()
    open_modules = [module]
    while open_modules:
        path = _path(open_modules.pop())
        if path is None or path in found or path == PACKAGE / "__init__.py":
            continue
        found.add(path)
        open_modules += _imports(path)
    return found


def _path(module: str) -> Path | None:
    parts = module.split(".")[1:]
    plain, package = PACKAGE.joinpath(*parts).with_suffix(".py"), PACKAGE.joinpath(*parts, "__init__.py")
    return plain if parts and plain.is_file() else package if package.is_file() else None


def _imports(path: Path) -> list[str]:
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            # `from pipeline.data import Splits` needs pipeline.data; `from pipeline import figures` pipeline.figures
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return [name for name in names if name.split(".")[0] == PACKAGE.name]


def code_digest(module: str) -> str:
    """Return a short sha256 over the files of `module` and its imports: the code that its numbers depend on."""
    files = sorted(module_files(module))
    return sha256(part for file in files for part in (file.name.encode(), file.read_bytes()))[:12]


def git_state(root: Path) -> dict[str, str]:
    """Return the commit and whether tracked files differ from it; `none` where there is no repository."""
    commit = _git(root, "rev-parse", "HEAD")
    status = _git(root, "status", "--porcelain", "--untracked-files=no")
    return {
        "git_commit": commit.strip() if commit else "none",
        "git_dirty": "unknown" if status is None else str(bool(status.strip())).lower(),
    }


def _git(root: Path, *words: str) -> str | None:
    try:
        return subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None


def dvc_hashes(folder: Path, *outs: Path) -> dict[str, str]:
    """Return DVC's md5 of each of `outs` from the `dvc.lock` in `folder`, as tags `dvc/<path>`; none, no tags."""
    lock = folder / "dvc.lock"
    if not lock.is_file():
        return {}
    stages: dict[str, Any] = (read_yaml(lock) or {}).get("stages", {})
    known = {
        (folder / out["path"]).resolve(): out.get("md5", "")
        for stage in stages.values()
        for out in stage.get("outs", [])
    }
    return {f"dvc/{out.name}": known[out.resolve()] for out in outs if out.resolve() in known}
