"""All studies of a project as a table: how each is run, what is special about it, how far it is, and what came out."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import InputError
from pipeline.files import read_json
from pipeline.params import Params
from pipeline.study import Study
from pipeline.text import columns, terminal_width

__all__ = ["Row", "names", "rows", "table"]

HEADER = ("study", "run by", "data", "state", "best nll (nats)", "date", "settings")
SHOWN = 3  # settings that differ
SECTIONS = ("model", "train", "data", "sweep", "evaluate", "report")  # in the order in which settings are shown
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
        default, own = None, [Row("(root)", "dvc repro", state=f"broken: {error}")]
    for name in names(root):
        folder = root / "experiments" / name
        if default is not None and default.out == folder.resolve():
            continue
        how = "dvc repro" if (folder / "dvc.yaml").exists() else "by hand"
        try:
            own.append(_row(root, folder, default))
        except InputError as error:
            own.append(Row(name, how, state=f"broken: {error}"))
    return own


def table(found: list[Row]) -> str:
    """Return the list as text, aligned; where a line does not fit into the terminal, a block a study."""
    lines = columns([HEADER, *(row.cells for row in found if not _broken(row))])
    broken = [f"{row.name}  {row.state}" for row in found if _broken(row)]
    if max(map(len, lines)) <= terminal_width():
        return "\n".join([*lines, *broken])
    return "\n\n".join("\n".join([row.name, *_block(row)]) for row in found)


def _block(row: Row) -> list[str]:
    return columns([[f"  {key}", cell] for key, cell in zip(HEADER[1:], row.cells[1:], strict=True) if cell])


def _broken(row: Row) -> bool:
    return row.state.startswith("broken")


def _row(root: Path, folder: Path, default: Study | None) -> Row:
    study = Study.at(folder)
    steps = {variant: _step(study, variant) for variant in study.params.variants}
    least = min(steps.values())
    most = max(steps.values())
    count = sum(step == most for step in steps.values())
    state = STATES[most] if least == most else f"{STATES[most]} ({count} of {len(steps)} variants)"
    return Row(
        name=study.name,
        how="by hand" if study.by_hand else "dvc repro",
        data=study.params.data.name,
        state=state,
        nll=_best(study, [variant for variant, step in steps.items() if step == 3]),
        date=_date(study),
        settings=_settings(study.params, None if default is None else default.params),
    )


def _step(study: Study, variant: str) -> int:
    """Return how far a variant is, as a place in `STATES`."""
    if (study.evaluate(variant) / "decomposition.json").exists():
        return 3
    seeds = study.params.variant(variant).train.seeds
    if all((study.train(variant) / f"seed-{seed}" / "model.json").exists() for seed in seeds):
        return 2
    return 1 if (study.sweep(variant) / "best.json").exists() else 0


def _best(study: Study, variants: list[str]) -> str:
    """Return the lowest mean nll and its variant; of what was measured by different protocols none is the best."""
    found: dict[str, list[float]] = {}
    protocols = []
    for variant in variants:
        path = study.evaluate(variant) / "decomposition.json"
        content = read_json(path, "protocol", "seeds")
        try:
            found[variant] = [float(seed["test/nll"]["value"]) for seed in content["seeds"].values()]
        except (AttributeError, KeyError, TypeError, ValueError):
            raise InputError(f"{path.relative_to(study.root)}: damaged") from None
        protocols.append((content["protocol"], study.params.variant(variant).model.likelihood))
    if not found:
        return ""
    if any(protocol != protocols[0] for protocol in protocols):
        return "not comparable"
    best = min(found, key=lambda variant: sum(found[variant]) / len(found[variant]))
    return f"{sum(found[best]) / len(found[best]):.2f} {best}"


def _date(study: Study) -> str:
    """Return the day of the latest result."""
    found = [*study.out.glob("sweep/*/best.json"), *study.out.glob("train/*/seed-*/model.json")]
    found += study.out.glob("evaluate/*/decomposition.json")
    latest = max((path.stat().st_mtime for path in found), default=None)
    return "" if latest is None else time.strftime("%Y-%m-%d", time.localtime(latest))


def _settings(params: Params, root: Params | None) -> str:
    """Say in short which variants a study has and which of its settings are others than the root's."""
    variants = ", ".join(params.variants)
    if root is None:
        return variants
    own, theirs = params.flat(), root.flat()
    left_out = ("data.name", "sweep.space", "report.published")
    changed = {path: value for path, value in own.items() if theirs.get(path) != value and path not in left_out}
    order = sorted(changed, key=lambda path: SECTIONS.index(path.split(".")[0]))
    told = [f"{path}={_short(changed[path])}" for path in order[:SHOWN]]
    more = [f"and {len(order) - SHOWN} more"] if len(order) > SHOWN else []
    same = list(params.variants) == list(root.variants)
    return " ".join([*([] if same else [f"{variants}:" if told else variants]), ", ".join(told), *more]).strip()


def _short(value: Any) -> str:
    text = str(list(value)) if isinstance(value, tuple) else f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 24 else text[:21] + "..."
