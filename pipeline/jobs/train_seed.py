"""Train the final model of one seed: its run, its weights, its milestones and its curve."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import torch

from pipeline import data, processes
from pipeline.addresses import address, run_page
from pipeline.environment import Resources
from pipeline.errors import InputError, RunError, external_fault
from pipeline.evaluations import trained_settings
from pipeline.files import file_lock, write_csv, write_json
from pipeline.jobs.cached_models import stage_digest
from pipeline.jobs.epoch_pictures import is_shown, log_pictures
from pipeline.jobs.final_models import describe_training, match_time, state_digest
from pipeline.models.checkpoint import save_model
from pipeline.progress import reporting
from pipeline.redaction import reason, without_password
from pipeline.run_folders import RunSpec
from pipeline.run_folders.provenance import code, machine
from pipeline.searches import settings
from pipeline.study import Study
from pipeline.tracking import Run, Tracker
from pipeline.training import Record, best_record, fit, initial_model, milestones, print_progress
from pipeline.training.matching import match_weights

__all__ = ["train_seed"]


def train_seed(study: Study, variant: str, seed: int, resources: Resources) -> None:
    """Train one seed; a training that was killed goes on from its last epoch, in the same MLflow run."""
    # Of a stage that was killed, a worker may live a moment longer.
    with file_lock(study.locks / "train" / variant / str(seed)):
        _train(study, variant, seed, resources)


def _train(study: Study, variant: str, seed: int, resources: Resources) -> None:
    splits = data.load(study.data)
    chosen = settings(study, variant, seed)
    params = match_weights(chosen, splits)
    state = state_digest(params, splits)
    origin = {"code": stage_digest(), "settings": trained_settings(chosen)}  # before anybody edits them
    params = match_time(study, variant, params, splits, state, resources)
    epochs = f"-{params.train.epochs}" if params.compare.match == "time" else ""
    spec = RunSpec(stage="train", variant=variant, seed=seed, params=params, rng_seed=seed)
    run = Tracker(study, resources).start(
        spec,
        key=f"{study.unique_name}/{variant}/{seed}{epochs}/{state}",
        name=f"{variant} seed {seed}",
        splits=splits,
        about=describe_training(study, variant, seed, params.model.level_units(splits.shape), splits),
        inputs=[study.data, study.sweep(variant) / "best.json"],
    )
    try:
        _fit(study, variant, spec, splits, run, resources, origin)
    except RunError as error:
        hint = f"; its last good state is kept in {run.folder.path}" if run.folder.has_state else ""
        run.finish("FAILED", str(error))
        raise RunError(f"{variant} seed {seed}: {error}{hint}") from None
    except (KeyboardInterrupt, InputError):  # a full disk, say: the same command goes on
        run.finish("KILLED")
        raise
    except Exception as error:
        if external_fault(error):  # of the disk or a database, not of the training
            run.finish("KILLED")
            raise
        run.finish("FAILED", reason(error, 500))
        raise


def _fit(
    study: Study,
    variant: str,
    spec: RunSpec,
    splits: data.Splits,
    run: Run,
    resources: Resources,
    origin: Mapping[str, Any],
) -> None:
    """Train, write the model and its curve, and log them to the run."""
    params, seed, widths = spec.params, spec.seed, spec.params.model.level_units(splits.shape)
    model = initial_model(params.model, splits, seed)
    records: list[Record] = []
    device = processes.device(resources.device)
    first, logged = seed == study.params.train.seeds[0], run.folder.last_epoch
    if first and logged == 0:
        log_pictures(run, model, splits, 0, run.folder.header.time)
    with reporting(f"{variant} seed {seed}") as reporter:
        for record in fit(model, splits, params.train, seed=seed, device=device, folder=run.folder.path):
            if not records:  # only now has `fit` brought the log to the state whose weights the model has
                logged = run.folder.last_epoch
            # Of the epochs before the state that training goes on from, the weights are gone, and pictures are there.
            if first and record.epoch >= logged and is_shown(record.epoch, params.train.epochs):
                log_pictures(run, model, splits, record.epoch, record.timestamp)
            run.publish()
            records.append(record)
            print_progress(reporter, record, params.train.epochs, len(splits.train))
            processes.raise_if_interrupted()
    folder = study.train(variant) / f"seed-{seed}"
    shutil.rmtree(folder, ignore_errors=True)  # milestones of other settings, where DVC did not clear it
    best = best_record(records, params.train, model.depth)
    about = {
        "variant": variant,
        "seed": seed,
        "widths": widths,
        "parameters": sum(weights.numel() for weights in model.parameters()),
        "epochs": records[-1].epoch,
        "best_epoch": best.epoch,
        "seconds": round(records[-1].seconds, 2),
        "peak_memory": round(processes.peak_memory(device)),  # MiB, of the process that has trained it
    }
    weights_digest = save_model(folder, model, params.model, splits, **about)
    for epoch, weights in milestones(run.folder.path).items():
        model.load_state_dict(weights)
        described = about | {"epochs": epoch, "best_epoch": epoch, "seconds": round(records[epoch - 1].seconds, 2)}
        save_model(folder / f"epoch-{epoch}", model, params.model, splits, **described)
    write_csv(folder / "curves.csv", [record.row for record in records])
    files = [folder / "model.safetensors", folder / "model.json", folder / "curves.csv"]
    numbers: dict[str, float] = {
        "training/seconds": records[-1].seconds,
        "training/images_per_second": len(splits.train) * records[-1].epoch / max(records[-1].seconds, 1e-9),
        "training/peak_memory": processes.peak_memory(device),
        "training/weights": sum(weights.numel() for weights in model.parameters()),
        "training/best_epoch": best.epoch,
    }
    run.log_result("weights_digest", weights_digest, {0: numbers}, {"model": files})
    run.finish()
    named = {
        "experiment": run.tracker.experiment_id,
        "run": run.run_id,
        "key": run.key,
        "weights": weights_digest,
        **origin,
    }
    page = run_page(named["experiment"], named["run"]) if named["experiment"] and named["run"] else ""
    write_json(folder / "mlflow.json", named | _circumstances(study, device) | {"page": page})


def _circumstances(study: Study, device: torch.device) -> dict[str, Any]:
    """Return when, where and with which code a model was trained, for the head of the report."""
    store = address("mlflow", study.shared_root)
    return {
        "store": without_password(store).rstrip("/") if store.lower().startswith("http") else "",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        **code(study.root).tags,
        **machine(device),
    }
