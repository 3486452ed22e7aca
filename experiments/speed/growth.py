"""How time and memory grow: a table with local exponents, growth.json, and the log-log figure growth.png.

    python experiments/speed/growth.py                     all axes (make growth): under 5 minutes on two cores
    python experiments/speed/growth.py --axes depth draws  some of them, named as in the table
    python experiments/speed/growth.py --quick             to a tenth of all but depth and width
    python experiments/speed/growth.py --figure            the figure again, from growth.json

Every point is a process of its own: seconds are the processor's, of one thread, the least of three; megabytes are the
peak above what the process held before the work. A local exponent is the slope between a point and the one before it,
in logarithms: 1 where ten times as much takes ten times as long. `work` is the exponent of the work itself.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
if __name__ == "__main__":
    sys.path[0] = str(ROOT)  # and not this folder, whose names are its own
    os.environ |= {"CAVE_DEVICE": "cpu", "CAVE_THREADS": "1", "OMP_NUM_THREADS": "1"}
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"

PIXELS = 784
BATCH = 100
TIMES = 3


@dataclass(frozen=True)
class Axis:
    """What grows."""

    what: str  # is measured
    unit: str  # of the values
    values: tuple[int, ...]
    work: float  # exponent of the work in the value


AXES = {
    "images": Axis("an epoch of training", "images", (1000, 10_000, 100_000, 1_000_000), 1),
    "depth": Axis("an epoch of training", "levels", (1, 2, 4, 8, 16), 1),
    "width": Axis("an epoch of training", "hidden units a layer", (64, 128, 256, 512, 1024), 2),
    "draws": Axis("L_k of 20 images", "draws k an image", (50, 500, 5000, 50_000), 1),
    "posteriors": Axis("surgery at 100 queries", "posteriors", (500, 5000, 50_000), 1),
    "chains": Axis("annealing of an image", "chains", (10, 100, 1000), 1),
    "trials": Axis("a trial's coordination", "trials in the study", (100, 1000, 5000), 0),
}


@dataclass(frozen=True)
class Point:
    """One measurement."""

    value: int
    seconds: float
    megabytes: float | None


def point(axis: str, value: int) -> Point:
    """Measure in this process."""
    import torch

    from pipeline.processes.malloc import tune_malloc

    tune_malloc()  # as every worker does
    torch.set_num_threads(1)
    work = _work(axis, value)
    before = _held()
    seconds = []
    for _ in range(2 if axis == "images" and value > 100_000 else TIMES):
        start = time.process_time()
        work()
        seconds.append(time.process_time() - start)
    return Point(value, min(seconds), max(0.0, _peak() - before))


def _peak() -> float:
    """Return the most memory that this process has had, in MB."""
    with suppress(OSError):  # where Linux tells it; `ru_maxrss` counts what started this process there, too
        marks = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return int(marks["VmHWM"].split()[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _work(axis: str, value: int) -> Callable[[], Any]:
    from experiments.speed.evaluation import Evaluation, binary
    from experiments.speed.models import CHAINS, Chain, pixels
    from experiments.speed.training import Training
    from pipeline.evaluation.annealing import Settings, sandwich
    from pipeline.evaluation.surgery import surgery

    if axis == "draws":
        evaluation = Evaluation(CHAINS[0], 20, value)
        Evaluation(CHAINS[0], 20, 1)()
        return evaluation
    if axis == "posteriors":
        model, x = CHAINS[1].model(), binary(value)
        return partial(surgery, model, x, queries=100, paths=100, inner=100, pairs=100)
    if axis == "chains":
        settings = Settings(temperatures=100, chains=value, leapfrog=5)
        return partial(sandwich, CHAINS[1].model(), binary(1), settings)
    chain, images = Chain((PIXELS, 32), ((64, 64),)), 4000
    if axis == "images":
        images = value
    elif axis == "depth":
        chain = Chain((PIXELS, *[32] * value), ((64, 64),) * value)
    else:
        chain = Chain((PIXELS, 32), ((value, value),))
    Training(chain, BATCH, pixels(2 * BATCH))()  # what is loaded at first use is no growth
    data = pixels(images)
    made: list[Training] = []

    def epoch() -> None:
        made[:] = made or [Training(chain, BATCH, data)]  # the data set's own form is a part of the memory
        made[0]()

    return epoch


def _held() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def measure(axis: str, quick: bool) -> Iterator[Point]:
    """Yield an axis's points."""
    values = AXES[axis].values
    if quick and axis not in ("depth", "width"):
        values = values[:-1]
    if axis == "trials":
        from experiments.scale.measure import grown

        for size, costs, _ in grown(values):
            yield Point(size, costs["all"], None)
        return
    for value in values:
        words = [sys.executable, __file__, "--point", axis, str(value)]
        told = subprocess.run(words, capture_output=True, text=True, check=True).stdout
        yield Point(**json.loads(told.splitlines()[-1]))


