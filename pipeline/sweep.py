"""The only door to Optuna: a search over a variant's space whose finished trials are never lost or run twice.

A trial's life. Under the admission lock a worker counts the budget and either takes over a trial whose
worker has died or asks for a new one, and writes its own token into it; a trial without a token, seen under
the lock, has no worker. Then, epoch by epoch, the training's state goes to disk, its rows to MLflow, its
bound to Optuna. A trial that is taken over goes on from that state, in the same MLflow run, under the same
number. A worker is alive as long as the kernel holds its lock file for it.

The study's name ends in a fingerprint of everything a trial's number depends on (space, parameters, data, code)
except the number of trials: more trials extend a study, any other change starts a new one.
"""

from __future__ import annotations

import os
import shutil
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import optuna
import torch
from optuna.trial import FrozenTrial, Trial, TrialState

from pipeline import data, figures, launch
from pipeline.errors import InputError, RunError
from pipeline.files import locked, write_csv, write_json
from pipeline.models import build
from pipeline.params import Choices, Params, Range, digest
from pipeline.provenance import code_digest
from pipeline.study import Study
from pipeline.tracking import Run, Tracker
from pipeline.training import Record, fit, seeded

__all__ = ["PRUNERS", "SAMPLERS", "Sweep"]

OBJECTIVE = "valid/elbo"
LIVES = 3  # workers that one trial may kill
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)

SAMPLERS: dict[str, Callable[[int], optuna.samplers.BaseSampler]] = {
    "tpe": lambda seed: optuna.samplers.TPESampler(seed=seed, constant_liar=True),
    "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
}
PRUNERS: dict[str, Callable[[], optuna.pruners.BasePruner]] = {
    "median": lambda: optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=5),
    "none": optuna.pruners.NopPruner,
}

optuna.logging.set_verbosity(optuna.logging.WARNING)


