"""What a search maximizes: the metric that the study names, of the weights that a training would keep."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pipeline.sweep.outputs
import pipeline.sweep.worker
from pipeline import report
from pipeline.errors import InputError
from pipeline.files import read_csv, read_json
from pipeline.params import Params
from pipeline.report import inputs
from pipeline.report.search import search_text, write_search
from pipeline.stages import fetch, prepare
from pipeline.study import Study
from pipeline.sweep import Sweep, run
from pipeline.training import Record
from tests.small import ROOT
from tests.workshop import check_sweep, make_study, rows, trial_of

pytestmark = pytest.mark.slow

# Terms of the epochs 1, 2, 3 by the number of the trial: elbo, objective, iwae. The first has 4 units, the second 2.
PLANTED = {0: [(-1.0, -9.0, -9.0), (-5.0, -8.0, -6.0), (-4.0, -8.5, -8.0)], 1: [(-9.0, -3.0, -9.0)] * 2 + [(-9.0,) * 3]}


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """Return a study over the widths 4 and 2, whose trainings give the planted records."""
    monkeypatch.setattr(pipeline.sweep.worker, "fit", planted)
    monkeypatch.setattr(pipeline.sweep.outputs, "_figures", lambda *_: [])  # they take seconds
    made = make_study(tmp_path, **settings())
    fetch.run(made)
    prepare.run(made)
    return made


def settings(**overrides: Any) -> dict[str, Any]:
    space = {"model.z_dim": {"choices": [4, 2]}}
    return {"model.z_dim": 4, "sweep.space": space, "variants": {"vae": {"model.depth": 1}}} | overrides


def planted(*_: Any, **options: Any) -> Iterator[Record]:
    for epoch, values in enumerate(PLANTED[trial_of(options["folder"])], 1):
        metrics = dict(zip(("valid/elbo", "valid/objective", "valid/iwae"), values, strict=True))
        metrics |= {"valid/reconstruction": metrics["valid/elbo"] - 1.0, "valid/kl": 1.0, "valid/rate/z1": 1.0}
        yield Record(epoch, epoch, 0.1 * epoch, 1_700_000_000_000 + epoch, metrics)


def search(study: Study, **overrides: Any) -> tuple[dict[str, Any], dict[int, float]]:
    """Run the search with other settings; return the best trial, and the values of both by units."""
    changed = make_study(study.folder, **settings(**overrides))
    (best,) = run(Sweep(changed, "vae"), 1)
    table = read_csv(changed.sweep("vae") / "trials.csv")
    return best, {int(row["model.z_dim"]): float(row["value"]) for row in table}


WORTH: list[tuple[dict[str, Any], dict[int, float]]] = [
    # settings, the value of each trial by its units
    ({}, {4: -8.0, 2: -3.0}),
    ({"sweep.metric": "valid/iwae"}, {4: -6.0, 2: -9.0}),
    ({"sweep.metric": "valid/elbo"}, {4: -5.0, 2: -9.0}),  # at the epoch of the highest objective, not of -1
    ({"train.keep": "last"}, {4: -8.5, 2: -9.0}),
    ({"train.objective": "beta", "train.warmup": 2}, {4: -8.5, 2: -9.0}),
]


def test_a_trial_is_worth_what_its_kept_weights_are(study: Study) -> None:
    """The choice is by the metric, at the epoch whose weights a final training with these settings would keep.

    The pruner gets no epoch within the warm-up, and of each later one what a training ending there had kept.
    """
    query = "select v.step, v.intermediate_value from trial_intermediate_values v join trials t using (trial_id)"
    query += " join studies s using (study_id) where s.study_name = ? and t.number = 0 order by 1"
    reported = []
    for overrides, values in WORTH:
        best, changed = search(study, **overrides)
        assert changed == values
        assert best["params"]["model.z_dim"] == max(values, key=lambda units: values[units])
        assert best["metric"] == overrides.get("sweep.metric", "valid/objective")
        assert best["value"] == max(values.values())
        reported.append(dict(rows(study.shared_root / "optuna.db", query, best["optuna_study"])))
    assert reported[0] == {1: -9.0, 2: -8.0, 3: -8.0}
    assert reported[2] == {1: -1.0, 2: -5.0, 3: -5.0}
    assert reported[4] == {3: -8.5}


def test_every_reader_names_the_metric(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    """Line, table, file, tags, page and terminal say which metric the values are of."""
    best, _ = search(study, **{"sweep.metric": "valid/iwae"})
    changed = Study.at(study.folder)
    check_sweep(changed, "vae", 2)
    assert "trial 0   valid/iwae   -6.000 complete" in capsys.readouterr().out
    assert {row["metric"] for row in read_csv(changed.sweep("vae") / "trials.csv")} == {"valid/iwae"}
    assert read_json(changed.sweep("vae") / "best.json") == {"searches": [best]}
    assert inputs.best(changed, "vae")[0]["value"] == -6.0
    tags = "select value from tags where key = 'best/metric'"
    assert rows(changed.shared_root / "mlflow.db", tags) == [("valid/iwae",)]
    logged = "select m.value from metrics m join runs r using (run_uuid) where r.name = 'sweep vae' and m.key = ?"
    assert rows(changed.shared_root / "mlflow.db", logged, "valid/iwae") == [(-6.0,)]
    assert "valid/iwae (nats)" in search_text(changed)
    write_search(changed)
    assert "valid/iwae (nats)" in (changed.report / "report.html").read_text()
    assert report.search_text(changed) == search_text(changed)


def test_another_metric_is_another_search(study: Study) -> None:
    """Trials that were pruned by one metric are not ranked by another."""
    other = make_study(study.folder, **settings(**{"sweep.metric": "valid/elbo"}))
    assert Sweep(other, "vae").name != Sweep(study, "vae").name


REFUSED: list[tuple[dict[str, Any], str]] = [
    (
        {"train.objective": "beta", "sweep.space": {"train.beta": {"low": 0.5, "high": 2.0}}},
        "sweep.space.train.beta: searched for variant 'vae', but valid/objective, by which sweep.metric ranks the"
        " trials, is another quantity at each of its values; allowed: sweep.metric valid/iwae or valid/elbo",
    ),
    (
        {"sweep.space": {"train.free_bits": {"low": 0.0, "high": 2.0}}},
        "sweep.space.train.free_bits: searched for variant 'vae', but valid/objective,",
    ),
    (
        {"sweep.space": {"train.objective": {"choices": ["elbo", "iwae"]}}},
        "is another quantity at each of its values; allowed: sweep.metric valid/elbo",
    ),
    (
        {"train.objective": "iwae", "sweep.space": {"train.draws": {"low": 1, "high": 8}}},
        "sweep.space.train.draws: searched",
    ),
    (
        {
            "train.objective": "dreg",
            "sweep.metric": "valid/iwae",
            "sweep.space": {"train.draws": {"low": 1, "high": 8}},
        },
        "but valid/iwae, by which sweep.metric ranks the trials, is another quantity at each of its values;"
        " allowed: sweep.metric valid/elbo",
    ),
    (
        {"train.free_bits": 1.0, "sweep.space": {"model.depth": {"low": 1, "high": 3}}, "variants": {"hvae": {}}},
        "sweep.space.model.depth: searched for variant 'hvae', but valid/objective,",
    ),
    (
        {"sweep.metric": "valid/iwae", "variants": {"vae": {}, "iwae": {"train.objective": "iwae", "train.draws": 9}}},
        "sweep.metric: valid/iwae is L_k with k the draws of validation, which are 4 for variant 'vae', 9 for"
        " variant 'iwae'; allowed: one k",
    ),
    (
        {"train.objective": "beta", "train.warmup": 3},
        "sweep.epochs: 3 given, but the warm-up of variant 'vae' can last 3 epochs (train.warmup, train.warmup_stagger)"
        ", and only later epochs count; allowed: 4 or more",
    ),
    (
        {
            "train.objective": "beta",
            "train.warmup": 1,
            "train.warmup_stagger": 1,
            "sweep.space": {"model.depth": {"low": 1, "high": 3}},
            "variants": {"hvae": {}},
        },
        "the warm-up of variant 'hvae' can last 3 epochs",
    ),
    ({"sweep.metric": "valid/nll"}, "allowed: valid/objective, valid/elbo, valid/iwae"),
]


@pytest.mark.parametrize(("overrides", "message"), REFUSED, ids=[message[:60] for _, message in REFUSED])
def test_trials_that_the_metric_does_not_compare_are_refused(overrides: dict[str, Any], message: str) -> None:
    """A search over what changes the metric itself is refused in a line that says which metrics are left."""
    with pytest.raises(InputError) as error:
        Params.read(ROOT / "params.yaml", settings(**{"sweep.epochs": 3} | overrides))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "overrides",
    [
        {"sweep.metric": "valid/elbo", "sweep.space": {"train.objective": {"choices": ["elbo", "iwae", "dreg"]}}},
        {"sweep.metric": "valid/iwae", "sweep.space": {"train.free_bits": {"low": 0.0, "high": 2.0}}},
        {"sweep.space": {"train.draws": {"low": 1, "high": 8}}},  # of the elbo: draws of its estimate
        {"train.objective": "beta", "sweep.space": {"train.warmup": {"low": 0, "high": 2}}},  # validated at full weight
        {"train.objective": "beta", "train.warmup": 9, "sweep.space": {}},
    ],
    ids=str,
)
def test_trials_that_the_metric_compares_are_searched(overrides: dict[str, Any]) -> None:
    """Nothing is refused that leaves the metric what it is."""
    assert Params.read(ROOT / "params.yaml", settings(**{"sweep.epochs": 3} | overrides)).sweep.metric


@pytest.mark.nightly
def test_a_search_of_an_iwae_chooses_by_its_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On digits L_50 is higher with 16 units than with 4, and the elbo lower: 16 are chosen."""
    monkeypatch.setitem(os.environ, "CAVE_THREADS", "1")
    overrides = {"data.name": "digits", "model.z_dim": 16, "sweep.space": {"model.z_dim": {"choices": [4, 16]}}}
    overrides |= {"variants": {"iwae": {"model.depth": 1, "train.objective": "iwae", "train.draws": 50}}}
    study = make_study(tmp_path, **overrides, **{"model.hidden": [[64]], "sweep.epochs": 10, "train.batch_size": 64})
    fetch.run(study)
    prepare.run(study)
    (best,) = run(Sweep(study, "iwae"), 1)
    assert best["params"] == {"model.z_dim": 16}
    trials = {row["model.z_dim"]: row for row in read_csv(study.sweep("iwae") / "trials.csv")}
    elbo = {units: float(row["valid/reconstruction"]) - float(row["valid/kl"]) for units, row in trials.items()}
    assert elbo["4"] > elbo["16"] + 0.5  # by which the choice was 4
    assert float(trials["16"]["value"]) > float(trials["4"]["value"]) + 0.05
