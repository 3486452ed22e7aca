"""A run of the benchmark: its rows, the machine and the versions, as a file and as a table beside the kept one."""

from __future__ import annotations

import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from experiments.speed.ratio import Row
from pipeline.files import read_json, write_json
from pipeline.processes.machine import cores
from pipeline.run_folders.git import git
from pipeline.run_folders.provenance import machine

__all__ = ["Result", "change", "table"]

BUSY = 0.5  # load of the last minute above which other work runs beside


@dataclass
class Result:
    """What was measured, where and with what."""

    machine: dict[str, Any]
    scope: dict[str, Any]  # sizes and repetitions
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # what was left out, and why

    @classmethod
    def begin(cls, root: Path, scope: dict[str, Any]) -> Result:
        """Look at the machine before the first measurement."""
        commit = git(root, "rev-parse", "--short", "HEAD") or b"none"
        found: dict[str, Any] = {"date": time.strftime("%Y-%m-%d"), "commit": commit.decode().strip()}
        found |= machine(torch.device("cpu"))
        del found["device"], found["threads"]
        load = os.getloadavg()[0]
        found |= {"cores": cores(), "load": round(load, 2), "busy": load > BUSY}
        return cls(found, scope)

    @classmethod
    def read(cls, path: Path) -> Result | None:
        """Return the run that a file holds, or nothing where there is no file."""
        if not path.exists():
            return None
        found = read_json(path, "machine", "scope", "rows", "notes")
        return cls(found["machine"], found["scope"], [Row(**row) for row in found["rows"]], found["notes"])

    def write(self, path: Path) -> None:
        """Write the file."""
        write_json(path, asdict(self))

    @property
    def head(self) -> list[str]:
        """The machine and the versions, in lines; a warning where the machine was busy."""
        versions = [
            f"{name.removeprefix('version/')} {word}"
            for name, word in self.machine.items()
            if name.startswith("version/")
        ]
        lines = [
            f"{self.machine['cpu']}, {self.machine['cores']} cores, {self.machine['platform']}",
            f"{', '.join(versions)}; commit {self.machine['commit']}, {self.machine['date']}",
            f"load at the start {self.machine['load']}; {', '.join(f'{name} {n}' for name, n in self.scope.items())}",
        ]
        if self.machine["busy"]:
            lines.append("WARNING: the machine was busy at the start: these ratios are not to be relied upon")
        return lines


def change(row: Row, kept: Row | None) -> str:
    """Say how a ratio differs from the kept one: better or worse only where their ranges do not meet."""
    if kept is None:
        return "new"
    percent = f"{100 * (row.ratio / kept.ratio - 1):+.0f}%"
    if row.low <= kept.high and kept.low <= row.high:
        return f"{percent} within"
    return f"{percent} {'better' if (row.ratio > kept.ratio) == (row.better == 'more') else 'WORSE'}"


def table(result: Result, kept: Result | None) -> str:
    """Return all rows beside the kept ones, in text."""
    before = {row.key: row for row in kept.rows} if kept else {}
    lines = [*result.head]
    if kept and any(kept.machine[name] != result.machine[name] for name in ("cpu", "cores")):
        lines.append(f"kept: of another machine, {kept.machine['cpu']}, {kept.machine['cores']} cores")
    if kept and kept.scope != result.scope:
        lines.append(f"kept: of another size, {', '.join(f'{name} {n}' for name, n in kept.scope.items())}")
    cells = [("ratio", "median", "range", "kept", "change", "medians of both sides")]
    cells += [_cells(row, before.get(row.key), bool(kept)) for row in result.rows]
    widths = [max(len(line[column]) for line in cells) for column in range(5)]
    lines.append("")
    for line in cells:
        numbers = [cell.rjust(width) for cell, width in zip(line[1:5], widths[1:], strict=True)]
        lines.append("  ".join([line[0].ljust(widths[0]), *numbers, line[5]]))
    return "\n".join([*lines, *result.notes])


def _cells(row: Row, kept: Row | None, compared: bool) -> tuple[str, ...]:
    sides = ", ".join(f"{name} {_short(value)}" for name, value in row.figures.items())
    return (
        row.key,
        f"{row.ratio:.2f}",
        f"{row.low:.2f}-{row.high:.2f}",
        f"{kept.ratio:.2f}" if kept else "-",
        change(row, kept) if compared else "-",
        f"{sides} {row.unit}",
    )


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
