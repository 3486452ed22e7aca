"""Matched comparisons: variants of as many weights as each other, or final trainings of as much time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import pipeline.jobs.final_models
import pipeline.jobs.train_seed
import pipeline.sweep.outputs
import pipeline.sweep.worker
from pipeline.errors import InputError
from pipeline.files import read_csv, read_json
from pipeline.jobs import final_models
from pipeline.models import build
from pipeline.params import Params
from pipeline.stages import fetch, prepare, train
from pipeline.study import Study
from pipeline.sweep import Sweep, run
from pipeline.training import Record, fit
from pipeline.training.matching import count_weights, match_weights, seconds_per_epoch
from tests.small import ROOT, covering, splits
from tests.workshop import make_study, rows


def params(weights: int | None = 20_000, **overrides: Any) -> Params:
    compare = {"match": "parameters", "parameters": weights, "seconds": None}
    return Params.read(ROOT / "params.yaml", {"compare": compare, "sweep.space": {}, **overrides})


MODELS: dict[str, dict[str, Any]] = {
    "chain": {},
    "deep": {"model.depth": 5, "model.parents": "every"},
    "ladder": {"model.inference": "top_down"},
    "conv": {"model.network": "conv", "model.hidden": [[8, 8], [64]]},
    "vamp": {"model.prior": "vamp"},
    "mixture": {"model.prior": "mixture"},
    "batch norm": {"model.batch_norm": True},
}


@pytest.mark.slow
@covering("model, weights", list(MODELS), [20_000, 100_000])
def test_hidden_widths_are_scaled_to_a_number_of_weights(model: str, weights: int) -> None:
    """Every kind of model comes within 1%, by its hidden widths alone; the model that is built has that number."""
    inputs, data = params(weights, **MODELS[model]), splits()
    matched = match_weights(inputs, data)
    built = build(matched.model, torch.as_tensor(data.mean, dtype=torch.float32), data.shape)
    count = sum(some.numel() for some in built.parameters())
    assert count == count_weights(matched.model, data)
    assert abs(count - weights) <= 0.01 * weights
    assert matched == inputs.override({"model.hidden": matched.model.hidden})


def test_a_model_that_has_the_number_stays_as_it_is() -> None:
    """Nothing is changed by `none`, and nothing where the number is the model's own."""
    data = splits()
    own = count_weights(params().model, data)
    assert match_weights(params(own), data) == params(own)
    other = Params.read(ROOT / "params.yaml")
    assert match_weights(other, data) is other


@pytest.mark.parametrize(
    ("weights", "overrides"), [(300, {}), (20_000, {"model.hidden": [[]]}), (10**9, {"model.hidden": [[8], []]})]
)
def test_a_number_that_no_widths_reach_is_one_line(weights: int, overrides: dict[str, Any]) -> None:
    """Too few for the units of the levels, no hidden layers, or too many for the widest: the line says what is near."""
    with pytest.raises(InputError, match=rf"^compare.parameters: {weights} given, but levels of 16 \+ 8 units have "):
        match_weights(params(weights, **overrides), splits())


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"compare.match": "parameters"}, "match 'parameters' needs parameters, a number above 0"),
        ({"compare.match": "time"}, "match 'time' needs seconds, a number above 0 that every variant gets, not null"),
        ({"compare.match": "weights"}, "compare.match: 'weights' given"),
        ({"compare.match": "time", "compare.seconds": 0.0}, "compare.seconds: 0.0 given"),
    ],
)
def test_what_a_match_needs_is_checked(overrides: dict[str, Any], message: str) -> None:
    """A match without its number is refused before anything runs."""
    with pytest.raises(InputError) as error:
        Params.read(ROOT / "params.yaml", overrides)
    assert message in str(error.value)


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """Return a study of two variants with its data prepared, whose stages run in this process."""
    monkeypatch.setenv("CAVE_THREADS", "1")
    monkeypatch.setenv("CAVE_WORKERS", "1")
    made = make_study(tmp_path, variants={"vae": {"model.depth": 1}, "hvae": {"model.depth": 3}})
    fetch.run(made)
    prepare.run(made)
    return made


