"""Where a number comes from: commit, uncommitted changes, code, DVC's hashes of its inputs, versions and machine."""

from __future__ import annotations

import ast
import functools
import platform
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import InputError
from pipeline.files import sha256
from pipeline.location import runs_code_of
from pipeline.params import read_yaml
from pipeline.redaction import passwords

if TYPE_CHECKING:
    import torch

__all__ = [
    "CAP",
    "PATCHES",
    "Code",
    "code",
    "code_digest",
    "dvc_hashes",
    "dvc_starts",
    "git",
    "git_failure",
    "machine",
    "module_files",
]

PACKAGE = Path(__file__).resolve().parents[1]
CAP = 2**20  # bytes of a patch that are kept
PATCHES = {  # states of a patch that do not lead to the code again
    "cut": f"its uncommitted changes were more than {CAP // 2**20} MiB and were cut",
    "withheld": "its uncommitted changes hold a password and were not kept",
    "untracked": "its code had modules that git does not track, which were not kept",
}
NO_SCM = re.compile(r"^\s*no_scm\s*=\s*true\s*$", re.MULTILINE | re.IGNORECASE)  # by which DVC does without git
LIBRARIES = ("torch", "numpy", "mlflow", "optuna")


def module_files(module: str) -> set[Path]:
    """Return the files of `module` and of all that it imports inside the package, directly or not.

    The package's own `__init__.py` is left out: it imports nothing until it is called.
    """
    files: set[Path] = set()
    open_modules = [module]
    while open_modules:
        path = _path(open_modules.pop())
        if path is None or path in files or path == PACKAGE / "__init__.py":
            continue
        files.add(path)
        open_modules += _imports(path)
    return files


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


@dataclass(frozen=True)
class Code:
    """The code of this process: its commit, and the patch that leads from there to it."""

    commit: str  # `none` where there is no repository
    dirty: str  # do tracked files differ from the commit: `true`, `false`, `unknown`
    digest: str  # of what trainings depend on
    state: str  # of the patch: `none`, `whole`, or why it is not whole, one of `PATCHES`
    patch: bytes  # of what differs in tracked files, the project's own; nothing that git ignores

    @property
    def tags(self) -> dict[str, str]:
        """All but the patch, as a run is tagged."""
        return {
            "git_commit": self.commit,
            "git_dirty": self.dirty,
            "code_digest": self.digest,
            "patch": self.state,
        }


@functools.cache
def code(root: Path) -> Code:
    """Return the code of this process, as it is at the first call: what is edited later is not what runs here.

    Where another copy of the package runs than that in `root`, the repository there says nothing about it.
    """
    code = code_digest("pipeline.training")
    if not runs_code_of(root):
        return Code(commit="none", dirty="unknown", digest=code, state="none", patch=b"")
    commit = git(root, "rev-parse", "HEAD")
    status = git(root, "status", "--porcelain", "--untracked-files=no", "--", ".")
    dirty = "unknown" if status is None else str(bool(status.strip())).lower()
    patch = _patch(root) if commit else b""
    state = "none" if not patch else "whole" if len(patch) <= CAP else "cut"
    if any(word.encode() in patch for word in passwords()):
        state, patch = "withheld", b""
    elif commit and _untracked(root):
        dirty, state = "true", "untracked"
    return Code(
        commit=commit.decode().strip() if commit else "none",
        dirty=dirty,
        digest=code,
        state=state,
        patch=patch[:CAP],
    )


def _untracked(root: Path) -> bool:
    """Return whether git does not track a module that trainings import."""
    names = git(root, "ls-files", "--others", "-z", "--", PACKAGE.name) or b""
    others = {root / name.decode(errors="surrogateescape") for name in names.split(b"\0") if name.endswith(b".py")}
    return any((root / file.relative_to(PACKAGE.parent)) in others for file in module_files("pipeline.training"))


def _patch(root: Path) -> bytes:
    """Return what differs from the commit in tracked files, up to a byte more than the cap."""
    changed = git(root, "diff", "HEAD", "--name-only", "--relative", "-z") or b""
    ignored = git(root, "ls-files", "--cached", "--ignored", "--exclude-standard", "-z") or b""
    left_out = (set(changed.split(b"\0")) & set(ignored.split(b"\0"))) - {b""}
    # In one form, whatever the user's configuration says, so that it can be applied anywhere.
    words = ["diff", "HEAD", "--binary", "--no-color", "--no-ext-diff", "--no-textconv", "--no-relative"]
    words += ["--src-prefix=a/", "--dst-prefix=b/", "--", "."]
    words += [f":(exclude,literal){name.decode(errors='surrogateescape')}" for name in sorted(left_out)]
    with subprocess.Popen(_words(words), cwd=root, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        patch = process.stdout.read(CAP + 1)
        process.kill()
    return patch


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
        done = subprocess.run(_words(words), cwd=root, capture_output=True, check=False, start_new_session=True)
    except OSError as error:
        return f"git: {error.strerror}"
    if done.returncode == 0:
        return done.stdout
    return (done.stderr.decode(errors="replace").strip().splitlines() or [f"exit code {done.returncode}"])[-1]


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


def _words(words: Sequence[str]) -> list[str]:
    # No lock on the index, which a user may be working with, and no hook of the user's.
    return ["git", "--no-optional-locks", "-c", "core.hooksPath=/dev/null", *words]


def machine(device: torch.device) -> dict[str, str]:
    """Return what numbers depend on beside code, data and parameters, as tags: versions, processor, device, threads."""
    import torch

    tags = _process() | {"device": str(device)}
    if device.type == "cuda":
        tags["gpu"] = torch.cuda.get_device_name(device)
    return tags | {"threads": str(torch.get_num_threads())}


@functools.cache
def _process() -> dict[str, str]:
    """Return what stays as it is in a process."""
    import torch

    tags = {"version/python": platform.python_version()}
    tags |= {f"version/{name}": version(name) for name in LIBRARIES}
    tags["platform"] = " ".join([platform.system(), platform.machine(), *platform.libc_ver()]).strip()
    return tags | {"cpu": f"{_processor()} ({torch.backends.cpu.get_cpu_capability()})"}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def dvc_hashes(folder: Path, *outs: Path) -> dict[str, str]:
    """Return DVC's md5 of each of `outs` from the `dvc.lock` in `folder`, as tags `dvc/<path>`; none, no tags."""
    lock = folder / "dvc.lock"
    if not lock.is_file():
        return {}
    content: Any = read_yaml(lock) or {}
    try:
        stages = content.get("stages", {}).values()
        hashes = {
            (folder / out["path"]).resolve(): str(out.get("md5", "")) for s in stages for out in s.get("outs", [])
        }
    except (AttributeError, KeyError, TypeError, ValueError, OSError):
        raise InputError(f"{lock}: damaged; `cave doctor` says how to fix it") from None
    return {f"dvc/{out.name}": hashes[out.resolve()] for out in outs if out.resolve() in hashes}
