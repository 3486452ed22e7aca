"""Long work prints a line at least every 30 seconds, by a clock that the tests set."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline import progress
from pipeline.data import cave
from pipeline.evaluation.annealing import Settings, annealed
from pipeline.models import build
from pipeline.progress import EVERY, Reporter, reporting, time_left, track_progress, work
from pipeline.report.cost import seed_cost
from pipeline.stages import evaluate, fetch, prepare, train
from pipeline.sweep import Sweep
from pipeline.sweep.progress import QUIET, Progress
from pipeline.text import plural
from pipeline.training import Record, print_progress
from tests.small import ROOT, model_params
from tests.workshop import DECOMPOSE, make_study


class Clock:
    """A clock that goes on by so many seconds with each look."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.now, self.seconds = 0.0, seconds

    def __call__(self) -> float:
        self.now += self.seconds
        return self.now


def epochs(total: int, seconds: float, clock: Clock) -> Iterator[Record]:
    """Yield the records of a training whose epochs take so many seconds."""
    for epoch in range(1, total + 1):
        clock.now += seconds
        yield Record(epoch, epoch, epoch * seconds, 0, {"valid/elbo": -90.0})


def counts(text: str, what: str = "epoch") -> list[int]:
    return [int(line.partition(what)[2].split()[0]) for line in text.splitlines()]


def test_a_long_training_prints_a_line_every_30_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    """Of 3,280 epochs of a second: the first, each fifth, the last, and in between one every 30 seconds."""
    clock = Clock()
    reporter = Reporter("vae seed 0", clock)
    for record in epochs(3280, 1.0, clock):
        print_progress(reporter, record, 3280, 100)
    out = capsys.readouterr().out
    lines = counts(out)
    assert lines[:3] == [1, 31, 61]
    assert {656, 1312, 1968, 2624, 3280} <= set(lines)
    assert max(after - before for before, after in pairwise(lines)) == 30
    assert "vae seed 0: epoch   31 of 3280, valid/elbo   -90.000, 31 s, about 54 min left\n" in out
    assert out.endswith("3280 s\n")


def test_a_short_training_prints_its_first_fifths_and_last(capsys: pytest.CaptureFixture[str]) -> None:
    """Eleven epochs of a moment: 1, every second one, and the eleventh."""
    clock = Clock()
    reporter = Reporter("vae seed 0", clock)
    for record in epochs(11, 0.01, clock):
        print_progress(reporter, record, 11, 100)
    out = capsys.readouterr().out
    assert counts(out) == [1, 2, 4, 6, 8, 10, 11]
    assert "left" not in out


def test_a_watched_loop_prints_how_far_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    """Steps of 12 seconds: a line after 36, with the time left; of a loop in a loop, that of the inner one."""
    clock = Clock()

    def steps(count: int) -> None:
        for _ in track_progress(range(count), "annealing", "chains"):
            clock.now += 12

    with reporting("mhvae seed 0", clock):
        steps(5)
        steps(2)
    assert capsys.readouterr().out.splitlines() == [
        "mhvae seed 0: annealing, 3 of 5 chains, about 24 s left",
        "mhvae seed 0: annealing, 1 of 2 chains, about 12 s left",
    ]


def test_a_loop_is_silent_outside_of_reporting_and_a_long_one_at_first(capsys: pytest.CaptureFixture[str]) -> None:
    """A loop whose caller prints at its end says nothing for 30 seconds of its own."""
    clock = Clock()
    assert list(track_progress([1, 2, 3], "annealing", "chains")) == [1, 2, 3]
    with reporting("vae seed 0", clock):
        for _ in range(5):
            for _ in track_progress(range(2), "epoch 1", "batches", long=True):
                clock.now += 10
        for _ in track_progress(range(5), "epoch 2", "batches", long=True):
            clock.now += 20
    assert capsys.readouterr().out.splitlines() == [
        "vae seed 0: epoch 2, 2 of 5 batches, about 60 s left",
        "vae seed 0: epoch 2, 4 of 5 batches, about 20 s left",
    ]


@pytest.mark.parametrize(
    ("done", "total", "seconds", "text"),
    [
        (0, 10, 5.0, ""),
        (10, 10, 5.0, ""),
        (5, 10, 0.5, ""),
        (1, 4, 15.0, ", about 45 s left"),
        (1, 11, 60.0, ", about 10 min left"),
        (1, 101, 360.0, ", about 10.0 h left"),
    ],
)
def test_the_time_left_is_by_the_rate_so_far(done: int, total: int, seconds: float, text: str) -> None:
    """In seconds, minutes or hours; nothing where there is no rate yet or no time left to speak of."""
    assert time_left(done, total, seconds) == text


