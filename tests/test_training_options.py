"""Options of published protocols: each does what it says, and at its default nothing at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.data.images import TrainingImages, to_unit_interval
from pipeline.models import HierarchicalVAE, build
from pipeline.objectives import elbo
from pipeline.randomness import seeded
from pipeline.training import Record, best_record, fit, milestones, terms
from pipeline.training.state import TrainingState
from tests.small import model_params, splits, train_params

pytestmark = pytest.mark.usefixtures("float64")


def train(binarization: str = "static", **changes: Any) -> tuple[Tensor, Tensor, list[Record], HierarchicalVAE]:
    """Train a small model; return its weights before and after, the records, and the model."""
    data = splits(binarization)
    with seeded(0, "weights"):
        model = build(model_params(), torch.tensor(data.mean).double())
    before = flat(model)
    records = list(fit(model, data, train_params(**changes), seed=0))
    return before, flat(model), records, model


def flat(model: HierarchicalVAE) -> Tensor:
    """Return a copy of all weights, one after another."""
    return torch.cat([value.detach().flatten().clone() for value in model.parameters()])


def test_the_first_step_with_a_second_moment_of_one_is_the_formula_s() -> None:
    """With v_0 = 1 the first step is -rate g / (sqrt((beta2 + (1 - beta2) g^2) / (1 - beta2)) + eps)."""
    whole = {"epochs": 1, "batch_size": 999, "clip": None}
    before, plain, _, _ = train(**whole, adam_eps=1e6, learning_rate=1.0)
    g = (before - plain) * 1e6  # with a large eps a step is rate g / eps
    _, after, _, _ = train(**whole, adam_initial_second_moment=1.0, learning_rate=0.1)
    step = 0.1 * g / (((0.999 + 0.001 * g**2) / 0.001).sqrt() + 1e-8)
    torch.testing.assert_close(before - after, step, rtol=1e-3, atol=1e-9)


def test_summed_gradients_are_those_of_the_mean_times_the_batch() -> None:
    """With an eps that dwarfs the gradient, a step of the sum is as many times longer as there are images."""
    settings = {"epochs": 1, "batch_size": 999, "clip": None, "adam_eps": 1e6, "learning_rate": 1.0}
    before, mean, _, _ = train(**settings)
    _, total, _, _ = train(**settings, reduction="sum")
    torch.testing.assert_close(total - before, 56 * (mean - before), rtol=1e-3, atol=1e-9)


def test_eps_of_a_sum_is_that_of_a_mean_divided_by_the_batch() -> None:
    """Adam is blind to scale but for eps: `sum` with eps is `mean` with eps / batch size, where batches are full."""
    _, total, _, _ = train(epochs=3, batch_size=14, clip=None, reduction="sum", adam_eps=1e-4)
    _, mean, _, _ = train(epochs=3, batch_size=14, clip=None, adam_eps=1e-4 / 14)
    torch.testing.assert_close(total, mean, rtol=1e-7, atol=1e-9)


def test_the_clip_acts_on_the_gradient_that_is_asked_for() -> None:
    """A clip of 14 times as much is the same for the sum over 14 images as for their mean."""
    _, total, _, _ = train(epochs=2, batch_size=14, clip=1.4, reduction="sum", adam_eps=14e-8)
    _, mean, _, _ = train(epochs=2, batch_size=14, clip=0.1, adam_eps=1e-8)
    torch.testing.assert_close(total, mean, rtol=1e-6, atol=1e-8)


def test_the_order_of_images_stays_where_it_is_not_shuffled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without shuffling every epoch presents the images in the order of the data."""
    shown: list[Tensor] = []
    batch = TrainingImages.batch
    monkeypatch.setattr(TrainingImages, "batch", lambda self, at: shown.append(batch(self, at)) or shown[-1])
    train(epochs=2, shuffle=False)
    data = splits("static")
    expected = to_unit_interval(torch.tensor(data.train), data.scale)
    assert torch.equal(torch.cat(shown), torch.cat([expected, expected]))


