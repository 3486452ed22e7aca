"""Training goes on as if never stopped, keeps the best weights, names what breaks, leaves the caller's dice alone."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor

import pipeline.objectives
import pipeline.training.loop
import pipeline.training.state
import pipeline.training.step
from pipeline.data import Splits
from pipeline.data.images import to_unit_interval
from pipeline.errors import InputError
from pipeline.models import HierarchicalVAE, build
from pipeline.models.checkpoint import read_state
from pipeline.objectives import ELBO, elbo
from pipeline.params import TrainParams
from pipeline.randomness import seeded
from pipeline.training import SCHEDULES, NonFiniteError, Record, best_record, fit, terms
from pipeline.training.manual import ManualGradient
from pipeline.training.step import Step
from tests.small import covering, model_params, splits, train_params

OBJECTIVES: dict[str, dict[str, Any]] = {
    "elbo": {"objective": "elbo", "draws": 2},
    "iwae": {"objective": "iwae", "draws": 3},
    "beta": {"objective": "beta", "beta": 2.0, "warmup": 4},
}


def model(data: Splits, **changes: Any) -> HierarchicalVAE:
    """Build a small model, the same at every call."""
    with seeded(0, "weights"):
        return build(model_params(**changes), torch.tensor(data.mean, dtype=torch.get_default_dtype()))


def train(
    params: TrainParams, seed: int = 0, folder: Path | None = None, **changes: Any
) -> tuple[HierarchicalVAE, list[Record]]:
    """Train a small model to the end."""
    data = splits()
    built = model(data, **changes)
    return built, list(fit(built, data, params, seed=seed, folder=folder))


def curve(records: list[Record]) -> list[tuple[int, int, dict[str, float]]]:
    """Return what of the records does not depend on the clock."""
    return [(record.epoch, record.step, record.metrics) for record in records]


def weights(of: HierarchicalVAE) -> dict[str, Tensor]:
    """Return a copy of a model's weights."""
    return {name: value.clone() for name, value in of.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Are all tensors equal, bit for bit?"""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# --- Interruption


def clean(folder: Path, params: TrainParams, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop after three epochs, between two of them."""
    data = splits()
    run = fit(model(data), data, params, seed=0, folder=folder)
    for _ in range(3):
        next(run)
    run.close()


def before_the_state(folder: Path, params: TrainParams, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop in the fourth epoch, neither its state nor its line in the log written."""
    write = pipeline.training.state.write_state

    def stop(path: Path, tensors: dict[str, Tensor], counters: list[Any]) -> None:
        if counters[0] == 4:
            raise KeyboardInterrupt
        write(path, tensors, counters)

    data = splits()
    with monkeypatch.context() as patch:
        patch.setattr(pipeline.training.state, "write_state", stop)
        with pytest.raises(KeyboardInterrupt):
            list(fit(model(data), data, params, seed=0, folder=folder))
    assert len((folder / "log.jsonl").read_text().splitlines()) == 3


def between_state_and_line(folder: Path, params: TrainParams, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop in the fourth epoch, its state written, its line in the log not."""
    clean(folder, params, monkeypatch)
    data, lines = splits(), (folder / "log.jsonl").read_bytes()
    training = fit(model(data), data, params, seed=0, folder=folder)
    assert [next(training).epoch for _ in range(4)] == [1, 2, 3, 4]
    (folder / "log.jsonl").write_bytes(lines)


def with_a_torn_record(folder: Path, params: TrainParams, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop while the fourth line is written."""
    clean(folder, params, monkeypatch)
    with (folder / "log.jsonl").open("a") as file:
        file.write('{"type": "epoch", "epoch": 4, "step": 16, "seco')


def without_its_last_records(folder: Path, params: TrainParams, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop after three epochs by a power cut: of the lines only the first has reached the disk whole."""
    clean(folder, params, monkeypatch)
    path = folder / "log.jsonl"
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0] + b"\0\xff" * 100)


def in_the_first_epoch(folder: Path, params: TrainParams, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop with a torn first line and no state."""
    folder.mkdir()
    (folder / "log.jsonl").write_text('{"type": "epoch", "epoch": 1, "st')


def at_the_end(folder: Path, params: TrainParams, monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not stop."""
    data = splits()
    list(fit(model(data), data, params, seed=0, folder=folder))


@covering(
    "interrupt, objective",
    [
        clean,
        before_the_state,
        between_state_and_line,
        with_a_torn_record,
        without_its_last_records,
        in_the_first_epoch,
        at_the_end,
    ],
    list(OBJECTIVES),
)
def test_a_resumed_training_is_the_uninterrupted_one(
    objective: str,
    interrupt: Callable[[Path, TrainParams, pytest.MonkeyPatch], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Metrics, counters and weights are equal bit for bit, wherever the training stopped."""
    params = train_params(epochs=6, schedule="cosine", **OBJECTIVES[objective])
    whole, records = train(params)
    interrupt(tmp_path / "run", params, monkeypatch)
    resumed, again = train(params, folder=tmp_path / "run")
    assert len(records) == 6
    assert curve(again) == curve(records)
    assert same(weights(resumed), weights(whole))
    lines = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3, 4, 5, 6]


def test_records_that_were_there_come_back_as_they_were(tmp_path: Path) -> None:
    """A training that is over trains no more: it yields its old records, times and all, and the best weights."""
    params = train_params(epochs=3)
    first, records = train(params, folder=tmp_path)
    state = (tmp_path / "state.safetensors").read_bytes()
    second, again = train(params, folder=tmp_path)
    assert again == records
    assert same(weights(first), weights(second))
    assert (tmp_path / "state.safetensors").read_bytes() == state


def test_the_state_is_on_disk_before_its_record_is_given(tmp_path: Path) -> None:
    """At the moment a record is yielded, the state in the folder is that of its epoch."""
    data = splits()
    built = model(data)
    for record in fit(built, data, train_params(epochs=3), seed=0, folder=tmp_path):
        tensors, counters = read_state(tmp_path / "state.safetensors")
        assert counters[:2] == [record.epoch, record.step]
        stored = {name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")}
        assert same(stored, weights(built))


def test_training_without_a_folder_is_the_same(tmp_path: Path) -> None:
    """Keeping the state changes no number."""
    bare, records = train(train_params(epochs=3))
    saved, again = train(train_params(epochs=3), folder=tmp_path)
    assert curve(records) == curve(again)
    assert same(weights(bare), weights(saved))


# --- Random numbers


def test_the_same_seed_gives_the_same_curve_and_another_seed_another() -> None:
    """All randomness of a training comes from its seed."""
    params = train_params(epochs=2)
    assert curve(train(params, seed=1)[1]) == curve(train(params, seed=1)[1])
    assert curve(train(params, seed=1)[1]) != curve(train(params, seed=2)[1])


def test_the_random_state_of_the_caller_is_left_alone() -> None:
    """Neither the training nor what the caller draws between two epochs touches the other."""
    params = train_params(epochs=3)
    expected = curve(train(params)[1])
    data = splits()
    run = fit(model(data), data, params, seed=0)
    records = []
    for record in run:
        records.append(record)
        torch.rand(7)
        state = torch.get_rng_state()
        if record.epoch < 3:
            records.append(next(run))
            assert torch.equal(torch.get_rng_state(), state)
    assert curve(records) == expected


def test_a_named_stream_is_its_own() -> None:
    """`seeded` gives the same numbers for the same seed and name, others for any other, and restores the state."""

    def draw(seed: int, stream: str) -> list[float]:
        with seeded(seed, stream):
            return torch.rand(3).tolist()

    before = torch.get_rng_state()
    streams = [draw(seed, stream) for seed in (0, 1) for stream in ("valid", "epoch 1", "epoch 2")]
    assert len({tuple(stream) for stream in streams}) == 6
    assert draw(1, "epoch 2") == streams[-1]
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(RuntimeError, match="stop"), seeded(0, "valid"):
        raise RuntimeError("stop")
    assert torch.equal(torch.get_rng_state(), before)


# --- Best weights and early stopping


def overfitting(**changes: Any) -> tuple[HierarchicalVAE, list[Record], TrainParams]:
    """Train for long on eight images, so that the validation bound rises and then falls."""
    data = splits("static", rows=8)
    params = train_params(learning_rate=0.05, batch_size=8, valid_draws=20, **changes)
    built = model(data, hidden=((32,),))
    return built, list(fit(built, data, params, seed=0)), params


@pytest.mark.slow
def test_the_model_ends_with_its_best_weights() -> None:
    """The validation bound, measured anew at the end, is the highest one of all records and not the last."""
    built, records, params = overfitting(epochs=80)
    bounds = [record.metrics["valid/elbo"] for record in records]
    data = splits(rows=8)
    with seeded(0, "valid"), torch.no_grad():
        bound = elbo(built, to_unit_interval(torch.tensor(data.valid), data.scale), params.valid_draws)
    assert bounds[-1] < max(bounds) - 0.1
    assert terms(bound)[0].item() == pytest.approx(max(bounds), rel=1e-6)


@pytest.mark.parametrize("patience", [1, 3, 8])
def test_training_stops_exactly_as_many_epochs_after_the_best_as_it_has_patience(patience: int) -> None:
    """The last epoch is the best one plus `patience`, and no earlier pause was as long."""
    _, records, _ = overfitting(epochs=500, patience=patience)
    bounds = [record.metrics["valid/elbo"] for record in records]
    best = int(np.argmax(bounds)) + 1
    assert len(records) == records[-1].epoch == best + patience < 500
    rises = [epoch for epoch in range(1, len(bounds) + 1) if bounds[epoch - 1] > max([-math.inf, *bounds[: epoch - 1]])]
    assert max(np.diff(rises), default=1) <= patience


@pytest.mark.slow
def test_the_best_epoch_survives_an_interruption(tmp_path: Path) -> None:
    """Stopped after its best epoch, a training still ends with the same best weights, after the same patience."""
    whole, records, params = overfitting(epochs=500, patience=8)
    data = splits("static", rows=8)
    run = fit(model(data, hidden=((32,),)), data, params, seed=0, folder=tmp_path)
    for _ in range(len(records) - 3):
        next(run)
    run.close()
    resumed = model(data, hidden=((32,),))
    assert curve(list(fit(resumed, data, params, seed=0, folder=tmp_path))) == curve(records)
    assert same(weights(resumed), weights(whole))


def test_without_patience_training_never_stops_early() -> None:
    """With `patience` null there are as many records as epochs, however long the bound falls."""
    assert len(overfitting(epochs=60)[1]) == 60


@pytest.mark.slow
def test_training_raises_the_bound() -> None:
    """On images with one clear bit of structure, 40 epochs raise the validation bound by more than one nat."""
    _, records = train(train_params(epochs=40, learning_rate=0.02), widths=(2, 1))
    assert records[-1].metrics["valid/elbo"] > records[0].metrics["valid/elbo"] + 1


# --- Updates


@pytest.mark.usefixtures("float64")
def test_the_first_step_of_adam_moves_no_weight_further_than_the_learning_rate() -> None:
    """Without an eps to speak of, every weight that has a gradient moves by the learning rate."""
    data = splits()
    built = model(data)
    before = weights(built)
    list(fit(built, data, train_params(epochs=1, batch_size=999, learning_rate=0.01, adam_eps=1e-30), seed=0))
    moved = torch.cat([(value - before[name]).abs().flatten() for name, value in built.state_dict().items()])
    torch.testing.assert_close(moved, torch.full_like(moved, 0.01))


@pytest.mark.usefixtures("float64")
def test_clipping_bounds_the_norm_of_the_gradient_and_keeps_its_direction() -> None:
    """With a large eps a step is learning rate times gradient over eps: clipped, it is shorter and parallel."""

    def step(clip: float | None) -> Tensor:
        data = splits()
        built = model(data)
        before = weights(built)
        params = train_params(epochs=1, batch_size=999, learning_rate=1.0, adam_eps=1e6, clip=clip)
        list(fit(built, data, params, seed=0))
        return torch.cat([(value - before[name]).flatten() for name, value in built.state_dict().items()])

    free, short, wide = step(None), step(0.01), step(1e3)
    assert free.norm() * 1e6 > 0.1
    torch.testing.assert_close(short.norm() * 1e6, torch.tensor(0.01), rtol=1e-3, atol=0)
    torch.testing.assert_close(short / short.norm(), free / free.norm(), rtol=1e-4, atol=1e-6)
    assert torch.equal(free, wide)


def test_past_its_horizon_the_cosine_schedule_moves_nothing() -> None:
    """Laid out over one epoch, the cosine leaves the weights of the second and third epoch as they are."""
    data = splits()
    built = model(data)
    after = [
        weights(built) for _ in fit(built, data, train_params(schedule="cosine", schedule_epochs=1, epochs=3), seed=0)
    ]
    assert same(after[0], after[1])
    assert same(after[1], after[2])


def test_an_epoch_shows_every_image_once_and_counts_its_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each epoch presents every training image once, in an order of its own, the last batch as small as is left."""
    data = splits("none")
    shown: list[list[Tensor]] = []
    watch(monkeypatch, shown, training=True)
    built = model(data, likelihood="gaussian")
    records = list(fit(built, data, train_params(epochs=2), seed=0))
    assert [record.step for record in records] == [4, 8]
    assert [len(x) for x in shown[0]] == [16, 16, 16, 8] * 2
    epochs = [torch.cat(shown[0][:4]), torch.cat(shown[0][4:])]
    assert not torch.equal(*epochs)
    expected = sorted((torch.tensor(data.train).float() / 255).tolist())
    assert [sorted(epoch.tolist()) for epoch in epochs] == [expected, expected]


def test_weight_and_schedule_go_by_the_epochs_that_are_done(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A step of epoch e is at e - 1 and the share of its images before it, in a resumed training too."""
    steps, call = [], Step.__call__
    monkeypatch.setattr(Step, "__call__", lambda self, x, at, rate: steps.append((at, rate)) or call(self, x, at, rate))
    data, params = splits(), train_params(epochs=3, schedule="cosine", objective="beta", warmup=2)
    next(fit(model(data), data, params, seed=0, folder=tmp_path))
    list(fit(model(data), data, params, seed=0, folder=tmp_path))
    expected = [epoch + start / 56 for epoch in range(3) for start in (0, 16, 32, 48)]
    assert steps == [(at, params.learning_rate * SCHEDULES["cosine"](at / 3)) for at in expected]


def watch(monkeypatch: pytest.MonkeyPatch, shown: list[list[Tensor]], training: bool) -> None:
    """Keep what is shown to the model, in training or in validation."""
    seen: list[Tensor] = []
    shown.append(seen)

    def spy(of: HierarchicalVAE, x: Tensor, draws: int = 1) -> ELBO:
        seen.append(x)
        return elbo(of, x, draws)

    def step(self: ManualGradient, x: Tensor, draws: int, at: float) -> tuple[ELBO, Tensor]:
        seen.append(x)
        return ManualGradient.__call__(self, x, draws, at)

    if training:
        monkeypatch.setattr(
            pipeline.training.step, "ManualGradient", type("Watched", (ManualGradient,), {"__call__": step})
        )
    else:
        monkeypatch.undo()
        monkeypatch.setattr(pipeline.training.step, "elbo", spy)


# --- Binarization


@pytest.mark.parametrize(("binarization", "anew"), [("dynamic", True), ("static", False), ("none", False)])
def test_training_images_are_binarized_anew_if_and_only_if_that_is_dynamic(
    binarization: str, anew: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dynamic images are bits that differ between epochs; others and all validation images are shown as stored."""
    data = splits(binarization)
    shown: list[list[Tensor]] = []
    watch(monkeypatch, shown, training=True)
    list(fit(model(data), data, train_params(epochs=2, batch_size=999), seed=0))
    first, second = shown[0]
    assert bool(((first == 0) | (first == 1)).all()) is anew
    if anew:
        assert sorted(first.tolist()) != sorted(second.tolist())
    else:
        assert sorted(first.tolist()) == sorted((torch.tensor(data.train).float() / 255).tolist())
    watch(monkeypatch, shown, training=False)
    list(fit(model(data), data, train_params(epochs=1), seed=0))
    assert torch.equal(torch.cat(shown[1]), torch.tensor(data.valid).float() / 255)


# --- What is reported


@pytest.mark.parametrize("changes", [{"beta": 5.0}, {"beta": 0.0}, {"warmup": 3, "beta": 2.0}])
def test_no_weight_enters_a_reported_bound(changes: dict[str, Any]) -> None:
    """As long as the weights stand still, all metrics are those of the unweighted training."""
    still = {"objective": "beta", "learning_rate": 1e-30, "epochs": 2}
    plain, weighted = train(train_params(**still))[1], train(train_params(**still | changes))[1]
    for one, other in zip(plain, weighted, strict=True):
        assert one.metrics.pop("valid/objective") != other.metrics.pop("valid/objective")
        for metrics in (one.metrics, other.metrics):
            metrics.pop("train/gradient_norm")  # that of the weighted objective
        assert other.metrics == pytest.approx(one.metrics, rel=1e-5)


@pytest.mark.slow
def test_the_weights_kept_are_those_of_the_objective_after_its_warm_up() -> None:
    """Patience and the best epoch start after the warm-up, and go by the weighted objective or L_k, not the elbo."""
    _, records = train(train_params(objective="beta", beta=4.0, warmup=6, patience=1, epochs=30))
    assert len(records) > 7
    for objective, draws in (("beta", 1), ("iwae", 3)):
        params = train_params(objective=objective, draws=draws, epochs=12, warmup=4 if objective == "beta" else 0)
        model, records = train(params)
        best = best_record(records, params, 2)
        assert best.epoch > params.warmup
        allowed = [record for record in records if record.epoch > params.warmup]
        assert best.metrics["valid/objective"] == max(record.metrics["valid/objective"] for record in allowed)
        data = splits()
        with seeded(0, "valid"), torch.no_grad():
            x = to_unit_interval(torch.as_tensor(data.valid), data.scale)
            bound = elbo(model, x, params.draws if objective == "iwae" else params.valid_draws)
        assert pipeline.objectives.OBJECTIVES[objective](bound, params.beta).mean().item() == pytest.approx(
            best.metrics["valid/objective"]
        )


@pytest.mark.slow
def test_a_weight_changes_what_training_maximizes() -> None:
    """A heavier rate gives a lower kl after the same number of epochs."""
    last = [
        train(train_params(objective="beta", beta=beta, epochs=15))[1][-1].metrics["valid/kl"]
        for beta in (0.1, 1.0, 10.0)
    ]
    assert last[0] > last[1] > last[2]


@pytest.mark.parametrize("depth", [1, 3])
def test_a_record_names_every_term_of_both_splits(depth: int) -> None:
    """Each record has elbo = reconstruction - kl and kl = sum of rates, for train/ and valid/."""
    _, records = train(train_params(epochs=2), depth=depth)
    levels = [f"rate/z{t}" for t in range(1, depth + 1)]
    for record in records:
        names = [prefix + name for prefix in ("train/", "valid/") for name in ("elbo", "reconstruction", "kl", *levels)]
        others = {"train/learning_rate", "train/gradient_norm", "valid/objective", "valid/iwae"}
        assert record.metrics.keys() == {*names, *others}
        assert record.metrics["valid/iwae"] >= record.metrics["valid/elbo"]  # L_k of the same draws
        for prefix in ("train/", "valid/"):
            value = {name.removeprefix(prefix): record.metrics[name] for name in names}
            assert value["elbo"] == pytest.approx(value["reconstruction"] - value["kl"], abs=1e-4)
            assert value["kl"] == pytest.approx(sum(value[level] for level in levels), abs=1e-4)


@pytest.mark.usefixtures("float64")
def test_terms_are_means_over_draws_and_examples() -> None:
    """`terms` gives mean elbo, reconstruction, kl and each rate, in this order."""
    bound = ELBO(torch.randn(3, 4), torch.randn(2, 3, 4))
    expected = [bound.elbo.mean(), bound.reconstruction.mean(), bound.kl.mean(), *bound.rate.mean((1, 2))]
    torch.testing.assert_close(terms(bound), torch.stack(expected))


@pytest.mark.usefixtures("float64")
def test_the_size_of_a_pass_changes_no_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a posterior that leaves nothing to chance, unequal passes and batches give the mean over all images."""
    data = splits("static")
    results = []
    # 24 validation images at once, or 7 + 7 + 7 + 3; 56 training images at once, or 16 + 16 + 16 + 8
    for rows, batch_size in ((8192, 999), (14, 16)):
        monkeypatch.setattr(pipeline.training.loop, "VALID_ROWS", rows)
        built = model(data)
        for rung in built.inference:
            rung.network[-1].weight.data.zero_()
            rung.network[-1].bias.data[rung.network[-1].out_features // 2 :] = -1e3
        for rung in built.generative[:-1]:
            rung.network[-1].weight.data.zero_()
        record = next(fit(built, data, train_params(learning_rate=1e-30, batch_size=batch_size), seed=0))
        results.append([record.metrics[split + "reconstruction"] for split in ("train/", "valid/")])
    assert results[0] == pytest.approx(results[1], rel=1e-12)


# --- What breaks


def test_a_bound_that_is_not_finite_is_named_and_the_last_good_state_stays(tmp_path: Path) -> None:
    """The error names epoch, step and term; the folder holds the epoch before, from which training goes on."""
    data = splits()
    params = train_params(epochs=4)
    broken = model(data)
    run = fit(broken, data, params, seed=0, folder=tmp_path)
    next(run)
    next(run)
    with torch.no_grad():
        broken.generative[0].network[0].weight.fill_(math.nan)
    with pytest.raises(NonFiniteError, match=r"^epoch 3, step 9: train/reconstruction is nan; [^\n]*$"):
        next(run)
    tensors, counters = read_state(tmp_path / "state.safetensors")
    assert counters[:2] == [2, 8]
    assert all(value.isfinite().all() for value in tensors.values())
    whole, records = train(params)
    resumed, again = train(params, folder=tmp_path)
    assert curve(again) == curve(records)
    assert same(weights(resumed), weights(whole))


def test_a_rate_that_is_not_finite_is_named_before_the_sums_it_breaks() -> None:
    """Where q(z_2|.) is broken, the error names the rate and not the elbo or the kl."""
    data = splits()
    broken = model(data)
    with torch.no_grad():
        broken.inference[1].network[0].weight.fill_(math.nan)
    with pytest.raises(NonFiniteError, match=r"^epoch 1, step 1: train/rate/z\d is nan"):
        next(fit(broken, data, train_params(), seed=0))


def test_a_validation_bound_that_is_not_finite_tells_its_epoch() -> None:
    """One huge step per epoch breaks the validation of epoch 1, and the error says epoch 1."""
    data = splits()
    params = train_params(learning_rate=1e38, batch_size=999, clip=None)
    with pytest.raises(NonFiniteError, match=r"^epoch 1, step 1: valid/"):
        next(fit(model(data), data, params, seed=0))


# --- Schedules


def test_every_schedule_that_params_allow_is_there() -> None:
    """The registry's keys are the choices of `train.schedule`, in their order."""
    assert tuple(SCHEDULES) == get_args(TrainParams.model_fields["schedule"].annotation)


@pytest.mark.parametrize("name", list(SCHEDULES))
def test_a_schedule_starts_at_one_and_never_rises(name: str) -> None:
    """From 1 at the start a factor falls, within [0, 1], also past the horizon."""
    factors = [SCHEDULES[name](step / 1000) for step in range(1501)]
    assert factors[0] == 1
    assert all(0 <= after <= before for before, after in pairwise(factors))


def test_the_staged_schedule_is_the_published_one() -> None:
    """At each of 3,280 epochs the factor is 10^(-i/7) in a stage i of 3^i epochs, i = 0, ..., 7."""
    published = [10 ** (-stage / 7) for stage in range(8) for _ in range(3**stage)]
    assert len(published) == 3280
    actual = [SCHEDULES["staged"](epoch / 3280) for epoch in range(3280)]
    assert actual == pytest.approx(published, rel=1e-12)
    within = [SCHEDULES["staged"]((epoch + 0.999) / 3280) for epoch in range(3280)]
    assert within == pytest.approx(published, rel=1e-12)


def test_the_cosine_is_one_half_half_way() -> None:
    """The cosine schedule passes 1, 1/2 and 0 at the start, the middle and the end."""
    assert [SCHEDULES["cosine"](progress) for progress in (0.0, 0.5, 1.0)] == pytest.approx([1, 0.5, 0])


@pytest.mark.parametrize("damage", ["empty", "gone", "torn"])
def test_a_state_without_its_records_is_refused(tmp_path: Path, damage: str) -> None:
    """Records that do not fit the state's epochs are an error of one line; nothing is silently left out."""
    model = build(model_params(), torch.full((16,), 0.5))
    list(fit(model, splits(), train_params(epochs=2), seed=0, folder=tmp_path))
    records = tmp_path / "log.jsonl"
    if damage == "gone":
        records.unlink()
    else:
        records.write_text("" if damage == "empty" else records.read_text().replace("}", "", 1))
    with pytest.raises(InputError, match="not the state of this training"):
        list(fit(model, splits(), train_params(epochs=4), seed=0, folder=tmp_path))


def test_a_state_of_another_model_is_refused(tmp_path: Path) -> None:
    """A folder with the state of a deeper model is an error of one line."""
    deep = build(model_params(depth=3), torch.full((16,), 0.5))
    list(fit(deep, splits(), train_params(epochs=1), seed=0, folder=tmp_path))
    with pytest.raises(InputError, match="not the state of this training"):
        list(fit(build(model_params(), torch.full((16,), 0.5)), splits(), train_params(), seed=0, folder=tmp_path))
