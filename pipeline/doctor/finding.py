"""A finding: its level, what was found, and the command that fixes it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.errors import InputError
from pipeline.redaction import one_line
from pipeline.study import Study, active

__all__ = ["Check", "Finding", "Target", "examine", "fault", "ok", "table", "warning"]

Level = Literal["ok", "warning", "fault"]


@dataclass(frozen=True)
class Target:
    """A study's folders, as far as they are known: its parameters may be what is broken."""

    root: Path  # of the project
    folder: Path  # that holds params.yaml
    shared_root: Path  # where databases and caches lie
    out: Path | None  # of the outputs

    @property
    def cache(self) -> Path:
        """Downloads, locks, states of unfinished work."""
        return self.shared_root / ".cache"

    @property
    def again(self) -> str:
        """The command that goes on with the study's work."""
        if self.folder == self.root:
            return "dvc repro"
        if not (self.folder / "dvc.yaml").exists():
            try:
                return Study.at(self.folder).command("report")
            except InputError:  # which another check says
                return "cave study list"
        first = "" if active(self.folder) else f"cave study activate {self.folder.name} && "
        return f"{first}dvc repro {self.folder}/dvc.yaml"


@dataclass(frozen=True)
class Finding:
    """What a check found: a fault stops the work, a warning does not."""

    level: Level
    message: str
    fix: str = ""


Check = Callable[[Target], Iterator[Finding]]


def ok(message: str) -> Finding:
    """Say that all is well."""
    return Finding("ok", message)


def warning(message: str, fix: str) -> Finding:
    """Say what does not stop the work."""
    return Finding("warning", message, fix)


def fault(message: str, fix: str) -> Finding:
    """Say what does."""
    return Finding("fault", message, fix)


def examine(checks: Mapping[str, Check], target: Target) -> Iterator[tuple[str, Finding]]:
    """Yield what each check finds, under its name, as it finds it."""
    for name, check in checks.items():
        try:
            yield from ((name, finding) for finding in check(target))
        except Exception as error:  # a check that is broken must not hide the others
            yield name, warning(f"this check itself failed: {type(error).__name__}: {error}", "report it")


def table(name: str, finding: Finding) -> str:
    """Write a finding as a line of columns."""
    fix = f"; fix: {finding.fix}" if finding.fix else ""  # never cut short: it is a command
    return one_line(f"{finding.level:8s} {name:12s} {finding.message}") + " ".join(fix.splitlines())