def test_averaged_weights_are_the_moving_average_of_the_steps() -> None:
    """After n steps the average is decay^n w_0 + (1 - decay) sum_i decay^(n-i) w_i, and that is what is kept."""
    settings = {"epochs": 1, "batch_size": 14, "shuffle": False}
    steps: list[Tensor] = []
    data = splits("static")
    with seeded(0, "weights"):
        model = build(model_params(), torch.tensor(data.mean).double())
    steps.append(flat(model))
    update_ema = TrainingState.update_ema

    def spy(run: Any) -> None:
        steps.append(flat(run.model))
        update_ema(run)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingState, "update_ema", spy)
        list(fit(model, data, train_params(**settings, ema=0.7), seed=0))
    average = steps[0]
    for weights in steps[1:]:
        average = 0.7 * average + 0.3 * weights
    assert len(steps) == 5
    torch.testing.assert_close(flat(model), average)


def test_averaging_leaves_the_training_alone() -> None:
    """The training's own terms are the same with and without an average; the validation's are not."""
    plain, averaged = train(epochs=4)[2], train(epochs=4, ema=0.9)[2]
    for one, other in zip(plain, averaged, strict=True):
        for name, value in one.metrics.items():
            assert (value == other.metrics[name]) is name.startswith("train/")


def test_the_validated_weights_are_those_that_are_kept() -> None:
    """The bound of the averaged weights, measured anew at the end, is the best of the records."""
    _, _, records, model = train(epochs=10, ema=0.8, learning_rate=0.05)
    data = splits("static")
    with seeded(0, "valid"), torch.no_grad():
        actual = terms(elbo(model, to_unit_interval(torch.tensor(data.valid), data.scale), 2))[0].item()
    assert actual == pytest.approx(max(record.metrics["valid/elbo"] for record in records), rel=1e-9)


@pytest.mark.parametrize(
    "changes", [{"ema": 1.0}, {"ema": 0.0}, {"reduction": "max"}, {"adam_initial_second_moment": -1.0}]
)
def test_other_values_are_refused(changes: dict[str, Any]) -> None:
    """A decay lies between 0 and 1, a gradient is a mean or a sum, a second moment is not negative."""
    with pytest.raises(ValueError, match=next(iter(changes))):
        train_params(**changes)


@pytest.mark.slow
def test_the_last_weights_are_those_of_a_training_as_long() -> None:
    """With keep `last` the weights are the last epoch's, whatever the validation says; with `best` the best epoch's."""
    long = {"epochs": 24, "learning_rate": 0.03}  # it overfits; at a rate of 1 rounding decides which epoch is best
    _, last, records, _ = train(**long, keep="last")
    assert best_record(records, train_params(**long, keep="last"), 2) == records[-1]
    best = best_record(records, train_params(**long), 2)
    assert best.epoch < 24
    _, saved, _, _ = train(**long)
    _, shorter, _, _ = train(**long | {"epochs": best.epoch, "keep": "last"})
    assert torch.equal(saved, shorter)
    assert not torch.equal(saved, last)


@pytest.mark.slow
@pytest.mark.parametrize("killed_after", [0, 1, 2, 3])
def test_milestones_are_the_weights_of_those_epochs(tmp_path: Path, killed_after: int) -> None:
    """Weights kept at epochs 2 and 3 are those of trainings of 2 and 3 epochs, to the bit, also after a stop."""
    data, params = splits("static"), train_params(milestones=(2, 3, 9), ema=0.5)

    def fresh() -> HierarchicalVAE:
        with seeded(0, "weights"):
            return build(model_params(), torch.tensor(data.mean).double())

    if killed_after:
        for record in fit(fresh(), data, params, seed=0, folder=tmp_path):
            if record.epoch == killed_after:
                break
    list(fit(fresh(), data, params, seed=0, folder=tmp_path))
    actual = milestones(tmp_path)
    assert list(actual) == [2, 3]
    for epoch, weights in actual.items():
        model = fresh()
        list(fit(model, data, train_params(epochs=epoch, ema=0.5, keep="last"), seed=0))
        for name, value in model.state_dict().items():
            assert torch.equal(weights[name], value), name


def test_milestones_grow() -> None:
    """Epochs out of order are refused."""
    with pytest.raises(ValueError, match="must grow"):
        train_params(milestones=(3, 2))