@dataclass(frozen=True)
class Sweep:
    """The search of one variant of one study."""

    study: Study
    variant: str

    @cached_property
    def splits(self) -> data.Splits:
        """The data that trials train on."""
        return data.load(self.study.data)

    @cached_property
    def name(self) -> str:
        """The name in Optuna: study, variant, fingerprint."""
        params = self.study.params
        settings = params.variant(self.variant).model_dump(include={"data", "model", "train", "sweep"})
        del (
            settings["sweep"]["trials"],
            settings["sweep"]["failures"],
            settings["sweep"]["space"],
            settings["train"]["seeds"],
        )
        space = {path: kind.model_dump() for path, kind in params.space(self.variant).items()}
        fingerprint = digest([settings, space, self.splits.digest, code_digest("pipeline.training")], 10)
        return f"{self.study.name}/{self.variant}-{fingerprint}"

    @property
    def _scratch(self) -> Path:
        return self.study.cache / "sweeps" / self.name

    @cached_property
    def optuna(self) -> optuna.Study:
        """The study in its store: CAVE_OPTUNA_URL, or the database at the root."""
        url = os.environ.get("CAVE_OPTUNA_URL") or f"sqlite:///{self.study.store / 'optuna.db'}"
        options = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {}
        # Processes that open a fresh database at once would both make its tables.
        with locked(self.study.cache / "locks" / "optuna"):
            return optuna.create_study(
                storage=optuna.storages.RDBStorage(url, engine_kwargs=options),
                study_name=self.name,
                direction="maximize",
                pruner=PRUNERS[self.study.params.sweep.pruner](),
                load_if_exists=True,
            )

    @cached_property
    def tracker(self) -> Tracker:
        """The experiment in MLflow."""
        return Tracker(self.study)

    # The coordinator's side.

    def run(self, workers: int) -> dict[str, Any]:
        """Bring the study to its number of trials, write the outputs, and return the best trial."""
        trials = self.study.params.sweep.trials
        with self._only():
            parent = self._parent()
            try:
                printed = {trial.number for trial in self._trials() if trial.state in FINISHED}
                if printed:
                    print(f"{self.variant}: {len(printed)} of {trials} trials were finished before", flush=True)
                if len(printed) < trials:
                    self._search(workers, printed)
                best = self._write(parent)
            except BaseException as error:
                parent.finish("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
                raise
            parent.finish()
        return best

    def _search(self, workers: int, printed: set[int]) -> None:
        if workers == 1:
            launch.become_worker()
            self.work(lambda: self._progress(printed))
            return
        command = ["pipeline.stages.sweep", self.variant, "--worker"]
        retries = LIVES * self.study.params.sweep.trials
        launch.run([command] * workers, self.study.folder, retries=retries, tick=lambda: self._progress(printed))

    @contextmanager
    def _only(self) -> Iterator[None]:
        lock = self._scratch / "coordinator"
        try:
            with locked(lock, wait=False):
                lock.write_text(f"process {os.getpid()}")
                yield
        except BlockingIOError:
            holder = lock.read_text() or "another process"
            raise InputError(f"sweep {self.name}: {holder} is running it already") from None

    def _parent(self) -> Run:
        params = self.study.params.variant(self.variant)
        about = (
            f"Search of **{self.variant}** over {', '.join(params.space(self.variant)) or 'nothing'}:"
            f" {params.sweep.trials} trials of at most {params.sweep.epochs} epochs, by {params.sweep.sampler}."
            " Its parameters and metrics are the best trial's; the trials are its children."
            f"\n\nOptuna study `{self.name}`. Reproduce with `dvc repro sweep@{self.variant}`."
        )
        run = self.tracker.start(
            stage="sweep",
            key=self.name,
            name=f"sweep {self.variant}",
            params=params,
            splits=self.splits,
            about=about,
            variant=self.variant,
            seed=params.sweep.seed,
            inputs=[self.study.data],
        )
        self.optuna.set_user_attr("mlflow_run_id", run.run_id)
        return run

    def _trials(self) -> list[FrozenTrial]:
        return self.optuna.get_trials(deepcopy=False)

    def _progress(self, printed: set[int]) -> None:
        """Print a line for every trial that finished since the last call."""
        trials = self._trials()
        for trial in trials:
            if trial.state in FINISHED and trial.number not in printed:
                printed.add(trial.number)
                best = max(
                    (t.value for t in trials if t.state == TrialState.COMPLETE and t.value is not None), default=None
                )
                value = "failed" if trial.value is None else f"{trial.value:8.3f}"
                settings = ", ".join(f"{path.split('.')[-1]} {_short(value)}" for path, value in trial.params.items())
                print(
                    f"{self.variant}: trial {trial.number:<3d} {OBJECTIVE} {value}"
                    f" {trial.state.name.lower():8s} {settings}"
                    f"  ({len(printed)} of {self.study.params.sweep.trials}"
                    + (f", best {best:.3f})" if best is not None else ")"),
                    flush=True,
                )

    # The worker's side.

    def work(self, tick: Callable[[], None] = lambda: None) -> None:
        """Run trials until the budget is spent."""
        token = uuid.uuid4().hex
        with locked(self._scratch / "workers" / token):
            while (trial := self._claim(token)) is not None:
                self._trial(trial, tick)
                tick()
        (self._scratch / "workers" / token).unlink(missing_ok=True)

    def _claim(self, token: str) -> Trial | None:
        """Take over an orphaned trial or ask for a new one, or return nothing when the budget is spent."""
        sweep = self.study.params.sweep
        with locked(self._scratch / "admission"):
            trials = self._trials()
            failed = sum(trial.state == TrialState.FAIL for trial in trials)
            if failed > sweep.failures:
                raise RunError(
                    f"sweep {self.name}: {failed} trials failed (sweep.failures is {sweep.failures}); see their runs"
                )
            for orphan in (trial for trial in trials if trial.state == TrialState.RUNNING and not self._alive(trial)):
                lives = orphan.user_attrs.get("workers", 0)
                adopted = Trial(self.optuna, orphan._trial_id)
                if lives >= LIVES:
                    self._fail(adopted, f"killed {lives} workers")
                    continue
                return self._admit(adopted, token, lives)
            if sum(trial.state in (*FINISHED, TrialState.RUNNING) for trial in trials) >= sweep.trials:
                return None
            # A sampler seeded by the trial's number: the same trials whatever the number of workers or restarts,
            # as far as they do not depend on the results of others.
            stream = int(digest([sweep.seed, len(trials)], 8), 16)
            self.optuna.sampler = SAMPLERS[sweep.sampler](stream)
            return self._admit(self.optuna.ask(), token, 0)

    def _admit(self, trial: Trial, token: str, lives: int) -> Trial:
        trial.set_user_attr("workers", lives + 1)
        trial.set_user_attr("worker", token)
        return trial

    def _alive(self, trial: FrozenTrial) -> bool:
        lock = self._scratch / "workers" / trial.user_attrs.get("worker", "none")
        try:
            with locked(lock, wait=False):
                return False
        except BlockingIOError:
            return True

    def _trial(self, trial: Trial, tick: Callable[[], None]) -> None:
        """Run a trial to its end, whichever that is, and tell Optuna last."""
        params = self._settings(trial)
        run = self._run(trial, params)
        folder = self._scratch / "trials" / str(trial.number)
        try:
            best, pruned = self._train(trial, params, run, folder, tick)
        except KeyboardInterrupt:
            run.finish("KILLED")
            raise
        except (RunError, ArithmeticError, RuntimeError, MemoryError, ValueError) as error:
            reason = " ".join(str(error).split())[:500] or type(error).__name__
            run.finish("FAILED", reason)
            self._fail(trial, reason)
        else:
            run.set_tags({"trial_state": "pruned" if pruned else "complete"})
            run.finish()
            if pruned:
                self.optuna.tell(trial, state=TrialState.PRUNED)
            else:
                trial.set_user_attr("metrics", best.metrics)
                self.optuna.tell(trial, best.metrics[OBJECTIVE])
        shutil.rmtree(folder, ignore_errors=True)

    def _fail(self, trial: Trial, reason: str) -> None:
        trial.set_user_attr("reason", reason)
        self.optuna.tell(trial, state=TrialState.FAIL)

    def _settings(self, trial: Trial) -> Params:
        """Return the parameters of a trial: the variant's, with the suggested values in place."""
        params = self.study.params
        chosen = {path: _suggest(trial, path, kind) for path, kind in params.space(self.variant).items()}
        return params.variant(self.variant).override({"train.epochs": params.sweep.epochs, **chosen}, "sweep.space")

    def _run(self, trial: Trial, params: Params) -> Run:
        widths = " - ".join(map(str, params.model.level_widths))
        run = self.tracker.start(
            stage="trial",
            key=f"{self.name}/{trial.number}",
            name=f"{self.variant} trial {trial.number}",
            params=params,
            splits=self.splits,
            about=f"Trial {trial.number} of Optuna study `{self.name}`: **{self.variant}** with levels {widths}.",
            variant=self.variant,
            seed=params.sweep.seed,
            inputs=[self.study.data],
            parent=self.optuna.user_attrs["mlflow_run_id"],
        )
        trial.set_user_attr("mlflow_run_id", run.run_id)
        return run

    def _train(
        self, trial: Trial, params: Params, run: Run, folder: Path, tick: Callable[[], None]
    ) -> tuple[Record, bool]:
        """Train one setting; return the record of its best epoch, and whether the trial was pruned."""
        seed = params.sweep.seed
        with seeded(seed, "init"):
            model = build(params.model, torch.as_tensor(self.splits.mean, dtype=torch.get_default_dtype()))
        reported = self._trials()[trial.number].intermediate_values
        records: list[Record] = []
        for record in fit(model, self.splits, params.train, seed=seed, device=launch.device(), folder=folder):
            run.log_records([record])
            records.append(record)
            if record.epoch not in reported:
                trial.report(record.metrics[OBJECTIVE], record.epoch)
            if pruned := trial.should_prune():
                break
            tick()
        return max(records, key=lambda record: record.metrics[OBJECTIVE]), pruned

    # The outputs.

    def _write(self, parent: Run) -> dict[str, Any]:
        folder = self.study.sweep(self.variant)
        trials = self._trials()
        write_csv(folder / "trials.csv", [self._row(trial) for trial in trials])
        complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
        if not complete:
            raise RunError(f"sweep {self.name}: no trial was completed; see the runs' tag 'reason' in MLflow")
        top = max(complete, key=lambda trial: trial.value or 0.0)
        best = {"optuna_study": self.name, "trial": top.number, OBJECTIVE: top.value, "params": top.params}
        write_json(folder / "best.json", best)
        runs = {str(trial.number): trial.user_attrs.get("mlflow_run_id") for trial in trials}
        write_json(
            folder / "mlflow.json",
            {"experiment": self.tracker.experiment_id, "run": parent.run_id, "trials": runs},
        )
        pictures = self._figures(folder / "figures", trials)
        # Tags and not parameters: a study that is extended may find a better trial, and parameters cannot change.
        parent.set_tags({f"best/{path}": _short(value) for path, value in {"trial": top.number, **top.params}.items()})
        parent.log_metrics(top.user_attrs["metrics"])
        parent.log_files("figures", pictures)
        parent.log_files("", [folder / "trials.csv", folder / "best.json"])
        return best

    def _row(self, trial: FrozenTrial) -> dict[str, Any]:
        start, end = trial.datetime_start, trial.datetime_complete
        return {
            "number": trial.number,
            "state": trial.state.name,
            "value": trial.value,
            **trial.params,
            "epochs": max(trial.intermediate_values, default=0),
            "seconds": round((end - start).total_seconds(), 2) if start and end else None,
            "run_id": trial.user_attrs.get("mlflow_run_id"),
            "reason": trial.user_attrs.get("reason"),
        }

    def _figures(self, folder: Path, trials: list[FrozenTrial]) -> list[Path]:
        """Draw Optuna's plots and the depth x width map; leave out what too few trials cannot show."""
        os.environ.setdefault("MPLBACKEND", "Agg")
        from optuna.visualization import matplotlib as plots

        paths: list[Path] = []
        drawings: dict[str, Callable[[optuna.Study], Any]] = {
            "history": plots.plot_optimization_history,
            "importances": plots.plot_param_importances,
            "parallel_coordinate": plots.plot_parallel_coordinate,
            "slice": plots.plot_slice,
        }
        for name, draw in drawings.items():
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    axes = draw(self.optuna)
            except (ValueError, RuntimeError) as error:
                print(f"{self.variant}: no {name} plot: {error}", flush=True)
                continue
            figure = axes.figure if hasattr(axes, "figure") else axes.flat[0].figure
            paths.append(folder / f"{name}.png")
            figures.save(figure, paths[-1])
        base = self.study.params.variant(self.variant)
        points: list[dict[str, Any]] = []
        for trial in trials:
            if trial.value is not None:
                model = base.override(trial.params).model
                points.append(
                    {
                        "depth": model.depth,
                        "z_dim": model.level_widths[0],
                        "value": trial.value,
                        "state": trial.state.name,
                        "variant": self.variant,
                    }
                )
        paths.append(folder / "depth_width.png")
        figures.save(figures.depth_width_map(points), paths[-1])
        return paths


def _suggest(trial: Trial, path: str, kind: Range | Choices) -> Any:
    if isinstance(kind, Choices):
        return trial.suggest_categorical(path, kind.choices)
    if isinstance(kind.low, int) and isinstance(kind.high, int) and isinstance(kind.step or 1, int):
        return trial.suggest_int(path, kind.low, kind.high, log=kind.log, step=int(kind.step or 1))
    return trial.suggest_float(path, kind.low, kind.high, log=kind.log, step=kind.step)


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
