"""A finding: how bad it is, what it is about, what was found, and the command that mends it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.errors import InputError
from pipeline.redaction import one_line
from pipeline.study import Study, active

__all__ = ["Check", "Finding", "Place", "examine", "fault", "ok", "table", "warning"]

Level = Literal["ok", "warning", "fault"]


@dataclass(frozen=True)
class Place:
    """A study's folders, as far as they are known: its parameters may be what is broken."""

    root: Path  # of the project
    folder: Path  # that holds params.yaml
    store: Path  # where databases and caches lie
    out: Path | None  # of the outputs

    @property
    def cache(self) -> Path:
        """Downloads, locks, states of unfinished work."""
        return self.store / ".cache"

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
    found: str
    mend: str = ""


Check = Callable[[Place], Iterator[Finding]]


def ok(found: str) -> Finding:
    """Say that all is well."""
    return Finding("ok", found)


def warning(found: str, mend: str) -> Finding:
    """Say what does not stop the work."""
    return Finding("warning", found, mend)


def fault(found: str, mend: str) -> Finding:
    """Say what does."""
    return Finding("fault", found, mend)


def examine(checks: Mapping[str, Check], place: Place) -> Iterator[tuple[str, Finding]]:
    """Yield what each check finds, under its name, as it finds it."""
    for name, check in checks.items():
        try:
            yield from ((name, finding) for finding in check(place))
        except Exception as error:  # a check that is broken must not hide the others
            yield name, warning(f"this check itself failed: {type(error).__name__}: {error}", "report it")


def table(name: str, finding: Finding) -> str:
    """Write a finding as a line of columns."""
    mend = f"; mend: {finding.mend}" if finding.mend else ""  # never cut short: it is a command
    return one_line(f"{finding.level:8s} {name:12s} {finding.found}") + " ".join(mend.splitlines())
