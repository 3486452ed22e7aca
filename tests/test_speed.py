"""The benchmark: both sides of a ratio do the same work, and two runs compare as they should. Nothing here is timed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments.speed import peers
from experiments.speed.evaluation import CLOSE, difference
from experiments.speed.floor import products
from experiments.speed.growth import Point, draw, exponents
from experiments.speed.growth import table as growth_table
from experiments.speed.models import BATCHES, CHAINS, Chain, pixels, twin
from experiments.speed.overhead import SETTINGS
from experiments.speed.ratio import Row, alternate, row
from experiments.speed.result import Result, change, table
from experiments.speed.training import Training
from pipeline.models import HierarchicalVAE
from pipeline.objectives import elbo
from pipeline.params import Params
from tests.small import ROOT

chains = pytest.mark.parametrize("chain", CHAINS, ids=lambda chain: chain.name)
ROW = Row("training", "1 level", 2.0, 1.8, 2.2, "more", "images/s", {"this": 2.0, "script": 1.0})


def shaken(chain: Chain) -> HierarchicalVAE:
    """Return a model whose weights, biases too, are away from where they start."""
    torch.manual_seed(3)
    model = chain.model(0.3)
    with torch.no_grad():
        for weights in model.parameters():
            weights.add_(torch.randn_like(weights), alpha=0.02)
    return model


def weights(module: torch.nn.Module) -> int:
    return sum(part.numel() for part in module.parameters())


def result(**changes: Any) -> Result:
    machine = {"cpu": "a", "cores": 2, "platform": "b", "commit": "c", "date": "d", "load": 0.0, "busy": False}
    machine |= {"version/torch": "1"}
    return Result(**{"machine": machine, "scope": {"images": 1}, "rows": [ROW], "notes": []} | changes)


@chains
def test_the_script_has_the_models_of_this_project(chain: Chain) -> None:
    """Both have the same number of weights, and each of this project's stands in the script's once."""
    model = shaken(chain)
    script = twin(model, chain)
    assert weights(model) == weights(script)
    both = [torch.cat([part.detach().flatten() for part in each.parameters()]).sort()[0] for each in (model, script)]
    assert torch.equal(*both)


@chains
def test_the_script_maximizes_the_same_bound(chain: Chain) -> None:
    """On the same weights and images the mean bounds over many draws differ by less than 5 of their standard errors."""
    model = shaken(chain)
    script, x = twin(model, chain), (torch.rand(1, chain.widths[0]) < 0.4).float().expand(1000, -1)
    with torch.no_grad():
        mine, theirs = elbo(model, x, 1).elbo, script(x)
    error = ((mine.var() + theirs.var()) / len(x)).sqrt()
    assert (mine.mean() - theirs.mean()).abs() < 5 * error
    assert error < 1


@chains
def test_the_naive_evaluation_gives_the_same(chain: Chain) -> None:
    """L_k of the two forms differ by less than 1e-4 nats an image at the same draws, passes of all sizes."""
    assert difference(chain, images=25, draws=130) < CLOSE


def test_the_floor_is_of_the_model_as_trained() -> None:
    """A step's products at 2 operations each are three for every weight and image, but two for those on the image."""
    for chain in CHAINS:
        model = chain.model()
        dense = sum(part.numel() for part in model.parameters() if part.dim() == 2)
        first = chain.widths[0] * chain.hidden[0][0]
        assert sum(2 * a * b * c for a, b, c in products(chain, 7)) == 2 * 7 * (3 * dense - first)


@pytest.mark.parametrize("plain", [False, True])
def test_this_projects_epoch_is_trained(plain: bool) -> None:
    """A call is one epoch of updates over all images, the last batch being smaller."""
    training = Training(CHAINS[0], 20, pixels(50), plain=plain)
    before = training.run.adam.weights.clone()
    training()
    assert (training.run.epoch, training.run.step) == (1, 3)
    assert not torch.equal(before, training.run.adam.weights)


def test_a_trial_of_the_overhead_logs_some_twenty_metrics() -> None:
    """The model of the sweep has terms for 19 metrics an epoch, and ten epochs."""
    params = Params.read(ROOT / "params.yaml", SETTINGS)
    assert 2 * (3 + len(params.variant("mhvae").model.level_widths)) + 1 == 19
    assert params.sweep.epochs == 10


def test_measurements_alternate() -> None:
    """Each is taken once to warm up, then once a round, and every other round in the reverse order."""
    calls: list[str] = []

    def measure(name: str, value: float) -> float:
        calls.append(name)
        return value * (1 + calls.count(name))

    taken = alternate({"a": lambda: measure("a", 4.0), "b": lambda: measure("b", 2.0)}, 3)
    assert "".join(calls) == "ab" + "ab" + "ba" + "ab"
    assert taken == {"a": [12.0, 16.0, 20.0], "b": [6.0, 8.0, 10.0]}


def test_a_ratio_is_the_median_of_those_of_single_rounds() -> None:
    """Its range is the smallest and the largest of them."""
    compared = row("part", "a / b", {"a": [2.0, 9.0, 4.0], "b": [1.0, 3.0, 4.0]}, ("a", "b"), "x")
    assert (compared.low, compared.ratio, compared.high) == (1.0, 2.0, 3.0)
    assert compared.figures == {"a": 4.0, "b": 3.0}


