"""`cave runs`: the runs of a study as a table, and the best of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.evaluations import Evaluation, retrained
from pipeline.files import read_csv, read_json
from pipeline.report.intervals import fixed
from pipeline.study import Study
from pipeline.text import align_columns, terminal_width

__all__ = ["Run", "best_of", "run_table", "runs"]

HEADER = ("variant", "of", "value", "run", "epoch", "time", "model")


@dataclass(frozen=True)
class Run:
    """A final model's run, or, where none was trained, a trial's."""

    study: str
    variant: str
    stage: str
    number: int  # the seed of a training, the number of a trial
    run: str
    metric: str
    value: float | None  # null before it is measured
    se: float | None
    epoch: int | None  # whose weights are kept
    seconds: float | None
    model: str | None  # the folder of the weights


def runs(study: Study) -> list[Run]:
    """Return the runs of a study's final models, and of the trials of variants that have none."""
    listed: list[Run] = []
    for variant in study.params.variants:
        trained = _trained(study, variant)
        listed += trained or _trials(study, variant)
    return listed


def _trained(study: Study, variant: str) -> list[Run]:
    """Return a variant's final models; one that was trained again after the evaluation is not measured."""
    rows = []
    evaluation, outdated = Evaluation.of(study, variant), retrained(study, variant)
    numbers = evaluation.numbers.get("nll", {}) if evaluation else {}
    for seed in study.params.variant(variant).train.seeds:
        folder = study.train(variant) / f"seed-{seed}"
        if not (folder / "mlflow.json").is_file():
            continue
        about = read_json(folder / "model.json", "best_epoch", "seconds")
        value, se = (None, None) if seed in outdated else numbers.get(seed, (None, None))
        run = str(read_json(folder / "mlflow.json", "run")["run"] or "")
        location = str(folder.relative_to(study.root)) if folder.is_relative_to(study.root) else str(folder)
        rows.append(
            Run(
                study.name,
                variant,
                "train",
                seed,
                run,
                "nll",
                value,
                se,
                about["best_epoch"],
                about["seconds"],
                location,
            )
        )
    return rows


def _trials(study: Study, variant: str) -> list[Run]:
    path = study.sweep(variant) / "trials.csv"
    return [
        Run(
            study=study.name,
            variant=variant,
            stage="trial",
            number=int(row["number"]),
            run=row["run_id"],
            metric=row["metric"],
            value=float(row["value"]) if row["value"] else None,
            se=None,
            epoch=None,
            seconds=float(row["seconds"]) if row["seconds"] else None,
            model=None,
        )
        for row in (read_csv(path) if path.is_file() else [])
    ]


def best_of(runs: Sequence[Run]) -> list[Run]:
    """Return each variant's run of the lowest nll, or of a search the highest metric; the very best comes first."""
    ordered = sorted((run for run in runs if run.value is not None), key=_rank)
    return list({run.variant: run for run in reversed(ordered)}.values())[::-1]


def _rank(run: Run) -> tuple[bool, float]:
    value = run.value or 0.0
    return run.stage == "trial", value if run.stage == "train" else -value


def run_table(study: Study, runs: Sequence[Run]) -> str:
    """Return the runs as a table; a terminal that is too narrow for it gets fewer columns."""
    if not runs:
        return f"study {study.name} has no runs yet; `{study.command('report')}` makes them"
    rows = [HEADER, *(_cells(run) for run in runs)]
    for columns in range(len(HEADER), 3, -1):
        lines = align_columns([row[:columns] for row in rows])
        if max(map(len, lines)) <= terminal_width():
            return "\n".join(lines)
    # Eight letters of an id are enough for `cave compare`.
    return "\n".join(align_columns([(*row[:2], row[2].partition(" (")[0], row[3][:8]) for row in rows]))


def _cells(run: Run) -> tuple[str, ...]:
    value = "not measured" if run.value is None else f"{run.metric} {fixed(run.value, 3)}"
    error = "" if run.se is None else f" (se {run.se:.4f})"
    return (
        run.variant,
        f"{'seed' if run.stage == 'train' else 'trial'} {run.number}",
        value + error,
        run.run,
        "" if run.epoch is None else str(run.epoch),
        "" if run.seconds is None else f"{run.seconds:.0f} s",
        run.model or "",
    )
