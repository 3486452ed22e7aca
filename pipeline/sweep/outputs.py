"""What the searches of a variant leave behind: `trials.csv`, `best.json`, `mlflow.json` and the plots."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState

from pipeline import figures
from pipeline.environment import set_defaults
from pipeline.errors import RunError
from pipeline.files import csv_text, json_text, write_csv, write_json
from pipeline.log import Record
from pipeline.metric import BEST, VALUE
from pipeline.params import digest
from pipeline.sweep.compat import internal
from pipeline.sweep.search import FINISHED, Sweep, short, terms
from pipeline.text import by_level
from pipeline.tracking import Run

__all__ = ["Outcome", "publish", "write", "write_nothing"]

MAP = "depth_width"  # the one figure that every search has
PLANE = ("valid/kl", "valid/reconstruction")  # of a trial's best epoch; of a pruned one, of those that it ran


@dataclass(frozen=True)
class Outcome:
    """The trials of a finished search and their MLflow runs."""

    sweep: Sweep
    trials: list[FrozenTrial]
    runs: dict[str, str | None]  # the MLflow run of each trial, by its number

    @classmethod
    def of(cls, sweep: Sweep) -> Outcome:
        """Read it from the stores."""
        trials = [trial for trial in sweep.trials() if trial.state in FINISHED]
        return cls(sweep, trials, _runs(sweep, trials))

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The rows of `trials.csv`."""
        search, metric = self.sweep.search, self.sweep.metric
        return [{"search": search, **_row(trial, metric, self.runs[str(trial.number)])} for trial in self.trials]

    @property
    def top(self) -> FrozenTrial:
        """The best trial; a search that has completed none raises `RunError`."""
        complete = [trial for trial in self.trials if trial.state == TrialState.COMPLETE]
        if not complete:
            reasons = ((t.number, t.user_attrs["reason"]) for t in self.trials if "reason" in t.user_attrs)
            first = next((f"; trial {number}: {reason}" for number, reason in reasons), "")
            raise RunError(
                f"sweep {self.sweep.name}: no trial was completed, of {len(self.trials)}{first};"
                " see the runs' tag 'reason' in MLflow"
            )
        return max(complete, key=lambda trial: trial.values[0])

    @property
    def best(self) -> dict[str, Any]:
        """The entry of `best.json`, with the measure of the likelihood that the trials were compared by."""
        sweep, top = self.sweep, self.top
        measure = sweep.study.params.variant(sweep.variant).override(top.params).measure
        best = {"optuna_study": sweep.name, "trial": top.number, "params": top.params}
        best |= {"metric": sweep.metric, "value": top.value, "measure": measure}
        return best | {"importances": _importances(sweep)}

    @property
    def tracked(self) -> dict[str, Any]:
        """The entry of `mlflow.json`."""
        run = internal(self.sweep.optuna, "mlflow_run_id")
        experiment = self.sweep.tracker.experiment_id
        return {"experiment": experiment, "run": run, "key": self.sweep.key, "trials": self.runs}


def publish(sweep: Sweep, parent: Run) -> Outcome:
    """Draw the plots of one finished search, and log them, its table and its best trial in its run."""
    outcome = Outcome.of(sweep)
    best, top = outcome.best, outcome.top
    pictures = _figures(outcome)
    # Tags too: a search that is extended may find a better trial, and parameters cannot change.
    chosen = {
        f"best/{path}": short(value)
        for path, value in {"trial": top.number, "metric": sweep.metric, **top.params}.items()
    }
    for record in _history(outcome):
        parent.log_record(record)
    parent.set_params(top.params)
    widths = sweep.base.override(top.params).model.level_units(sweep.splits.shape)
    shape = {"depth": len(widths), "latent_dim": sum(widths), "widths": by_level(widths, "-")}
    parent.set_tags(chosen | {name: str(value) for name, value in shape.items()})
    # The files in the study's folder are of all searches.
    tables = {"trials.csv": csv_text(outcome.rows), "best.json": json_text({"searches": [best]})}
    contents = {name: text.encode() for name, text in tables.items()}
    parent.log_result("best", digest([best, outcome.runs]), {0: terms(top)}, {"figures": pictures}, contents)
    return outcome


def _history(outcome: Outcome) -> Iterator[Record]:
    """Yield what each trial has reached, and the best of all trials so far, with the trial's number as the epoch."""
    best = -math.inf
    for trial in outcome.trials:
        value = terms(trial).get(outcome.sweep.metric)
        if value is None or trial.datetime_complete is None:
            continue
        metrics = {VALUE: value}
        if trial.state == TrialState.COMPLETE:
            best = max(best, value)
        if best > -math.inf:
            metrics[BEST] = best
        # Of a time that never changes, so that logging it again changes nothing.
        yield Record(trial.number, 0, 0.0, int(trial.datetime_complete.timestamp() * 1000), metrics)


def write(outcome: Outcome) -> None:
    """Write the files of all searches of the variant, of which this is the last one; the others are finished."""
    own = outcome.sweep
    folder = own.study.sweep(own.variant)
    every = [outcome if sweep is own else Outcome.of(sweep) for sweep in own.searches()]
    write_csv(folder / "trials.csv", [row for search in every for row in search.rows])
    write_json(folder / "best.json", {"searches": [search.best for search in every]})
    write_json(folder / "mlflow.json", {"searches": [search.tracked for search in every]})
    for search in every:
        if search is not outcome and not _is_drawn(search):
            _figures(search)  # another host has published it
    for path in (folder / "figures").glob("*"):  # those of another number of searches go
        prefixes = tuple(_prefix(search.sweep) for search in every)
        if not path.name.startswith(prefixes) or (len(every) == 1 and path.name.startswith("search-")):
            path.unlink(missing_ok=True)


