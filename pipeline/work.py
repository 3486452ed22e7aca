"""A piece of work: one training, of a final model or of a trial, as a file that leads to the same numbers again.

Every run carries its `settings.json`. `python -m pipeline.work SETTINGS OUT DATA CACHE EPOCHS` trains what it
describes once more, writes OUT/result.json and touches no store: `cave reproduce` starts it in the code of the run's
commit. So these words and files are a contract between commits, whose version is `FORMAT`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from pipeline import data, processes
from pipeline.environment import Resources, data_mirror
from pipeline.errors import InputError
from pipeline.files import read_json, write_json
from pipeline.models import HierarchicalVAE, build
from pipeline.models.checkpoint import save_model
from pipeline.params import Params, digest
from pipeline.processes.entry import run_main
from pipeline.progress import Reporter, reporting
from pipeline.provenance import code_digest, machine
from pipeline.randomness import seeded
from pipeline.training import Record, best_record, fit

__all__ = ["FORMAT", "Work", "say"]

FORMAT = 1


@dataclass(frozen=True)
class Work:
    """What is trained: the parameters as they take effect, and the streams of random numbers."""

    stage: str  # `train` or `trial`; a `sweep`, whose trials are trained, has no stream of its own
    variant: str
    seed: int  # as it is told
    params: Params  # with the variant's, and a trial's, values in place
    stream: int | None = None  # the seed that random numbers are drawn by

    @property
    def flat(self) -> dict[str, Any]:
        """The parameters of data, model and training by their dotted paths."""
        return {path: v for path, v in self.params.flat().items() if path.split(".")[0] in ("data", "model", "train")}

    def model(self, splits: data.Splits) -> HierarchicalVAE:
        """Return the model as it is before the first epoch."""
        assert self.stream is not None
        with seeded(self.stream, "init"):
            mean = torch.as_tensor(splits.mean, dtype=torch.get_default_dtype())
            return build(self.params.model, mean, splits.shape)

    def settings(self, splits: data.Splits) -> dict[str, Any]:
        """Describe the work, so that `read` gives it back."""
        described = {name: getattr(self, name) for name in ("stage", "variant", "seed", "stream")}
        params = self.params.model_dump(mode="json")
        return {"format": FORMAT, **described, "data_digest": splits.digest, "params": params}

    @classmethod
    def read(cls, path: Path) -> tuple[Work, str]:
        """Read what `settings` described: the work, and the digest of its data."""
        described = read_json(path)
        given = described.get("format") if isinstance(described, dict) else described
        if given != FORMAT:
            raise InputError(f"{path.name}: format {given!r} given; allowed: {FORMAT}")
        try:
            params = Params.model_validate_json(json.dumps(described["params"]))
            words = {name: described[name] for name in ("stage", "variant", "seed", "stream")}
            return cls(params=params, **words), str(described["data_digest"])
        except (KeyError, TypeError, ValidationError) as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"{path.name}: not the settings of a run: {reason}") from None


def say(reporter: Reporter, record: Record, epochs: int) -> None:
    """Print a line for the first, the last and each fifth epoch of a training, and at least every 30 seconds."""
    bound = record.metrics["valid/elbo"]
    text = f"epoch {record.epoch:4d} of {epochs}, valid/elbo {bound:9.3f}, {record.seconds:.0f} s"
    reporter.step(record.epoch, epochs, text, record.seconds)


def again(work: Work, wanted: str, out: Path, kept: Path, cache: Path, epochs: int) -> Mapping[str, Any]:
    """Train once more, for so many epochs at most; return what came out, and what it was made with."""
    splits = _bring(work, wanted, out, kept, cache)
    try:
        device = processes.device(Resources.read().device)
    except InputError as error:
        print(f"{error}; trained on the processor instead", flush=True)
        device = torch.device("cpu")
    model, stream, params = work.model(splits), work.stream, work.params.train
    assert stream is not None
    records: list[Record] = []
    ended = True
    with reporting("again") as reporter:
        for record in fit(model, splits, params, seed=stream, device=device):
            say(reporter, record, params.epochs)
            records.append(record)
            if record.epoch == epochs < params.epochs:
                ended = False  # as the run did; the weights are not those that a whole training keeps
                break
    weights = save_model(out / "model", model, work.params.model, splits) if ended else None
    made = {"code_digest": code_digest("pipeline.training"), "data_digest": splits.digest}
    made |= {"params_digest": digest(work.flat), **machine(device)}
    best = best_record(records, params, model.depth).epoch
    return {"format": FORMAT, "records": [asdict(r) for r in records], "best": best, "weights": weights, "made": made}


def _bring(work: Work, wanted: str, out: Path, kept: Path, cache: Path) -> data.Splits:
    """Return the data by their digest: those that are kept, or else the published files, prepared anew."""
    try:
        splits = data.load(kept)
    except InputError:
        splits = None
    if splits is None or splits.digest != wanted:
        data.fetch(work.params.data, out / "raw", cache, data_mirror())
        splits = data.prepare(work.params.data, out / "raw", out / "data")
    return splits


def _main() -> None:
    settings, out, kept, cache, epochs = sys.argv[1:]
    processes.become_worker(Resources.read())
    work, wanted = Work.read(Path(settings))
    write_json(Path(out) / "result.json", again(work, wanted, Path(out), Path(kept), Path(cache), int(epochs)))


if __name__ == "__main__":
    run_main(_main)
