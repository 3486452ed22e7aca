"""What the coordination of a sweep costs: empty trials, whose training is one made-up epoch.

    python experiments/scale/measure.py workers [trials]     trials a second with 1, 2, 4 and 8 workers
    python experiments/scale/measure.py trials               one trial's costs in a study of 100, 1,000 and 5,000

The database is SQLite, or the PostgreSQL of CAVE_OPTUNA_URL. All of a trial but its training is counted: its claim, its
run in MLflow (SQLite) by way of its folder, its report and its end. What is made lies in a temporary folder; studies in
a PostgreSQL stay there.
"""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
os.environ |= {"CAVE_THREADS": "1", "CAVE_DEVICE": "cpu"}

import optuna  # noqa: E402

import pipeline.sweep.worker as worker  # noqa: E402
from pipeline.log import Log  # noqa: E402
from pipeline.params import Choices, Params, dump_yaml  # noqa: E402
from pipeline.stages import fetch, prepare  # noqa: E402
from pipeline.study import Study  # noqa: E402
from pipeline.sweep import Sweep  # noqa: E402
from pipeline.sweep.coordinator import _parent  # noqa: E402
from pipeline.training import Record  # noqa: E402

VARIANT = "mhvae"
SETTINGS = {"data.name": "cave", "data.cave.images": 100, "model.hidden": [[4]], "sweep.pruner": "none"}


def empty(*_: Any, folder: Path, **__: Any) -> Iterator[Record]:
    """Stand in for a training: add the line of one epoch to the run's log, as a training does."""
    bounds = {"valid/elbo": random.random(), "valid/kl": 1.0, "valid/reconstruction": 1.0, "valid/objective": 1.0}
    record = Record(1, 1, 0.0, time.time_ns() // 1_000_000, bounds)
    Log(folder).append(record.entry, sync=True)
    yield record


def sweep(folder: Path, trials: int) -> Sweep:
    """Return a sweep of empty trials, its run begun."""
    own = {"sweep.trials": trials, "sweep.seed": random.randrange(2**31)}
    params = Params.read(ROOT / "params.yaml", SETTINGS | own)
    (folder / "params.yaml").write_text(dump_yaml(params))
    study = Study.at(folder)
    fetch.run(study)
    prepare.run(study)
    made = Sweep(study, VARIANT)
    made.tracker.require()
    _parent(made).finish(None)
    return made


def work(folder: Path) -> None:
    """Be a worker: get ready, wait for the word, run trials."""
    worker.fit = empty  # type: ignore[attr-defined]
    mine = Sweep(Study.at(folder), VARIANT)
    mine.trials(), mine.tracker, mine.splits
    print("ready", flush=True)
    sys.stdin.readline()
    worker.work(mine)


def workers(trials: int) -> None:
    """Print trials a second by the number of workers."""
    for count in (1, 2, 4, 8):
        with tempfile.TemporaryDirectory() as scratch:
            made = sweep(Path(scratch), trials)
            words = [sys.executable, __file__, "worker", scratch]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
            started = [subprocess.Popen(words, **pipes) for _ in range(count)]  # type: ignore[call-overload]
            for process in started:
                assert process.stdout.readline() == "ready\n"
            for process in started:
                process.stdin.write("go\n")
                process.stdin.flush()
            for process in started:
                process.communicate()
            done = made.trials()
            assert len(done) == trials
            assert all(trial.datetime_start and trial.datetime_complete for trial in done)
            first = min(trial.datetime_start for trial in done if trial.datetime_start)
            last = max(trial.datetime_complete for trial in done if trial.datetime_complete)
            seconds = (last - first).total_seconds()
            print(
                f"{count} workers: {1000 * seconds / trials:6.1f} ms a trial, {trials / seconds:5.1f} trials/s",
                flush=True,
            )


def growth() -> None:
    """Print what a trial costs by the number of trials that the study has."""
    for size, costs, read in grown((100, 1000, 5000)):
        told = ", ".join(f"{name} {1000 * seconds:6.1f} ms" for name, seconds in costs.items())
        print(f"{size:5d} trials: {told}; the first look at all of them {read:.1f} s", flush=True)


def grown(sizes: Iterable[int]) -> Iterator[tuple[int, dict[str, float], float]]:
    """Yield by the number of trials a trial's median costs and those of the first look at all of them, in seconds."""
    worker.fit = empty  # type: ignore[attr-defined]
    with tempfile.TemporaryDirectory() as scratch:
        made = sweep(Path(scratch), 10**6)
        for size in sizes:
            _fill(made, size)
            fresh = Sweep(made.study, VARIANT)
            start = time.perf_counter()
            fresh.trials()
            read = time.perf_counter() - start
            costs: dict[str, list[float]] = {"claim": [], "suggest": [], "all": []}
            with fresh.locks.announce(f"{fresh.name}/workers/me"):
                for _ in range(9):
                    start = time.perf_counter()
                    trial = worker._claim(fresh, "me")
                    claimed = time.perf_counter()
                    assert trial is not None
                    fresh.settings(trial)
                    costs["suggest"].append(time.perf_counter() - claimed)
                    worker._trial(fresh, trial, lambda: None)
                    costs["claim"].append(claimed - start)
                    costs["all"].append(time.perf_counter() - start)
            yield size, {name: statistics.median(values) for name, values in costs.items()}, read


def _fill(made: Sweep, size: int) -> None:
    """Bring a study to so many finished trials, drawn at random."""
    draws = random.Random(size)
    space = made.study.params.space(VARIANT)
    kinds: dict[str, optuna.distributions.BaseDistribution] = {}
    for path, kind in space.items():
        if isinstance(kind, Choices):
            kinds[path] = optuna.distributions.CategoricalDistribution(kind.choices)
        elif isinstance(kind.low, int) and isinstance(kind.high, int):
            kinds[path] = optuna.distributions.IntDistribution(kind.low, kind.high, log=kind.log)
        else:
            kinds[path] = optuna.distributions.FloatDistribution(kind.low, kind.high, log=kind.log)
    missing = size - len(made.trials())
    with made.transaction():
        for _ in range(missing):
            made.optuna.sampler = optuna.samplers.RandomSampler(seed=draws.randrange(2**31))
            trial = made.optuna.ask(kinds)
            made.optuna.tell(trial, draws.random())


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["worker", folder]:
            work(Path(folder))
        case ["workers", *rest]:
            workers(int(rest[0]) if rest else 100)
        case ["trials"]:
            growth()
        case _:
            sys.exit(__doc__)