@pytest.mark.parametrize(
    ("low", "ratio", "high", "better", "said"),
    [
        (1.8, 2.0, 2.2, "more", "+0% within"),
        (2.1, 2.4, 2.6, "more", "+20% within"),
        (2.3, 2.4, 2.6, "more", "+20% better"),
        (2.3, 2.4, 2.6, "less", "+20% WORSE"),
        (0.9, 1.0, 1.1, "more", "-50% WORSE"),
        (0.9, 1.0, 1.1, "less", "-50% better"),
    ],
)
def test_a_ratio_is_better_or_worse_where_the_ranges_do_not_meet(
    low: float, ratio: float, high: float, better: Any, said: str
) -> None:
    """A change within both ranges is reported as that; otherwise its side depends on what is better, more or less."""
    now = replace(ROW, low=low, ratio=ratio, high=high, better=better)
    assert change(now, replace(ROW, better=better)) == said


def test_a_run_is_read_as_it_was_written(tmp_path: Path) -> None:
    """The file gives back the run, and where there is none there is nothing to compare with."""
    path = tmp_path / "kept.json"
    assert Result.read(path) is None
    result().write(path)
    assert Result.read(path) == result()
    assert json.loads(path.read_text())["rows"][0]["ratio"] == 2.0


def test_the_table_stands_beside_the_kept_one() -> None:
    """A row is found by its name; a new one says so; no figure stands without its ratio."""
    now = result(rows=[replace(ROW, ratio=2.1), replace(ROW, what="3 levels")], notes=["peers: left out: no network"])
    text = table(now, result())
    one, three = (next(line for line in text.splitlines() if name in line) for name in ("1 level", "3 levels"))
    assert re.search(r"2\.10 +1\.80-2\.20 +2\.00 +\+5% within +this 2, script 1 images/s", one)
    assert re.search(r"2\.00 +1\.80-2\.20 +- +new ", three)
    assert text.endswith("peers: left out: no network")
    assert "kept:" not in text


def test_the_table_warns() -> None:
    """A busy machine, another machine and another size are each reported in a line."""
    machine = result().machine
    text = table(result(machine=machine | {"busy": True}), result(machine=machine | {"cpu": "z"}, scope={"images": 9}))
    assert "WARNING: the machine was busy" in text
    assert "kept: of another machine, z, 2 cores" in text
    assert "kept: of another size, images 9" in text


@pytest.mark.slow
def test_a_peer_answers_in_its_own_process() -> None:
    """The naive evaluation measures what it is asked for, and what a library prints is no answer."""
    chain = CHAINS[0]
    with peers.peer("script.py") as naive:
        assert naive.versions == {}
        assert naive(widths=chain.widths, hidden=chain.hidden, images=2, draws=3) > 0
        assert naive(widths=chain.widths, hidden=chain.hidden, images=2, draws=3) > 0


@pytest.mark.slow
def test_a_peer_that_breaks_says_why() -> None:
    """Its last line is the reason, so that the others are measured all the same."""
    with pytest.raises(peers.PeerError, match=r"TypeError.*'levels'"), peers.peer("script.py") as naive:
        naive(levels=1)
    with pytest.raises(peers.PeerError, match="No such file"), peers.peer("missing.py"):
        pass


def test_only_a_whole_run_is_kept() -> None:
    """A run of some parts, or of few repetitions, cannot be what others are compared with."""
    for words in (["--parts", "startup"], ["--repetitions", "2"]):
        command = [sys.executable, str(ROOT / "experiments" / "speed" / "measure.py"), "--keep", *words]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 2
        assert "only a whole run of 5 repetitions" in done.stderr


def test_the_models_are_those_of_the_paper() -> None:
    """One level of 50 units and two of 100 and 50, with 425 and 521 thousand weights."""
    assert [weights(chain.script()) // 1000 for chain in CHAINS] == [425, 521]
    assert BATCHES == (20, 100, 256)


# --- Growth


def test_a_local_exponent_is_the_slope_in_logarithms() -> None:
    """Of seconds that grow as the value's square it is 2, of what does not grow 0, of what was not measured none."""
    points = [Point(value, 3e-5 * value**2, None if value == 1000 else 40.0) for value in (10, 100, 1000)]
    assert exponents(points, "seconds") == [None, pytest.approx(2), pytest.approx(2)]
    assert exponents(points, "megabytes") == [None, pytest.approx(0), None]


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("axis", "few", "many"),
    [
        ("posteriors", "100", "500"),
        pytest.param("posteriors", "500", "5000", marks=pytest.mark.nightly),
        pytest.param("images", "1000", "20000", marks=pytest.mark.nightly),
        pytest.param("chains", "2", "50", marks=pytest.mark.nightly),
    ],
)
def test_growth_is_measured_printed_and_drawn(axis: str, few: str, many: str, tmp_path: Path) -> None:
    """More of what grows takes more memory, and the point of it stands in the table and in the figure."""
    words = [sys.executable, str(ROOT / "experiments" / "speed" / "growth.py"), "--point", axis]
    points = [
        Point(**json.loads(subprocess.run([*words, size], capture_output=True, check=True).stdout))
        for size in (few, many)
    ]
    assert points[1].megabytes > points[0].megabytes
    assert f"{points[1].seconds:.4g}" in growth_table({axis: points})
    draw({axis: points}, tmp_path / "growth.png")
    assert (tmp_path / "growth.png").read_bytes().startswith(b"\x89PNG")
