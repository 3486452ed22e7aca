"""Git, as far as a project has it: what it prints, why it fails, and whether DVC finds a repository."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

__all__ = ["dvc_starts", "git", "git_command", "git_failure"]

NO_SCM = re.compile(r"^\s*no_scm\s*=\s*true\s*$", re.MULTILINE | re.IGNORECASE)  # by which DVC does without git


def git(root: Path, *words: str) -> bytes | None:
    """Return what git prints in a folder, or nothing where it fails or is missing."""
    done = _run_git(root, words)
    return None if isinstance(done, str) else done


def git_failure(root: Path, *words: str) -> str | None:
    """Run git in a folder, and return its own reason where it fails, or nothing."""
    done = _run_git(root, words)
    return done if isinstance(done, str) else None


def _run_git(root: Path, words: Sequence[str]) -> bytes | str:
    """Return what git prints or, where it fails or is missing, the reason as a text."""
    try:
        # In a session of its own: Ctrl-C is for this process, which then ends what it began.
        done = subprocess.run(git_command(words), cwd=root, capture_output=True, check=False, start_new_session=True)
    except OSError as error:
        return f"git: {error.strerror}"
    if done.returncode == 0:
        return done.stdout
    return (done.stderr.decode(errors="replace").strip().splitlines() or [f"exit code {done.returncode}"])[-1]


def git_command(words: Sequence[str]) -> list[str]:
    """Return the command that runs git without a lock on the index, which a user may hold, and without hooks."""
    return ["git", "--no-optional-locks", "-c", "core.hooksPath=/dev/null", *words]


def dvc_starts(root: Path) -> bool:
    """Does DVC start in a project? It needs a git repository, though not the program, unless `no_scm` is set."""
    for folder in [root, *root.parents]:
        git_folder = folder / ".git"
        if git_folder.is_file():  # of a worktree or a submodule: it names the folder
            git_folder = (
                folder / git_folder.read_text(encoding="utf-8", errors="replace").removeprefix("gitdir:").strip()
            )
        if (git_folder / "HEAD").is_file():
            return True
    configs = [root / ".dvc" / name for name in ("config", "config.local")]
    return any(NO_SCM.search(path.read_text(encoding="utf-8")) for path in configs if path.is_file())
