"""The installation: Python, libraries against their pins, the variables that say how work is done, the device."""

from __future__ import annotations

import os
import platform
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

from pipeline import processes
from pipeline.doctor.finding import Finding, Target, fault, ok, warning
from pipeline.environment import Resources, crash_request
from pipeline.errors import InputError
from pipeline.text import plural

__all__ = ["device", "libraries", "python", "variables"]

SHOWN = 4  # libraries named in a line


def python(target: Target) -> Iterator[Finding]:
    """Is Python new enough, and the system one that locks and worker processes know?"""
    from packaging.specifiers import SpecifierSet

    required = tomllib.loads((target.root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["requires-python"]
    version_here = platform.python_version()
    if os.name != "posix":
        yield fault(f"{platform.system()} has no POSIX locks", "run it on Linux or macOS")
    elif not SpecifierSet(required).contains(version_here, prereleases=True):
        yield fault(f"{version_here}, but {required} is needed", "make env PYTHON=python3.12")
    else:
        yield ok(f"{version_here} in {sys.prefix}")


def libraries(target: Target) -> Iterator[Finding]:
    """Are the libraries installed that pyproject.toml asks for, in the versions that constraints.txt pins?"""
    from packaging.requirements import Requirement

    project = tomllib.loads((target.root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    missing, unfit = [], []
    for text in project["dependencies"]:
        needed = Requirement(text)
        installed = _version(needed.name)
        if installed is None:
            missing.append(needed.name)
        elif not needed.specifier.contains(installed, prereleases=True):
            unfit.append(f"{needed.name} {installed} ({needed.specifier} is needed)")
    path = target.root / "constraints.txt"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    pins = dict(line.split("==", 1) for line in lines if "==" in line and not line.startswith("#"))
    # A build of one's own, torch 2.13.0+cpu, is that version.
    differ = [
        f"{name} {installed} ({pin.strip()})"
        for name, pin in pins.items()
        if (installed := _version(name)) is not None and installed.partition("+")[0] != pin.strip().partition("+")[0]
    ]
    install = f"{sys.executable} -m pip install --constraint constraints.txt --editable ."
    if missing:
        yield fault(f"missing: {', '.join(missing)}", install)
    if unfit:
        yield fault(f"of the wrong version: {', '.join(unfit)}", install)
    if differ:
        more = f" and {len(differ) - SHOWN} more" if len(differ) > SHOWN else ""
        yield warning(f"not as pinned: {', '.join(differ[:SHOWN])}{more}; numbers may differ", install)
    if not missing and not unfit and not differ:
        yield ok(f"{len(project['dependencies'])} needed are there, {len(pins)} pins are kept")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def variables(target: Target) -> Iterator[Finding]:
    """Do the variables that count say numbers?"""
    resources, errors = Resources.read_valid()
    for error in errors:
        yield fault(str(error), f"unset {str(error).partition(':')[0]}")
    crash, _ = crash_request()
    if crash:
        yield warning("CAVE_FAULT is set, by which tests kill processes", "unset CAVE_FAULT")
    if not errors and not crash:
        yield ok(f"{plural(processes.worker_count(10_000, resources), 'worker')} at most")


def device(target: Target) -> Iterator[Finding]:
    """Can the device be used that CAVE_DEVICE names?"""
    try:
        yield ok(str(processes.device(Resources.read_valid()[0].device)))
    except InputError as error:
        yield fault(str(error), "unset CAVE_DEVICE")
