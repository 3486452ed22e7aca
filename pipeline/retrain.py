"""Train once more what a run's `spec.json` describes: `python -m pipeline.retrain SPEC OUT DATA CACHE EPOCHS`.

It writes OUT/result.json and uses no database: `cave reproduce` starts it in the code of the run's commit. So its words
and its result are a contract between commits; the version of the result is `FORMAT`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from pipeline import data, processes
from pipeline.environment import Resources, data_mirror
from pipeline.errors import InputError
from pipeline.files import write_json
from pipeline.log import Record
from pipeline.models.checkpoint import save_model
from pipeline.params import digest
from pipeline.processes.entry import run_main
from pipeline.progress import reporting
from pipeline.run_folders import RunSpec
from pipeline.run_folders.provenance import machine
from pipeline.run_folders.source import code_digest
from pipeline.training import best_record, fit, initial_model, print_progress

__all__ = ["FORMAT"]

FORMAT = 1


def retrain(spec: RunSpec, splits: data.Splits, out: Path, epochs: int, resources: Resources) -> Mapping[str, Any]:
    """Train what `spec` describes, for so many epochs at most; return what came out, and what it was made with."""
    try:
        device = processes.device(resources.device)
    except InputError as error:
        print(f"{error}; trained on the processor instead", flush=True)
        device = torch.device("cpu")
    params, seed = spec.params.train, spec.rng_seed
    assert seed is not None
    model = initial_model(spec.params.model, splits, seed)
    records: list[Record] = []
    ended = True
    with reporting("again") as reporter:
        for record in fit(model, splits, params, seed=seed, device=device):
            print_progress(reporter, record, params.epochs, len(splits.train))
            records.append(record)
            if record.epoch == epochs < params.epochs:
                ended = False  # as the run did; the weights are not those that a whole training keeps
                break
    weights = save_model(out / "model", model, spec.params.model, splits) if ended else None
    made = {"code_digest": code_digest("pipeline.training"), "data_digest": splits.digest}
    made |= {"params_digest": digest(spec.flat), **machine(device)}
    best = best_record(records, params, model.depth).epoch
    return {"format": FORMAT, "records": [asdict(r) for r in records], "best": best, "weights": weights, "made": made}


def _splits(spec: RunSpec, data_digest: str, out: Path, prepared: Path, cache: Path) -> data.Splits:
    """Return the data of a digest: those that were prepared, or else the published files, prepared anew."""
    try:
        splits = data.load(prepared)
    except InputError:
        splits = None
    if splits is None or splits.digest != data_digest:
        data.fetch(spec.params.data, out / "raw", cache, data_mirror())
        splits = data.prepare(spec.params.data, out / "raw", out / "data")
    return splits


def _main() -> None:
    path, out, prepared, cache, epochs = sys.argv[1:]
    resources = Resources.read()
    processes.become_worker(resources)
    spec, data_digest = RunSpec.read(Path(path))
    splits = _splits(spec, data_digest, Path(out), Path(prepared), Path(cache))
    result = retrain(spec, splits, Path(out), int(epochs), resources)
    write_json(Path(out) / "result.json", result)


if __name__ == "__main__":
    run_main(_main)
