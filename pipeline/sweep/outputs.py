"""What a search leaves behind: `trials.csv`, `best.json`, `mlflow.json` and the plots."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from pipeline import figures
from pipeline.errors import RunError
from pipeline.files import write_csv, write_json
from pipeline.params import digest
from pipeline.sweep.search import FINISHED, Sweep, short
from pipeline.tracking import Run

__all__ = ["write", "write_nothing"]

PLANE = ("valid/kl", "valid/reconstruction")  # of a trial's best epoch; of a pruned one, of those that it ran


def write(sweep: Sweep, parent: Run) -> dict[str, Any]:
    """Write the table of trials, the best of them and the plots, also into the parent run; return the best."""
    folder = sweep.study.sweep(sweep.variant)
    trials = [trial for trial in sweep.trials() if trial.state in FINISHED]
    runs = _runs(sweep, trials)
    write_csv(folder / "trials.csv", [_row(trial, sweep.metric, runs[str(trial.number)]) for trial in trials])
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    if not complete:
        first = next((f"; trial {t.number}: {t.user_attrs['reason']}" for t in trials if "reason" in t.user_attrs), "")
        raise RunError(
            f"sweep {sweep.name}: no trial was completed, of {len(trials)}{first}; see the runs' tag 'reason' in MLflow"
        )
    top = max(complete, key=lambda trial: trial.values[0])
    params = sweep.study.params.variant(sweep.variant).override(top.params)
    best = {"optuna_study": sweep.name, "trial": top.number, "params": top.params}
    best |= {"metric": sweep.metric, "value": top.value}
    best["measure"] = params.measure  # of the likelihood that the trials were compared by
    write_json(folder / "best.json", best)
    write_json(
        folder / "mlflow.json",
        {
            "experiment": sweep.tracker.experiment_id,
            "run": parent.run_id or sweep.optuna.user_attrs["mlflow_run_id"],
            "key": sweep.key,
            "trials": runs,
        },
    )
    pictures = _figures(sweep, folder / "figures", trials)
    # Tags and not parameters: a study that is extended may find a better trial, and parameters cannot change.
    chosen = {
        f"best/{path}": short(value)
        for path, value in {"trial": top.number, "metric": sweep.metric, **top.params}.items()
    }
    widths = sweep.base.override(top.params).model.level_widths
    shape = {"depth": len(widths), "latent_dim": sum(widths), "widths": "-".join(map(str, widths))}
    parent.set_tags(chosen | {name: str(value) for name, value in shape.items()})
    files = {"figures": pictures, "": [folder / "trials.csv", folder / "best.json"]}
    parent.log_result("best", digest([best, runs]), {0: top.user_attrs["metrics"]}, files)
    return best


def _runs(sweep: Sweep, trials: list[FrozenTrial]) -> dict[str, str | None]:
    """Return the MLflow run of every trial; of one that MLflow has heard of only later, as MLflow tells it."""
    known = {str(trial.number): trial.user_attrs.get("mlflow_run_id") for trial in trials}
    if None in known.values():
        there = not sweep.tracker.publish_all(seconds=60.0).failed
        told = sweep.tracker.run_ids(f"{sweep.key}/") if there else {}
        known = {number: run or told.get(f"{sweep.key}/{number}") for number, run in known.items()}
    return known


def write_nothing(sweep: Sweep) -> dict[str, Any]:
    """Write the outputs of a search over nothing: no trials, no run, no settings but the variant's own."""
    folder = sweep.study.sweep(sweep.variant)
    write_csv(folder / "trials.csv", [])
    best: dict[str, Any] = {"optuna_study": None, "trial": None, "params": {}}
    best |= {"metric": sweep.metric, "value": None}
    write_json(folder / "best.json", best)
    write_json(folder / "mlflow.json", {"experiment": sweep.tracker.experiment_id, "run": None, "trials": {}})
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    return best


def _row(trial: FrozenTrial, metric: str, run_id: str | None) -> dict[str, Any]:
    start, end = trial.datetime_start, trial.datetime_complete
    return {
        "number": trial.number,
        "state": trial.state.name,
        "metric": metric,
        "value": trial.value,
        **{name: trial.user_attrs.get("metrics", {}).get(name) for name in PLANE},
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


def _figures(sweep: Sweep, folder: Path, trials: list[FrozenTrial]) -> list[Path]:
    """Draw Optuna's plots and the depth x width map; leave out what too few trials cannot show."""
    os.environ.setdefault("MPLBACKEND", "Agg")
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
            print(f"{sweep.variant}: no {name} plot: {error}", flush=True)
            continue
        single = hasattr(axes, "figure")
        if single:
            axes.set_title("", loc="left")  # where Optuna puts some titles
        figure = axes.figure if single else axes.flat[0].figure
        (axes.set_title if single else figure.suptitle)(f"{sweep.variant}: {title.format(metric=sweep.metric)}")
        paths.append(folder / f"{name}.png")
        figures.save(figure, paths[-1])
    points: list[dict[str, Any]] = []
    for trial in trials:
        if set(trial.params) == set(sweep.space) and _usable(trial):
            model = sweep.base.override(trial.params).model
            points.append(
                {
                    "depth": model.depth,
                    "z_dim": model.level_widths[0],
                    "value": trial.value,
                    "state": trial.state.name,
                    "variant": sweep.variant,
                }
            )
    paths.append(folder / "depth_width.png")
    figures.save(figures.depth_width_map(points, sweep.metric), paths[-1])
    return paths
