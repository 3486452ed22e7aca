"""All studies of a project as a table: how each is run, what is special about it, how far it is, and what came out."""

from __future__ import annotations

import json
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import InputError
from pipeline.evaluations import Evaluation, changed_settings, retrained
from pipeline.study import Study, active
from pipeline.text import align_columns, plural, terminal_width

__all__ = ["names", "rows", "table"]

HEADER = ("study", "run by", "data", "state", "best nll (nats)", "date", "settings")
SHOWN = 4  # variants by their names, settings that differ
LEAST = 16  # columns that the settings need in a table
SECTIONS = ("model", "train", "data", "sweep", "evaluate", "report")  # in the order in which settings are shown
INACTIVE = ", inactive"
OUTDATED = ", settings changed since"
STATES = ("not run", "searched", "trained", "evaluated")


@dataclass(frozen=True)
class Row:
    """A study in the list."""

    name: str
    how: str  # what runs it
    data: str = ""
    state: str = ""
    nll: str = ""
    date: str = ""
    settings: str = ""

    broken: bool = False

    @property
    def cells(self) -> list[str]:
        """The cells in the order of `HEADER`."""
        return [self.name, self.how, self.data, self.state, self.nll, self.date, self.settings]


def names(root: Path) -> list[str]:
    """Return the names of the studies in `experiments/`, whether their parameters are sound or not."""
    return sorted(
        path.parent.name for path in (root / "experiments").glob("*/params.yaml") if path.parent.name[0] != "."
    )


def rows(root: Path) -> list[Row]:
    """Return the root's own study and all others; one whose files cannot be read has the reason as its state."""
    try:
        default, own = Study.at(root), [_row(root, root, None)]
    except InputError as error:
        default, own = None, [Row("(root)", "dvc repro", state=f"broken: {error}", broken=True)]
    for name in names(root):
        folder = root / "experiments" / name
        if default is not None and default.out == folder.resolve():
            continue
        how = _how(folder, root)
        try:
            own.append(_row(root, folder, default))
        except InputError as error:
            own.append(Row(name, how, state=f"broken: {error}", broken=True))
    return own


def table(studies: list[Row]) -> str:
    """Return the list as text, aligned; where a line does not fit into the terminal, a block a study."""
    width = terminal_width()
    sound = [list(row.cells) for row in studies if not row.broken]
    lines = align_columns([list(HEADER), *sound])
    room = width - max(map(len, align_columns([list(HEADER[:-1]), *(cells[:-1] for cells in sound)]))) - 2
    inactive = next((row.name for row in studies if row.how.endswith(INACTIVE)), None)
    hint = (
        [f"\nDVC passes over an inactive study until, for example: cave study activate {inactive}"] if inactive else []
    )
    if room < LEAST:
        return "\n".join(["\n\n".join("\n".join([row.name, *_block(row, width)]) for row in studies), *hint])
    lines = align_columns([list(HEADER), *([*cells[:-1], _cut(cells[-1], room)] for cells in sound)])
    return "\n".join([*lines, *(f"{row.name}  {row.state}" for row in studies if row.broken), *hint])


def _cut(text: str, width: int) -> str:
    return textwrap.shorten(text, width, placeholder=" ...")


def _block(row: Row, width: int) -> list[str]:
    """Return what is known of a study as a name and a value a line."""
    pairs = [(key, cell) for key, cell in zip(HEADER[1:], row.cells[1:], strict=True) if cell]
    first = max(len(key) for key, _ in pairs) + 4
    return [
        line
        for key, cell in pairs
        for line in textwrap.wrap(
            cell, max(width, 2 * first), initial_indent=f"  {key}".ljust(first), subsequent_indent=" " * first
        )
    ]


def _row(root: Path, folder: Path, default: Study | None) -> Row:
    study = Study.at(folder)
    steps = {variant: _step(study, variant) for variant in study.params.variants}
    least = min(steps.values())
    most = max(steps.values())
    count = sum(step == most for step in steps.values())
    state = STATES[most] if least == most else f"{STATES[most]} {count} of {len(steps)}"
    if any(changed_settings(study, variant) for variant, step in steps.items() if step == STATES.index("evaluated")):
        state += OUTDATED
    return Row(
        name=study.name,
        how=_how(folder, root),
        data=study.params.data.name,
        state=state,
        nll=_best(study, [variant for variant, step in steps.items() if step == 3]),
        date=_date(study),
        settings=_settings(study, default),
    )


def _how(folder: Path, root: Path) -> str:
    """Say what runs a study: DVC, which passes over one that nobody has activated, or a command by hand."""
    if folder != root and not (folder / "dvc.yaml").exists():
        return "by hand"
    return "dvc repro" if active(folder) else f"dvc repro{INACTIVE}"


def _step(study: Study, variant: str) -> int:
    """Return how far a variant is, as a place in `STATES`."""
    if study.decomposition(variant).exists() and not retrained(study, variant):
        return 3
    seeds = study.params.variant(variant).train.seeds
    if all((study.train(variant) / f"seed-{seed}" / "model.json").exists() for seed in seeds):
        return 2
    return 1 if (study.sweep(variant) / "best.json").exists() else 0


def _best(study: Study, variants: list[str]) -> str:
    """Return the lowest mean nll and its variant; of what was measured by different protocols none is the best."""
    values: dict[str, list[float]] = {}
    protocols = []
    for variant in variants:
        if (evaluation := Evaluation.of(study, variant)) and "nll" in evaluation.numbers:
            values[variant] = [value for value, _ in evaluation.numbers["nll"].values()]
            protocols.append((evaluation.protocol, study.params.variant(variant).measure))
    if not values:
        return ""
    if any(protocol != protocols[0] for protocol in protocols):
        return "not comparable"
    best = min(values, key=lambda variant: sum(values[variant]) / len(values[variant]))
    mean = sum(values[best]) / len(values[best])
    return f"{mean:.2f} {best}" if abs(mean) < 1e6 else f"{mean:.3g} {best}"


def _date(study: Study) -> str:
    """Return the day of the latest result."""
    results = [*study.out.glob("sweep/*/best.json"), *study.out.glob("train/*/seed-*/model.json")]
    results += study.out.glob("evaluate/*/decomposition.json")
    latest = max((path.stat().st_mtime for path in results), default=None)
    return "" if latest is None else time.strftime("%Y-%m-%d", time.localtime(latest))


def _settings(study: Study, default: Study | None) -> str:
    """Say in short which variants a study has and which of its settings are others than the root's."""
    params, searched = study.params, study.sweep(next(iter(study.params.variants))).exists() or not study.is_standalone
    many = len(params.variants) > SHOWN
    variants = plural(len(params.variants), "variant") if many else ", ".join(params.variants)
    if default is None:
        return variants
    root = default.params
    own, theirs = params.flat(), root.flat()
    left_out = [
        "data.name",
        "sweep.space",
        "report.published",
        *(path for path in own if path.startswith("sweep.") and not searched),
    ]
    changed = {path: value for path, value in own.items() if theirs.get(path) != value and path not in left_out}
    order = sorted(changed, key=lambda path: SECTIONS.index(path.split(".")[0]))
    shown = [f"{path}={_short(changed[path])}" for path in order[:SHOWN]]
    more = [f"and {len(order) - SHOWN} more"] if len(order) > SHOWN else []
    same = list(params.variants) == list(root.variants)
    return " ".join([*([] if same else [f"{variants}:" if shown else variants]), ", ".join(shown), *more]).strip()


def _short(value: Any) -> str:
    text = json.dumps(value) if isinstance(value, tuple) else f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 24 else text[:21] + "..."
