"""Where a number comes from: commit, uncommitted changes, DVC's hashes of its inputs, versions and machine."""

from __future__ import annotations

import functools
import platform
import subprocess
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import InputError
from pipeline.location import runs_code_of
from pipeline.params import read_yaml
from pipeline.redaction import passwords
from pipeline.run_folders.git import git, git_command
from pipeline.run_folders.source import PACKAGE, code_digest, module_files

if TYPE_CHECKING:
    import torch

__all__ = [
    "CAP",
    "PATCHES",
    "Code",
    "code",
    "dvc_hashes",
    "machine",
]

CAP = 2**20  # bytes of a patch that are kept
PATCHES = {  # states of a patch that do not lead to the code again
    "cut": f"its uncommitted changes were more than {CAP // 2**20} MiB and were cut",
    "withheld": "its uncommitted changes hold a password and were not kept",
    "untracked": "its code had modules that git does not track, which were not kept",
}
LIBRARIES = ("torch", "numpy", "mlflow", "optuna")


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
    with subprocess.Popen(git_command(words), cwd=root, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        patch = process.stdout.read(CAP + 1)
        process.kill()
    return patch


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