def _runs(sweep: Sweep, trials: list[FrozenTrial]) -> dict[str, str | None]:
    """Return the MLflow run of every trial; one that was sent to MLflow later is looked up there."""
    run_ids = {str(trial.number): internal(trial, "mlflow_run_id") for trial in trials}
    if None in run_ids.values():
        reachable = not sweep.tracker.backlog.publish_all(seconds=60.0).failed
        logged = sweep.tracker.run_ids(f"{sweep.key}/") if reachable else {}
        run_ids = {number: run or logged.get(f"{sweep.key}/{number}") for number, run in run_ids.items()}
    return run_ids


def write_nothing(sweep: Sweep) -> list[dict[str, Any]]:
    """Write the outputs of a search over nothing: no trials, no run, no settings but the variant's own."""
    folder = sweep.study.sweep(sweep.variant)
    write_csv(folder / "trials.csv", [])
    best: dict[str, Any] = {"optuna_study": None, "trial": None, "params": {}}
    best |= {"metric": sweep.metric, "value": None}
    write_json(folder / "best.json", {"searches": [best]})
    run: dict[str, Any] = {"experiment": sweep.tracker.experiment_id, "run": None, "trials": {}}
    write_json(folder / "mlflow.json", {"searches": [run]})
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    return [best]


def _importances(sweep: Sweep) -> dict[str, float]:
    """Return the share of the trials' differences that each setting explains; nothing of too few trials."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return dict(get_param_importances(sweep.optuna, evaluator=FanovaImportanceEvaluator(seed=0)))
        except (ValueError, RuntimeError):
            return {}


def _row(trial: FrozenTrial, metric: str, run_id: str | None) -> dict[str, Any]:
    start, end = trial.datetime_start, trial.datetime_complete
    return {
        "number": trial.number,
        "state": trial.state.name,
        "metric": metric,
        "value": trial.value,
        **{name: terms(trial).get(name) for name in PLANE},
        **trial.params,
        "epochs": max(trial.intermediate_values, default=0),
        "seconds": round((end - start).total_seconds(), 2) if start and end else None,
        "run_id": run_id,
        "repeats": trial.user_attrs.get("repeats"),
        "reason": trial.user_attrs.get("reason"),
    }


def _usable(trial: FrozenTrial) -> bool:
    """Return whether a trial's settings go together."""
    return trial.state != TrialState.PRUNED or "reason" not in trial.user_attrs


def _prefix(sweep: Sweep) -> str:
    """Return what the names of a search's figures begin with: nothing where it is the only one."""
    return f"search-{sweep.search}-" if sweep.study.params.sweep.searches > 1 else ""


def _picture(sweep: Sweep, name: str) -> Path:
    return sweep.study.sweep(sweep.variant) / "figures" / f"{_prefix(sweep)}{name}.png"


def _is_drawn(outcome: Outcome) -> bool:
    """Return whether this folder has the figures of a search, drawn after its last trial."""
    path, ends = _picture(outcome.sweep, MAP), [t.datetime_complete for t in outcome.trials if t.datetime_complete]
    return path.exists() and path.stat().st_mtime >= max(ends).timestamp()


def _figures(outcome: Outcome) -> list[Path]:
    """Draw Optuna's plots and the depth x width map; leave out what too few trials cannot show."""
    sweep, trials = outcome.sweep, outcome.trials
    set_defaults({"MPLBACKEND": "Agg"})
    from optuna.visualization import matplotlib as plots

    paths: list[Path] = []
    drawings: dict[str, tuple[str, Callable[..., Any]]] = {
        "history": ("{metric} by trial", plots.plot_optimization_history),
        "importances": ("importance of each setting", plots.plot_param_importances),
        "parallel_coordinate": ("a line is a trial; dark is better", plots.plot_parallel_coordinate),
        "slice": ("{metric} by setting; a point is a trial", plots.plot_slice),
    }
    for name, (title, draw) in drawings.items():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                axes = draw(sweep.optuna, target_name=f"{sweep.metric} (nats per example)")
        except (ValueError, RuntimeError) as error:
            print(f"{sweep.label}: no {name} plot: {error}", flush=True)
            continue
        single = hasattr(axes, "figure")
        if single:
            axes.set_title("", loc="left")  # where Optuna puts some titles
        figure = axes.figure if single else axes.flat[0].figure
        (axes.set_title if single else figure.suptitle)(f"{sweep.label}: {title.format(metric=sweep.metric)}")
        paths.append(_picture(sweep, name))
        figures.save(figure, paths[-1])
    points: list[dict[str, Any]] = []
    for trial in trials:
        if set(trial.params) == set(sweep.space) and _usable(trial):
            model = sweep.base.override(trial.params).model
            points.append(
                {
                    "depth": model.levels,
                    "z_dim": (model.level_widths or model.level_units(sweep.splits.shape))[0],
                    "value": trial.value,
                    "state": trial.state.name,
                    "variant": sweep.label,
                }
            )
    paths.append(_picture(sweep, MAP))
    figures.save(figures.depth_width_map(points, sweep.metric), paths[-1])
    return paths
