"""A project's present results as tables."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from pipeline.cli import run_list
from pipeline.cli.common import existing_study
from pipeline.report import inputs
from pipeline.report.frames import frame

if TYPE_CHECKING:
    from pipeline.report.frames import DataFrame

__all__ = ["results", "runs"]

RUNS = dict.fromkeys(["study", "variant", "stage", "run", "metric", "model"], "str")
RUNS |= dict.fromkeys(["number", "epoch"], "Int64") | dict.fromkeys(["value", "se", "seconds"], "float64")
ORDER = ("study", "variant", "stage", "number", "run", "metric", "value", "se", "epoch", "seconds", "model")
RESULTS = {"variant": "str", "seed": "int64", "depth": "int64", "metric": "str", "term": "str", "level": "str"}
RESULTS |= {"value": "float64", "se": "float64", "unit": "str"}


def runs(study: str | None = None) -> DataFrame:
    """Return the runs of a study's present results, those that `cave runs` shows: a row a final model, or a trial.

    Without a name it is the study of the params.yaml around the working directory.

        cave.runs("default").sort_values("value")[["variant", "number", "value", "se", "run"]]

    Raises:
        InputError: there is no such study.
    """
    rows = [asdict(run) for run in run_list.runs(existing_study(study))]
    return frame(rows, {name: RUNS[name] for name in ORDER})


def results(study: str | None = None) -> DataFrame:
    """Return every number of an evaluated study as a tidy table: a row per variant, seed and metric.

    Columns are `variant`, `seed`, `depth`, `metric`, the parts `term` and `level` of its name, `value`, its Monte Carlo
    standard error `se`, and its `unit`.

        cave.results("default").query("metric == 'nll'").groupby("variant").value.mean()

    Raises:
        InputError: there is no such study, or a stage of it has not run.
    """
    return inputs.results(existing_study(study)).astype(RESULTS)