@pytest.mark.slow
def test_trials_and_final_models_have_as_many_weights(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials of other widths of the levels have models of one size, and so have the final models of all variants."""
    sizes: list[int] = []

    def recorded(model: Any, *_: Any, **__: Any) -> Iterator[Record]:
        sizes.append(sum(weights.numel() for weights in model.parameters()))
        terms = ("elbo", "objective", "iwae", "kl", "reconstruction", *(f"rate/z{t}" for t in range(1, 4)))
        yield Record(1, 1, 0.1, 1_700_000_000_000, {f"valid/{name}": -float(sizes[-1]) for name in terms})

    monkeypatch.setattr(pipeline.sweep.worker, "fit", recorded)
    monkeypatch.setattr(pipeline.sweep.outputs, "_figures", lambda *_: [])
    space = {"model.z_dim": {"choices": [4, 16]}}
    compare = {"match": "parameters", "parameters": 50_000, "seconds": None}
    variants = {"vae": {"model.depth": 1}, "hvae": {"model.depth": 3}}
    matched = {"compare": compare, "variants": variants, "sweep.space": space, "train.seeds": [0], "train.epochs": 1}
    names = {Sweep(study, variant).name for variant in variants}
    actual = make_study(study.folder, **matched | {"model.hidden": [[32, 32]]})
    for variant in variants:
        run(Sweep(actual, variant), 1)
        train.run(actual, variant)
        sizes.append(read_json(actual.train(variant) / "seed-0" / "model.json")["parameters"])
        assert Sweep(actual, variant).name not in names
        assert final_models.trained(actual, variant)
    assert len(sizes) == 6
    assert max(sizes) <= 50_500
    assert min(sizes) >= 49_500


@pytest.mark.slow
def test_the_epochs_of_a_time_are_measured_once(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """All seeds and what goes on after an end in the middle have the number of epochs that was measured first."""
    measured = iter([0.5, 0.25])
    monkeypatch.setattr(pipeline.jobs.final_models, "seconds_per_epoch", lambda *_: next(measured))
    compare = {"match": "time", "parameters": None, "seconds": 2.2}
    timed = make_study(study.folder, compare=compare, variants={"vae": {"model.depth": 1}})
    lengths: list[int] = []

    def stopped(*args: Any, **kwargs: Any) -> Iterator[Record]:
        lengths.append(args[2].epochs)
        for record in fit(*args, **kwargs):
            yield record
            if len(lengths) == 2 and record.epoch == 2:
                raise KeyboardInterrupt

    monkeypatch.setattr(pipeline.jobs.train_seed, "fit", stopped)
    with pytest.raises(KeyboardInterrupt):
        train.run(timed, "vae")
    train.run(timed, "vae")
    assert lengths == [4] * 4  # two seeds, the second of which was stopped
    for seed in (0, 1):
        folder = timed.train("vae") / f"seed-{seed}"
        assert read_json(folder / "model.json")["epochs"] == 4
        assert [row["epoch"] for row in read_csv(folder / "curves.csv")] == ["1", "2", "3", "4"]
    logged = "select r.name, p.value from params p join runs r using (run_uuid) where p.key = 'train.epochs'"
    assert set(rows(timed.shared_root / "mlflow.db", logged)) == {("vae seed 0", "4"), ("vae seed 1", "4")}
    assert final_models.trained(timed, "vae")
    assert not (timed.cache / "train" / timed.unique_name / "vae").exists()
    train.run(timed, "vae")
    assert lengths[4:] == [8, 8]  # is measured anew where all is trained anew


def test_an_epoch_takes_time() -> None:
    """The time of an epoch is positive, and measuring it leaves the caller's random numbers alone."""
    before = torch.random.get_rng_state()
    assert 0 < seconds_per_epoch(Params.read(ROOT / "params.yaml"), splits(), 0, torch.device("cpu")) < 10
    assert torch.equal(torch.random.get_rng_state(), before)
