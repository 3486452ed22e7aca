"""A grid: every combination of some values is tried once, whatever `sweep.trials` says."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.cli.common import grid_overrides
from pipeline.errors import InputError
from pipeline.files import read_csv, write_text
from pipeline.params import Params
from pipeline.params.ranges import Range
from pipeline.stages import fetch, prepare
from pipeline.sweep import Sweep, run
from tests.small import ROOT
from tests.workshop import check_sweep, make_study

GRID = {
    "sweep.sampler": "grid",
    "sweep.space": {"model.z_dim": {"choices": [2, 3]}, "model.depth": {"low": 1, "high": 2}},
}


@pytest.mark.slow
def test_every_setting_of_a_grid_is_tried_once(tmp_path: Path) -> None:
    """Four settings are four trials, though `sweep.trials` is 1, the file's own first; and none is left."""
    study = make_study(tmp_path, **GRID, **{"sweep.trials": 1, "sweep.epochs": 1, "model.z_dim": 3})
    fetch.run(study)
    prepare.run(study)
    sweep = Sweep(study, "mhvae")
    run(sweep, 1)
    check_sweep(study, "mhvae", 4)
    assert sweep.budget(sweep.trials()) == 4
    rows = read_csv(study.sweep("mhvae") / "trials.csv")
    assert [(row["model.z_dim"], row["model.depth"]) for row in rows] == [
        ("3", "2"),
        ("2", "1"),
        ("2", "2"),
        ("3", "1"),
    ]


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (
            {"train.learning_rate": {"low": 1e-3, "high": 1e-2}},
            "sweep.space.train.learning_rate: 0.001..0.01 given, which",
        ),
        ({"model.z_dim": {"low": 1, "high": 1000}, "model.depth": {"low": 1, "high": 3}}, "has 3000 settings"),
    ],
)
def test_a_grid_has_an_end(space: dict[str, object], message: str) -> None:
    """An interval without steps, and more settings than anybody waits for, are refused before anything runs."""
    with pytest.raises(InputError, match=message):
        Params.read(ROOT / "params.yaml", {"sweep.sampler": "grid", "sweep.space": space})


def test_steps_are_the_numbers_that_a_file_has() -> None:
    """0.1 + 2 * 0.1 is no 0.3 in floats, and would be tried beside it."""
    assert Range(low=0.1, high=0.7, step=0.1).values == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]


def test_grid_words_are_a_space(tmp_path: Path) -> None:
    """`--grid` makes a space of choices that holds the file's own value or else begins with the first."""
    write_text(tmp_path / "params.yaml", (ROOT / "params.yaml").read_text())
    words = ["model.depth=[1,2]", "train.learning_rate=[0.1,0.2]"]
    overrides = grid_overrides(tmp_path, "mhvae", words, {"model.z_dim": 5})
    assert overrides == {
        "model.z_dim": 5,
        "train.learning_rate": 0.1,
        "sweep.sampler": "grid",
        "sweep.space": {"model.depth": {"choices": [1, 2]}, "train.learning_rate": {"choices": [0.1, 0.2]}},
    }
    params = Params.read(tmp_path / "params.yaml", overrides)
    assert params.trials("mhvae") == 4
    assert params.trials("vae") == 2


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("model.depth=3", "--grid: model.depth: 3 given; allowed: a list of values, as in model.depth=\\[1,2\\]"),
        ("model.depth=[2,3]", "--grid: model.depth: variant 'vae' fixes it"),
        ("model.z_dim=[2,3]", "--grid: model.z_dim: --set gives it"),
        ("train.seeds=[0,1]", "set sweep.searches, as in --set sweep.searches=3"),
        ("model.depth", "--grid: 'model.depth' is not of the form path=value"),
    ],
)
def test_a_grid_that_is_none_gets_one_line(tmp_path: Path, word: str, message: str) -> None:
    """What is fixed, set or no list is refused."""
    write_text(tmp_path / "params.yaml", (ROOT / "params.yaml").read_text())
    with pytest.raises(InputError, match=message):
        grid_overrides(tmp_path, "vae", [word], {"model.z_dim": 5})