@pytest.mark.nightly
@pytest.mark.slow
def test_annealing_prints_its_temperatures(capsys: pytest.CaptureFixture[str]) -> None:
    """The chains of a piece of work that is reported say at which temperature they are."""
    model = build(model_params(), torch.full((16,), 0.5), (1, 4, 4))
    x = torch.rand(2, 16).round()
    with reporting("mhvae seed 0", Clock(11.0)):
        annealed(model, x, Settings(temperatures=5, chains=2, leapfrog=1), simulated=2, draws=4)
    out = capsys.readouterr().out
    assert "mhvae seed 0: annealing, " in out
    assert " of 5 temperatures" in out
    assert "mhvae seed 0: tuning of annealing, " in out


@pytest.mark.nightly
def test_a_stage_prints_while_it_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By a clock that is fast, training prints each epoch and evaluation its bounds, gaps, surgery and annealing."""
    monkeypatch.setenv("CAVE_WORKERS", "1")
    monkeypatch.setenv("CAVE_THREADS", "1")
    monkeypatch.setattr(progress.Reporter, "due", property(lambda reporter: True))
    made = make_study(
        tmp_path, **{"train.seeds": [0], "train.epochs": 12, "variants": {"mhvae": {}}, "evaluate.decompose": DECOMPOSE}
    )
    fetch.run(made)
    prepare.run(made)
    train.run(made, "mhvae")
    lines = capsys.readouterr().out
    assert [f"mhvae seed 0: epoch {epoch:4d} of 12," in lines for epoch in range(1, 13)] == [True] * 12
    assert seed_cost(made) == ""  # is not evaluated yet
    evaluate.run(made, "mhvae")
    out = capsys.readouterr().out
    for what in ("bounds", "inner bounds", "surgery", "inference gaps", "annealing"):
        assert f"mhvae seed 0: {what}, " in out
    assert re.fullmatch(
        r"one more seed of all variants costs about (\S+) s of one worker, as the last run was: (\S+) s of training,"
        r" (\S+) s of evaluation",
        seed_cost(made),
    )
    assert "draws of the posterior" not in out  # within one batch, unless that takes 30 seconds


def test_a_sweep_prints_trials_that_have_no_epoch_yet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """After a silence each running trial gets a line, one before its first epoch too."""
    made = make_study(tmp_path)
    fetch.run(made)
    prepare.run(made)
    sweep, clock = Sweep(made, "mhvae"), Clock()
    trial = sweep.optuna.ask()
    tick = Progress(sweep, clock)
    capsys.readouterr()
    clock.now += QUIET - 1
    tick()
    assert capsys.readouterr().out == ""
    clock.now += 2
    tick()
    assert capsys.readouterr().out == "mhvae: trial 0   valid/objective     none at epoch 0   \n"
    sweep.optuna.tell(trial, -20.0)
    tick(now=True)
    assert "(1 of 4, best -20.000, about 63 s left)" in capsys.readouterr().out
    assert QUIET < EVERY


@pytest.mark.parametrize(("count", "text"), [(0, "0 runs"), (1, "1 run"), (2, "2 runs")])
def test_a_count_has_its_noun(count: int, text: str) -> None:
    """One run is no `1 runs`."""
    assert plural(count, "run") == text


def test_no_message_has_a_count_with_a_fixed_plural() -> None:
    """Counts that may be one go through `plural`."""
    words = "runs|trials|workers|epochs|settings|temporary files"
    fixed: Sequence[Any] = [
        (path.name, match[0])
        for path in sorted((ROOT / "pipeline").rglob("*.py"))
        for match in re.finditer(rf"\{{[^{{}}]+\}} ({words})\b", path.read_text())
    ]
    assert fixed == [("claims.py", "{attempts} workers")]


def test_rendering_says_how_far_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    """Images that take minutes to render print a line when 30 seconds have passed."""
    ticks = iter(range(0, 10_000, 31))
    with reporting("cave: prepare", lambda: float(next(ticks))):
        cave.render(cave.draw(130, 0), 28, False)
    assert "cave: prepare: rendering, 1 of 3 batches of 64 images" in capsys.readouterr().out


def test_silent_work_prints_a_line_every_30_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    """A step that takes minutes, and work without a loop, are reported by the thread that `reporting` starts."""
    clock = Clock()

    class Ended(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            clock.now += timeout or 0
            return clock.now > 100

    reporter = Reporter("vae seed 0", clock)
    work._beat(reporter, Ended())
    clock.now = 20
    reporter.epoch(2, 4, 20.0, -20.0)
    reporter.print("a line")
    work._beat(reporter, Ended())
    assert capsys.readouterr().out.splitlines() == [
        "vae seed 0: at work for 30 s",
        "vae seed 0: at work for 60 s",
        "vae seed 0: at work for 90 s",
        "vae seed 0: a line",
        "vae seed 0: epoch 2 of 4, about 50 s left",
        "vae seed 0: epoch 2 of 4, about 80 s left",
    ]
