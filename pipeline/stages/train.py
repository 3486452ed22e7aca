"""Stage `train`: a model for each seed, with the best settings of the seed's search. Workers get some of the seeds."""

from __future__ import annotations

import math
import shutil
from dataclasses import asdict
from pathlib import Path

from pipeline import data, processes, tracking
from pipeline.environment import Resources
from pipeline.errors import InputError, RunError, external_fault
from pipeline.files import exclusive, file_lock, read_csv, read_json, write_csv, write_json
from pipeline.models.checkpoint import save_model
from pipeline.params import Params, digest
from pipeline.progress import reporting
from pipeline.redaction import reason
from pipeline.runs import RunSpec, study_folders
from pipeline.runs.provenance import code_digest
from pipeline.searches import best_trials, search_index, was_searched
from pipeline.study import Study
from pipeline.text import plural
from pipeline.tracking import Run, Tracker, mark_current
from pipeline.training import Record, best_record, fit, initial_model, milestones, print_progress
from pipeline.training.matching import match_weights, seconds_per_epoch

__all__ = ["main", "run", "trained"]


def settings(study: Study, variant: str, seed: int) -> Params:
    """Return the variant's parameters with the values that the seed's search found best, if there was a search."""
    params = study.params.variant(variant)
    if not was_searched(study, variant):
        return params
    best = study.sweep(variant) / "best.json"
    content = best_trials(study, variant)[search_index(study, seed)]
    found, measure = content["params"], content.get("measure")
    if not isinstance(found, dict):
        raise InputError(f"{best}: damaged, its params are no mapping")
    params = study.params.with_settings(variant, found, str(best))
    if measure not in (None, params.measure):
        raise InputError(
            f"{best}: its trials were compared by a {measure}, but likelihood {params.model.likelihood} is a"
            f" {params.measure}; search again"
        )
    return params


def run(study: Study, variant: str, resources: Resources | None = None, *, anew: bool = True) -> None:
    """Train every seed, then write the curve that DVC plots: means over seeds, of the epochs that all of them ran.

    Without `anew`, models that are there, trained with the same settings, data and code, are left as they are.
    """
    with exclusive(study.locks / "train" / variant / "all", f"{variant}: training"):
        if not anew and trained(study, variant):  # perhaps by a process that was waited for
            print(f"{variant}: its models are there, trained with the same settings, data and code", flush=True)
            return
        _run(study, variant, resources or Resources.read())


def _run(study: Study, variant: str, resources: Resources) -> None:
    tracker = Tracker(study).require()
    seeds = list(map(str, study.params.train.seeds))
    processes.map_in_workers(
        "train", study, variant, seeds, lambda seed: train(study, variant, int(seed), resources), resources
    )
    curves = [read_csv(study.train(variant) / f"seed-{seed}" / "curves.csv") for seed in study.params.train.seeds]
    try:
        # Seeds of different searches may differ in depth: a mean over some of them would look like one over all.
        names = [name for name in curves[0][0] if all(name in curve[0] for curve in curves) and name != "timestamp"]
        left_out = sorted({name for curve in curves for name in curve[0]} - {*names, "timestamp"})
        if not {"epoch", "valid/elbo"} <= set(names):
            raise ValueError
        rows = [
            {name: sum(float(row[name]) for row in rows) / len(rows) for name in names}
            for rows in zip(*curves, strict=False)
        ]
    except (IndexError, KeyError, TypeError, ValueError):
        raise InputError(f"{study.train(variant)}: a curves.csv is damaged; train again") from None
    if left_out:
        print(
            f"{variant}: {study.curves(variant).name} lacks {', '.join(left_out)}, which only some seeds have",
            flush=True,
        )
    write_csv(study.curves(variant), rows)
    tracker.discard_states(*study_folders(study, f"{study.unique_name}/{variant}/"))
    shutil.rmtree(study.cache / "train" / study.unique_name / variant, ignore_errors=True)
    tracker.flush_at_exit()
    mark_current(study, tracker)


def train(study: Study, variant: str, seed: int, resources: Resources) -> None:
    """Train one seed; a training that was killed goes on from its last epoch, in the same MLflow run."""
    # Of a stage that was killed, a worker may live a moment longer.
    with file_lock(study.locks / "train" / variant / str(seed)):
        _train(study, variant, seed, resources)


def trained(study: Study, variant: str) -> bool:
    """Tell whether all final models of a variant are there, made with the present settings, data and code."""
    try:
        splits = data.load(study.data)
        for seed in study.params.train.seeds:
            state = _state(match_weights(settings(study, variant, seed), splits), splits)
            folder = study.train(variant) / f"seed-{seed}"
            key = str(read_json(folder / "mlflow.json", "key")["key"])
            if not key.endswith(f"/{state}") or not (folder / "model.json").exists():
                return False
    except InputError:
        return False
    return study.curves(variant).exists()


def _state(params: Params, splits: data.Splits) -> str:
    """Return the digest of all that a final model depends on, but for its seed."""
    sections = params.model_dump(include={"data", "model", "train"})
    if params.compare.match == "time":
        sections |= {"seconds": params.compare.seconds}
    return digest([sections, splits.digest, code_digest("pipeline.training")])


