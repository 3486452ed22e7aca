"""The disk: room, permission to write, what it is mounted from, and what killed writers have left on it."""

from __future__ import annotations

import errno
import os
import re
import shlex
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from pipeline.doctor.databases import database
from pipeline.doctor.finding import Finding, Target, fault, ok, warning
from pipeline.environment import temporary_folder
from pipeline.files import is_temporary
from pipeline.text import plural

__all__ = ["leftovers", "mount", "network", "space", "writing"]

LITTLE, FEW = 2**30, 10_000  # bytes and files below which room is short
NEEDED, FILES = 64 * 2**20, 100  # and below which nothing can be expected to work
REMOTE = re.compile(r"nfs|cifs|smb|9p|afs|ceph|lustre|gpfs|beegfs|glusterfs|pvfs|panfs|sshfs|s3fs|rclone|davfs")
NAMED = 5  # files in one command
OLD = 600.0  # seconds; nobody writes that long at a temporary file
MOUNTS = Path("/proc/self/mountinfo")


def _folders(target: Target) -> dict[str, Path]:
    """Return the folders that are written to, each once, or the nearest above that is there."""
    folders = {"store": target.shared_root, "cache": target.cache, "study": target.folder, "outputs": target.out}
    try:
        folders["temporary"] = Path(tempfile.gettempdir())
    except OSError:  # none can be written: `writing` names the one that was asked for
        folders["temporary"] = temporary_folder()
    existing = {name: _nearest(path) for name, path in folders.items() if path is not None}
    return {
        name: path
        for name, path in existing.items()
        if path not in list(existing.values())[: list(existing).index(name)]
    }


def _nearest(path: Path) -> Path:
    return next(folder for folder in [path, *path.parents] if folder.exists())


def space(target: Target) -> Iterator[Finding]:
    """Is there room for bytes and for files?"""
    seen = set()
    for folder in _folders(target).values():
        if (device := folder.stat().st_dev) in seen:
            continue
        seen.add(device)
        room = os.statvfs(folder)
        free, files = room.f_bavail * room.f_frsize, room.f_favail
        limited = room.f_files > 0  # some file systems have no fixed number of files
        room_left = f"{folder}: {_size(free)} free" + (f", {files} files" if limited else "")
        fix = f"du -xh {shlex.quote(str(folder))} | sort -h | tail; with nothing running, `make clean` removes .cache"
        if free < NEEDED or (limited and files < FILES):
            yield fault(f"the disk is full: {room_left}", fix)
        elif free < LITTLE or (limited and files < FEW):
            yield warning(f"the disk is nearly full: {room_left}", fix)
        else:
            yield ok(room_left)


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def writing(target: Target) -> Iterator[Finding]:
    """Can a file be written in every folder that is written to?"""
    written = []
    for folder in _folders(target).values():
        path = shlex.quote(str(folder))
        try:
            with tempfile.TemporaryFile(dir=folder) as file:
                file.write(bytes(2**16))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            mends = {
                errno.EROFS: f"mount -o remount,rw {shlex.quote(_mount_point(folder))}",
                errno.ENOSPC: "with nothing running, make clean",
                errno.EDQUOT: "with nothing running, make clean",
            }
            yield fault(f"{folder} cannot be written: {reason}", mends.get(error.errno or 0, f"chmod u+rwx {path}"))
        else:
            written.append(str(folder))
    if written:
        yield ok(f"{', '.join(written)} can be written")


def _mount_point(folder: Path) -> str:
    return next(str(above) for above in [folder, *folder.parents] if above.is_mount())


def mount(path: Path, text: str) -> tuple[str, str]:
    """Return mount point and type of the file system that a path lies on, by the text of /proc/self/mountinfo."""
    best = ("/", "")
    for line in text.splitlines():
        before, sign, after = line.partition(" - ")
        words = before.split(" ")
        if not sign or len(words) < 5:
            continue
        # Blanks and the like are written in octal there.
        point = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), words[4])
        # Of two on one point, the later lies on top.
        if path.is_relative_to(point) and len(point) >= len(best[0]):
            best = (point, after.split(" ")[0])
    return best


def network(target: Target) -> Iterator[Finding]:
    """Do databases and locks lie on a disk of this machine? Of another, SQLite's locks do not hold."""
    if not MOUNTS.is_file():
        yield ok("this system does not list what is mounted")
        return
    point, kind = mount(_nearest(target.shared_root).resolve(), MOUNTS.read_text(encoding="utf-8", errors="replace"))
    if not REMOTE.search(kind):
        yield ok(f"{kind or 'unknown'} at {point}")
        return
    files = [name for name in ("mlflow", "optuna") if database(target, name) is not None]
    mounted = f"{target.shared_root} lies on a network file system ({kind} at {point})"
    local = "move the project to a local disk"
    if files:
        yield fault(
            f"{mounted}, where the locks of SQLite ({', '.join(files)}) do not hold",
            f"{local}, or set MLFLOW_TRACKING_URI to a server and CAVE_OPTUNA_URL to a PostgreSQL",
        )
    else:
        yield warning(f"{mounted}: some of these do not keep locks between machines", f"{local} if locks fail")


def leftovers(target: Target) -> Iterator[Finding]:
    """Have killed writers left temporary files behind?"""
    paths = sorted(
        {path for folder in (target.cache, target.out) if folder is not None for path in _temporary_files(folder)}
    )
    if not paths:
        yield ok("no temporary files of killed writers")
        return
    few = paths[:NAMED]  # a line that is too long would be cut, perhaps within a name
    names = " ".join(shlex.quote(str(path)) for path in few)
    again = "; then `cave doctor` again" if len(paths) > NAMED else ""
    message = f"{plural(len(paths), 'temporary file')} of killed writers, such as {paths[0].name}"
    yield warning(message, f"rm -rf -- {names}{again}")


def _temporary_files(folder: Path) -> Iterator[Path]:
    for at, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            path = Path(at) / name
            if is_temporary(name) and time.time() - path.lstat().st_mtime > OLD:
                yield path
                if name in folders:
                    folders.remove(name)
