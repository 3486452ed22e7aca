"""Several searches a variant: each is an Optuna study of its own, and the seeds take turns in their best settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.doctor.finding import Target
from pipeline.doctor.unfinished import _today
from pipeline.errors import InputError
from pipeline.files import read_csv, read_json, write_json, write_text
from pipeline.jobs import final_models
from pipeline.params import Params
from pipeline.stages import fetch, prepare, train
from pipeline.stages import sweep as stage
from pipeline.study import Study
from pipeline.sweep import Sweep, join, outputs, run
from pipeline.tracking import mark_current
from tests.small import ROOT
from tests.workshop import check_sweep, make_study, rows

pytestmark = pytest.mark.slow

VARIANT = "mhvae"
SMALL: dict[str, Any] = {"variants": {VARIANT: {}}, "sweep.trials": 2, "sweep.epochs": 1, "train.epochs": 2}


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """Return a small study of one variant with its data prepared, whose stages run in this process."""
    monkeypatch.setenv("CAVE_THREADS", "1")
    monkeypatch.setenv("CAVE_WORKERS", "1")
    monkeypatch.setattr(outputs, "_figures", _drawn)  # which takes most of the time
    made = make_study(tmp_path, **SMALL)
    fetch.run(made)
    prepare.run(made)
    return made


def _drawn(outcome: outputs.Outcome) -> list[Path]:
    path = outputs._picture(outcome.sweep, outputs.MAP)
    write_text(path, "a figure")
    return [path]


def again(study: Study, **overrides: Any) -> Study:
    """Return the same study with other settings."""
    return make_study(study.folder, **SMALL | overrides)


def write_best(study: Study, *settings: dict[str, Any]) -> None:
    """Write what searches with these best settings leave."""
    entries = [{"trial": 0, "params": values, "metric": "valid/objective", "value": -1.0} for values in settings]
    write_json(study.sweep(VARIANT) / "best.json", {"searches": entries})


# --- Settings by seed


def test_seeds_take_turns_in_the_searches(tmp_path: Path) -> None:
    """Seed j, by its position, is trained with the best settings of search j mod searches."""
    study = make_study(tmp_path, **{"sweep.searches": 2, "train.seeds": [7, 3, 0]})
    write_best(study, {"model.depth": 3}, {"model.depth": 4})
    assert [final_models.settings(study, VARIANT, seed).model.depth for seed in (7, 3, 0)] == [3, 4, 3]


@pytest.mark.parametrize("searches", [0, -1, 1.5, True, "two"])
def test_the_number_of_searches_is_a_whole_number_from_1(searches: Any) -> None:
    """Anything else is one line that names the parameter."""
    with pytest.raises(InputError, match=r"^overrides?.*sweep.searches|^--set: sweep.searches"):
        Params.read(ROOT / "params.yaml", {"sweep.searches": searches})


def test_more_searches_than_seeds_are_refused() -> None:
    """A search that no seed would use is refused; where nothing is searched the number has no use, and no harm."""
    message = r"^sweep.searches: 4 given, but train.seeds has 3 seeds, and each is .*; allowed: at most 3$"
    with pytest.raises(InputError, match=message):
        Params.read(ROOT / "params.yaml", {"sweep.searches": 4})
    assert Params.read(ROOT / "params.yaml", {"sweep.searches": 3}).sweep.searches == 3
    assert Params.read(ROOT / "params.yaml", {"sweep.searches": 4, "sweep.space": {}}).sweep.searches == 4


def test_results_of_another_number_of_searches_are_not_trained(tmp_path: Path) -> None:
    """The line says to run the sweep again; the file of an older version has the one search that it was."""
    study = make_study(tmp_path, **{"sweep.searches": 2})
    old = {"trial": 0, "params": {"model.depth": 3}}
    write_json(study.sweep(VARIANT) / "best.json", old)
    with pytest.raises(InputError, match=r"the results of 1 search, and sweep.searches is 2; run stage sweep again: `"):
        final_models.settings(study, VARIANT, 0)
    study = make_study(tmp_path)
    write_json(study.sweep(VARIANT) / "best.json", old)
    assert final_models.settings(study, VARIANT, 1).model.depth == 3


def test_an_empty_space_says_that_it_has_no_search(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    """A variant with nothing to search ignores the number of searches in a line, and all seeds have its settings."""
    none = again(study, **{"sweep.searches": 2, "sweep.space": {}})
    stage.run(none, VARIANT)
    assert "settings are taken as they are, and sweep.searches (2) is not used\n" in capsys.readouterr().out
    assert [final_models.settings(none, VARIANT, seed) for seed in (0, 1)] == [none.params.variant(VARIANT)] * 2


# --- The searches


def test_each_search_is_a_study_of_its_own(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    """More searches leave the first as it is; the files hold all, MLflow marks all, and a second run does nothing."""
    (first,) = run(Sweep(study, VARIANT), 1)
    table = read_csv(study.sweep(VARIANT) / "trials.csv")
    runs = rows(study.shared_root / "mlflow.db", "select run_uuid from runs")
    two = again(study, **{"sweep.searches": 2})
    names = [search.name for search in Sweep(two, VARIANT).searches()]
    assert names[0] == Sweep(study, VARIANT).name == first["optuna_study"]
    assert names[1].startswith(f"{study.name}/{VARIANT}-search-1-")
    capsys.readouterr()
    stage.run(two, VARIANT)
    output = capsys.readouterr().out
    assert f"{VARIANT} search 0: 2 of 2 trials were finished before" in output
    assert f"{VARIANT} search 1: trial 1 " in output
    assert "(4 of 4, best" in output
    check_sweep(two, VARIANT, 2, searches=2)

    folder = two.sweep(VARIANT)
    best, runs_of = (read_json(folder / name)["searches"] for name in ("best.json", "mlflow.json"))
    assert [entry["optuna_study"] for entry in best] == names
    assert best[0] == first
    whole = read_csv(folder / "trials.csv")
    assert whole[:2] == table
    assert [(row["search"], row["number"]) for row in whole] == [("0", "0"), ("0", "1"), ("1", "0"), ("1", "1")]
    assert whole[1]["model.z_ratio"] != whole[3]["model.z_ratio"]  # another sampler seed draws other settings, and
    assert whole[0]["value"] != whole[2]["value"]  # those that both begin with are trained by other random numbers
    assert [list(entry["trials"].values()) for entry in runs_of] == [
        [row["run_id"] for row in whole if row["search"] == number] for number in ("0", "1")
    ]
    pictures = {path.name for path in (folder / "figures").iterdir()}
    assert pictures == {"search-0-depth_width.png", "search-1-depth_width.png"}
    (folder / "figures" / "search-0-depth_width.png").unlink()  # as where another host has published that search
    outputs.write(outputs.Outcome.of(Sweep(two, VARIANT, search=1)))
    assert {path.name for path in (folder / "figures").iterdir()} == pictures
    assert _today(Target(two.root, two.folder, two.shared_root, two.out), needed=True) == set(names)

    assert current(two) == {"true": 6}
    before = rows(two.shared_root / "mlflow.db", "select run_uuid from runs")
    assert len(before) == len(runs) + 3
    stage.run(two, VARIANT)
    assert rows(two.shared_root / "mlflow.db", "select run_uuid from runs") == before
    stage.run(again(study), VARIANT)  # one search again
    assert read_csv(folder / "trials.csv") == table
    assert current(study) == {"true": 3, "false": 3}
    assert [path.name for path in (folder / "figures").iterdir()] == ["depth_width.png"]


def current(study: Study) -> dict[str, int]:
    """Count the runs by their tag `current`."""
    mark_current(study)
    return dict(
        rows(study.shared_root / "mlflow.db", "select value, count(*) from tags where key = 'current' group by 1")
    )


@pytest.mark.nightly
def test_a_host_that_joins_goes_through_all_searches(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """It helps with whichever is unfinished, and writes the outputs of all where nobody else does."""
    two = again(study, **{"sweep.searches": 2})
    commands: list[list[str]] = []

    def run_inline(asked: list[list[str]], *_: Any, **__: Any) -> None:
        commands.extend(asked)
        with monkeypatch.context() as worker:
            worker.chdir(two.folder)
            stage.main(*asked[0][2:])

    monkeypatch.setattr("pipeline.processes.run", run_inline)
    run(Sweep(study, VARIANT), 1)  # the first is finished
    join(Sweep(two, VARIANT), 1)
    assert commands == [["pipeline.stages", "sweep", VARIANT, "--search=1", "--worker"]]
    check_sweep(two, VARIANT, 2, searches=2)
    assert len(read_csv(two.sweep(VARIANT) / "trials.csv")) == 4
    assert len(read_json(two.sweep(VARIANT) / "best.json")["searches"]) == 2


# --- Seeds with different models


def test_seeds_of_different_depth_are_trained_and_averaged_openly(
    study: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    """The curve that DVC plots has what all seeds have, and a line names what only some have."""
    two = again(study, **{"sweep.searches": 2})
    write_best(two, {"model.depth": 2, "model.z_dim": 4}, {"model.depth": 3, "model.z_dim": 8})
    train.run(two, VARIANT)
    models = [read_json(two.train(VARIANT) / f"seed-{seed}" / "model.json") for seed in (0, 1)]
    assert [len(model["widths"]) for model in models] == [2, 3]
    assert final_models.trained(two, VARIANT)
    columns = set(read_csv(two.curves(VARIANT))[0])
    assert {"valid/rate/z2", "valid/elbo"} <= columns
    assert "valid/rate/z3" not in columns
    assert (
        f"{VARIANT}: {VARIANT}.csv lacks train/rate/z3, valid/rate/z3, which only some seeds have\n"
        in capsys.readouterr().out
    )
    write_best(two, {"model.depth": 2, "model.z_dim": 4}, {"model.depth": 2, "model.z_dim": 8})
    assert not final_models.trained(two, VARIANT)


def test_each_seed_has_the_epochs_that_fit_for_its_own_model(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `compare.match: time` an epoch is timed once for each search's settings, not once for all seeds."""
    timed: list[int] = []

    def seconds(params: Params, *_: Any) -> float:
        timed.append(params.model.depth)
        return float(params.model.depth)

    monkeypatch.setattr(final_models, "seconds_per_epoch", seconds)
    settings = {"sweep.searches": 2, "train.seeds": [0, 1, 2], "compare.match": "time", "compare.seconds": 6.0}
    two = again(study, **settings)
    write_best(two, {"model.depth": 2}, {"model.depth": 3})
    train.run(two, VARIANT)
    curves = [read_csv(two.train(VARIANT) / f"seed-{seed}" / "curves.csv") for seed in (0, 1, 2)]
    assert [len(curve) for curve in curves] == [3, 2, 3]
    assert timed == [2, 3]