def _match_time(
    study: Study, variant: str, params: Params, splits: data.Splits, state: str, resources: Resources
) -> Params:
    """Return the parameters with as many epochs as `compare.seconds` hold, if `compare.match` asks for that.

    The first training of a variant times a few epochs and stores how many fit; the others, and whatever goes on after
    a kill, read that number. It is removed with the states of the trainings when all of them are finished.
    """
    limit = params.compare.seconds
    if params.compare.match != "time" or limit is None:
        return params
    path = study.cache / "train" / study.unique_name / variant / f"epochs-{state}.json"
    with file_lock(study.locks / "train" / variant / "epochs"):
        if not path.exists():
            with reporting(f"{variant} timing"):
                seconds = seconds_per_epoch(params, splits, params.train.seeds[0], processes.device(resources.device))
            write_json(path, {"epochs": max(1, math.floor(limit / seconds)), "seconds_per_epoch": seconds})
        fits = read_json(path, "epochs", "seconds_per_epoch")
    try:
        epochs, seconds = int(fits["epochs"]), float(fits["seconds_per_epoch"])
    except (TypeError, ValueError):
        raise InputError(f"{path}: damaged; delete it to time an epoch again") from None
    print(f"{variant}: {plural(epochs, 'epoch')} of {seconds:.3g} s fit {limit:g} s (compare.seconds)", flush=True)
    return params.override({"train.epochs": epochs})


def _train(study: Study, variant: str, seed: int, resources: Resources) -> None:
    splits = data.load(study.data)
    params = match_weights(settings(study, variant, seed), splits)
    state = _state(params, splits)
    params = _match_time(study, variant, params, splits, state, resources)
    epochs = f"-{params.train.epochs}" if params.compare.match == "time" else ""
    widths = params.model.level_widths
    spec = RunSpec(stage="train", variant=variant, seed=seed, params=params, rng_seed=seed)
    run = Tracker(study).start(
        spec,
        key=f"{study.unique_name}/{variant}/{seed}{epochs}/{state}",
        name=f"{variant} seed {seed}",
        splits=splits,
        about=(
            f"**{variant}** with levels {' - '.join(map(str, widths))} on `{splits.name}`"
            f" (protocol {splits.protocol}, binarization {splits.binarization}), seed {seed}: final training, with"
            f" {_source(study, variant, seed)}, and its test"
            f" results.\n\n{study.how(f'evaluate@{variant}')}"
        ),
        inputs=[study.data, study.sweep(variant) / "best.json"],
    )
    try:
        _fit(study, variant, spec, splits, run, resources)
    except RunError as error:
        kept = f"; its last good state is kept in {run.folder.path}" if run.folder.has_state else ""
        run.finish("FAILED", str(error))
        raise RunError(f"{variant} seed {seed}: {error}{kept}") from None
    except (KeyboardInterrupt, InputError):  # a full disk, say: the same command goes on
        run.finish("KILLED")
        raise
    except Exception as error:
        if external_fault(error):  # which an `InputError` would have told
            run.finish("KILLED")
            raise
        run.finish("FAILED", reason(error, 500))
        raise


def _source(study: Study, variant: str, seed: int) -> str:
    """Say where a seed's settings come from."""
    if not was_searched(study, variant):
        return "settings as given"
    several = study.params.sweep.searches > 1
    return f"the best settings of {f'search {search_index(study, seed)}' if several else 'its sweep'}"


def _fit(study: Study, variant: str, spec: RunSpec, splits: data.Splits, run: Run, resources: Resources) -> None:
    """Train, write the model and its curve, and log them to the run."""
    params, seed, widths = spec.params, spec.seed, spec.params.model.level_widths
    model = initial_model(params.model, splits, seed)
    records: list[Record] = []
    device = processes.device(resources.device)
    with reporting(f"{variant} seed {seed}") as reporter:
        for record in fit(model, splits, params.train, seed=seed, device=device, folder=run.folder.path):
            run.publish()
            records.append(record)
            print_progress(reporter, record, params.train.epochs)
            processes.raise_if_interrupted()
    folder = study.train(variant) / f"seed-{seed}"
    shutil.rmtree(folder, ignore_errors=True)  # milestones of other settings, where DVC did not clear it
    best = best_record(records, params.train, params.model.depth)
    about = {
        "variant": variant,
        "seed": seed,
        "widths": widths,
        "parameters": sum(weights.numel() for weights in model.parameters()),
        "epochs": records[-1].epoch,
        "best_epoch": best.epoch,
        "seconds": round(records[-1].seconds, 2),
    }
    weights_digest = save_model(folder, model, params.model, splits, **about)
    for epoch, weights in milestones(run.folder.path).items():
        model.load_state_dict(weights)
        reached = about | {"epochs": epoch, "best_epoch": epoch, "seconds": round(records[epoch - 1].seconds, 2)}
        save_model(folder / f"epoch-{epoch}", model, params.model, splits, **reached)
    rows = [{**{key: value for key, value in asdict(r).items() if key != "metrics"}, **r.metrics} for r in records]
    write_csv(folder / "curves.csv", rows)
    files = [folder / "model.safetensors", folder / "model.json", folder / "curves.csv"]
    run.log_result("weights_digest", weights_digest, {0: {"seconds": records[-1].seconds}}, {"model": files})
    run.finish()
    named = {"experiment": run.tracker.experiment_id, "run": run.run_id, "key": run.key}
    write_json(folder / "mlflow.json", named)


def main(variant: str, *seeds: str) -> None:
    """Run the stage, or one of its workers, as the command line says."""
    study, resources = Study.at(Path.cwd()), Resources.read()
    if not seeds:
        tracking.import_mlflow(tracking.tracking_uri(study))
        processes.prefork(len(study.params.train.seeds), resources)
        for line in study.notices(variant):
            print(line, flush=True)
        run(study, variant, resources)
        return
    processes.become_worker(resources)
    for seed in seeds:
        train(study, variant, int(seed), resources)
