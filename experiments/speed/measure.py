"""How fast this project is: ratios to other forms of the same work, each measured side by side in one run.

    python experiments/speed/measure.py                   all parts but the peers, under 3 minutes (make bench)
    python experiments/speed/measure.py --full            larger, and against pythae and JAX (make bench-full)
    python experiments/speed/measure.py --parts training  some parts: training, evaluation, pipeline, startup, peers
    python experiments/speed/measure.py --profile         the torch profiler's tables instead
    python experiments/speed/measure.py --keep            keep the result: later runs are compared with it

A ratio is the median of at least five rounds, its range the smallest and the largest of them. Training and evaluation
are measured on one thread, by processor time, unless a row says otherwise; all else by the clock. More is better,
except for pipeline and start-up. The result is experiments/speed/latest.json; the one that is kept, kept.json.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[0] = str(ROOT)  # and not this folder, whose names are its own
os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
import pipeline  # noqa: E402, F401  before PyTorch, so that its threads wait as they do everywhere

os.environ |= {"CAVE_DEVICE": "cpu", "CAVE_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}

if TYPE_CHECKING:
    from experiments.speed.ratio import Row
    from experiments.speed.result import Result

PARTS = ("training", "evaluation", "pipeline", "startup", "peers")
FEWEST = 5  # repetitions


def rows(part: str, scope: dict[str, int], result: Result) -> Iterator[Row | str]:
    """Yield a part's ratios, or why some are left out."""
    from experiments.speed import evaluation, overhead, startup, training

    images, repetitions, compiled = scope["images"], scope["repetitions"], bool(scope["compiled"])
    cores: int = result.machine["cores"]
    match part:
        case "training":
            yield from training.measure(images, repetitions, cores, compiled)
            if cores == 1:
                yield "training: 2 threads left out: there is one core"
        case "evaluation":
            yield from evaluation.measure(40, scope["draws"], repetitions)
        case "pipeline":
            yield from overhead.measure(scope["trials"], repetitions)
        case "startup":
            yield from startup.measure(repetitions)
        case "peers":
            versions: dict[str, str] = {}
            yield from training.against_peers(images, repetitions, compiled, versions)
            result.machine |= {f"version/{name}": word for name, word in versions.items()}


def main() -> None:
    """Measure, print and write."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--full", action="store_true")
    words.add_argument("--parts", nargs="+", choices=PARTS)
    words.add_argument("--profile", action="store_true")
    words.add_argument("--keep", action="store_true")
    words.add_argument("--repetitions", type=int, default=FEWEST)
    words.add_argument("--images", type=int, help="of a training's epoch; default: 6,000, with --full 10,000")
    given = words.parse_args()
    if given.keep and (given.parts or given.repetitions < FEWEST):
        words.error(f"--keep: only a whole run of {FEWEST} repetitions or more is kept")

    import torch  # after the words: it takes seconds

    from experiments.speed import profiles
    from experiments.speed.result import Result, table
    from pipeline.processes.malloc import tune_malloc

    tune_malloc()  # as every worker does
    torch.set_num_threads(1)
    scope = {
        "images": given.images or (10_000 if given.full else 6_000),
        "draws": 5000 if given.full else 500,
        "trials": 8 if given.full else 3,
        "repetitions": given.repetitions,
        "compiled": int(given.full and shutil.which(os.environ.get("CXX", "g++")) is not None),
    }
    if given.profile:
        profiles.show(scope["draws"])
        return
    result = Result.begin(ROOT, scope)
    if result.machine["busy"]:
        print(result.head[-1], file=sys.stderr, flush=True)
    for part in given.parts or (PARTS if given.full else PARTS[:-1]):
        for found in rows(part, scope, result):
            if isinstance(found, str):
                result.notes.append(found)
            else:
                result.rows.append(found)
                print(f"{found.key}: {found.ratio:.2f} ({found.low:.2f}-{found.high:.2f})", file=sys.stderr, flush=True)
    result.write(HERE / "latest.json")
    print(table(result, Result.read(HERE / "kept.json")))
    if given.keep:
        result.write(HERE / "kept.json")


if __name__ == "__main__":
    main()