def exponents(points: list[Point], name: str) -> list[float | None]:
    """Return the slope from each point to the next, none for the first."""
    found: list[float | None] = [None]
    for a, b in pairwise(points):
        low, high = getattr(a, name), getattr(b, name)
        found.append(math.log(high / low) / math.log(b.value / a.value) if low and high else None)
    return found


def table(grown: dict[str, list[Point]]) -> str:
    """Return all points in text."""
    lines = [f"{'axis':8}{'value':>10}{'seconds':>12}{'exponent':>10}{'work':>6}{'MB':>9}{'exponent':>10}"]
    for axis, points in grown.items():
        lines.append(f"{axis}: {AXES[axis].what}, by {AXES[axis].unit}")
        rows = zip(points, exponents(points, "seconds"), exponents(points, "megabytes"), strict=True)
        for at, time_, memory in rows:
            megabytes = "-" if at.megabytes is None else f"{at.megabytes:,.0f}"
            lines.append(
                f"{'':8}{at.value:>10,}{at.seconds:>12.4g}{_told(time_):>10}{AXES[axis].work:>6g}"
                f"{megabytes:>9}{_told(memory):>10}"
            )
    return "\n".join(lines)


def _told(exponent: float | None) -> str:
    return "-" if exponent is None else f"{exponent:.2f}"


def draw(grown: dict[str, list[Point]], path: Path) -> None:
    """Draw time above and memory below, a column an axis."""
    from matplotlib.ticker import NullFormatter, NullLocator

    from pipeline.figures.style import GREY, blank, line, plain, save

    caption = (
        "Each point is a process of its own, one thread. Dashed: how the work grows, through the last point; a curve "
        "that is flatter pays fixed costs at its left end. Memory is the peak above that of the idle process; of the "
        "images it is what they take themselves. Surgery and annealing (100 temperatures, 5 steps a move) are of two "
        "levels. A trial's time is that of everything but its training, by the clock."
    )
    figure = blank(5.6, "How time and memory grow", caption, width=2.75 * len(grown) + 0.6)
    panels = figure.subplots(2, len(grown), squeeze=False)
    kinds = (("seconds", "processor time (s)", "#0072B2"), ("megabytes", "memory (MB)", "#D55E00"))
    for column, (axis, points) in enumerate(grown.items()):
        values = [at.value for at in points]
        for row, (name, label, tone) in enumerate(kinds):
            axes, found = panels[row][column], [getattr(at, name) for at in points]
            if None in found:
                axes.set_visible(False)
                continue
            work = AXES[axis].work if row == 0 else min(1, AXES[axis].work)
            if row == 0 or axis == "images":
                axes.plot(values, [found[-1] * (v / values[-1]) ** work for v in values], "--", color=GREY, lw=1)
            axes.plot(values, found, "o-", color=tone, ms=5)
            plain(axes, AXES[axis].what if row == 0 else "", AXES[axis].unit, label if column == 0 else "")
            axes.set_xscale("log")
            axes.set_yscale("log")
            low, high = min(found), max(found)
            axes.set_ylim(min(low, high / 10) / 2, high * 2)
            axes.set_xticks(values, [_short(value) for value in values])
            axes.xaxis.set_minor_locator(NullLocator())
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.yaxis.set_minor_formatter(NullFormatter())
    dashed = line("as the work", GREY, ls="--", lw=1)
    panels[0][0].legend(handles=[dashed], loc="upper left", fontsize=9, frameon=False)
    save(figure, path)


def _short(value: int) -> str:
    for size, letter in ((10**6, "M"), (1000, "k")):
        if value >= size and value % size == 0:
            return f"{value // size}{letter}"
    return str(value)


def main() -> None:
    """Measure, print, write and draw."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--axes", nargs="+", choices=list(AXES), default=list(AXES))
    words.add_argument("--quick", action="store_true")
    words.add_argument("--figure", action="store_true")
    words.add_argument("--point", nargs=2, help=argparse.SUPPRESS)
    given = words.parse_args()
    if given.point:
        print(json.dumps(asdict(point(given.point[0], int(given.point[1])))))
        return
    from pipeline.files import read_json, write_json

    path, grown = HERE / "growth.json", {}
    if given.figure:
        kept = read_json(path, "axes")["axes"]
        grown = {axis: [Point(**at) for at in points] for axis, points in kept.items()}
    else:
        import torch

        from pipeline.run_folders.provenance import machine

        for axis in given.axes:
            grown[axis] = list(measure(axis, given.quick))
            print(table({axis: grown[axis]}), file=sys.stderr, flush=True)
        axes = {axis: [asdict(at) for at in points] for axis, points in grown.items()}
        about = machine(torch.device("cpu")) | {"load": round(os.getloadavg()[0], 2), "date": time.strftime("%Y-%m-%d")}
        write_json(path, {"machine": about, "axes": axes})
    print(table(grown))
    draw(grown, HERE / "growth.png")


if __name__ == "__main__":
    main()
