"""Batch normalization and convolutions: rows apart in evaluation, shapes, where they start, what is refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pipeline.data import Shape, Splits
from pipeline.data.images import to_unit_interval
from pipeline.errors import InputError
from pipeline.models import NETWORKS, HierarchicalVAE, Image, build, update_bn
from pipeline.models.checkpoint import load, save_model
from pipeline.models.layers import BatchNorm, mlp
from pipeline.models.networks import conv
from pipeline.objectives import OBJECTIVES, PATHWISE, elbo, pathwise_terms
from pipeline.params import ModelParams, Params
from pipeline.randomness import seeded
from pipeline.training import fit, terms
from tests.small import ROOT, covering, model_params, splits, train_params

pytestmark = pytest.mark.usefixtures("float64")

directions = pytest.mark.parametrize("inference", ["bottom_up", "top_down"])
both = pytest.mark.parametrize("parents", ["nearest", "every"])


def model(data: Splits, **changes: Any) -> tuple[HierarchicalVAE, ModelParams]:
    """Build a small model of the splits' images."""
    params = model_params(**changes)
    with seeded(0, "weights"):
        return build(params, torch.tensor(data.mean).double(), data.shape), params


def trained(**changes: Any) -> tuple[HierarchicalVAE, Splits, ModelParams]:
    """Train a small model for six epochs."""
    data = splits("static")
    built, params = model(data, **changes)
    records = list(fit(built, data, train_params(epochs=6), seed=0))
    assert records[-1].metrics["valid/elbo"] > records[0].metrics["valid/elbo"]
    return built, data, params


# --- Batch normalization


def test_in_training_units_have_mean_beta_and_deviation_gamma() -> None:
    """Over all rows of all leading dimensions, outputs have mean beta and variance gamma^2."""
    norm = BatchNorm(3)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, 2.0, 0.5]))
        norm.bias.copy_(torch.tensor([0.0, -1.0, 4.0]))
    y = norm(7 * torch.randn(20, 30, 3) + 5).flatten(0, 1)
    torch.testing.assert_close(y.mean(0), norm.bias.detach())
    torch.testing.assert_close(y.std(0, correction=0), norm.weight.detach(), rtol=1e-6, atol=0)


def test_one_row_is_normalized_by_the_statistics_that_there_are() -> None:
    """One row has no variance: in training it is taken as in evaluation, and is finite."""
    norm = BatchNorm(3)
    x = torch.randn(1, 1, 3)
    torch.testing.assert_close(norm(x), norm.eval()(x))


def test_every_dense_layer_is_normalized() -> None:
    """With batch normalization each linear layer is followed by one, the last too, whose bias the outputs start at."""
    built = mlp(3, 5, [7, 4], "elu", batch_norm=True)
    assert [type(layer) for layer in built] == [nn.Linear, BatchNorm, nn.ELU] * 2 + [nn.Linear, BatchNorm]
    _, params = model(splits(), batch_norm=True, inference="top_down")
    ladder = build(params, torch.full((16,), 0.4))
    modules = list(ladder.modules())
    dense = [module for module in modules if isinstance(module, nn.Linear)]
    assert len(dense) == sum(isinstance(module, BatchNorm) for module in modules) == 8


@pytest.mark.slow
@directions
@both
def test_in_evaluation_an_example_s_bound_depends_on_no_other(inference: str, parents: str) -> None:
    """After training, at the same nodes an example has the same terms alone and among others."""
    built, data, _ = trained(batch_norm=True, inference=inference, parents=parents)
    assert not built.training
    x = to_unit_interval(torch.tensor(data.test), data.scale)
    z, _ = built.posterior(x[:1])
    for others in (x[1:4], 1 - x[:1]):
        nodes = [torch.cat([node, torch.randn(1, len(others), node.shape[-1])], dim=1) for node in z]
        nodes[0] = torch.cat([x[:1], others])[None]
        alone = [*built.joint(z), *built.detached_posterior(z)]
        among = [*built.joint(nodes), *built.detached_posterior(nodes)]
        for p, q, t in zip(alone, among, [0, 1, 2, 1, 2], strict=True):
            torch.testing.assert_close(p.log_prob(z[t])[0, 0], q.log_prob(nodes[t])[0, 0])


def test_the_statistics_are_those_of_the_training_set() -> None:
    """Collected over equal batches, mean and variance of the first layer are means of the batches' own."""
    data = splits("static", rows=64)
    built, _ = model(data, batch_norm=True)
    x = to_unit_interval(torch.tensor(data.train), data.scale)
    update_bn(built, x.split(16))
    first = built.inference[0].network
    u = first[0](x).unflatten(0, (4, 16))
    torch.testing.assert_close(first[1].running_mean, u.mean((0, 1)).detach())
    torch.testing.assert_close(first[1].running_var, u.var(1).mean(0).detach())
    assert first[1].num_batches_tracked == 4


def test_collecting_for_a_model_without_normalization_looks_at_nothing() -> None:
    """Without batch normalization the training set is not read again."""

    def never() -> Any:
        raise AssertionError
        yield

    built, _ = model(splits())
    update_bn(built, never())
    assert not built.training


@directions
def test_the_checkpoint_holds_the_statistics(inference: str, tmp_path: Path) -> None:
    """A model read back from disk gives the validation terms that the one in memory gives."""
    built, data, params = trained(batch_norm=True, inference=inference)
    save_model(tmp_path, built, params, data)
    x = to_unit_interval(torch.tensor(data.valid), data.scale)
    bounds = []
    for of in (built, load(tmp_path)):
        torch.manual_seed(0)
        bounds.append(terms(elbo(of.double(), x)))
    torch.testing.assert_close(bounds[0], bounds[1])


def test_the_best_bound_is_measured_with_its_own_statistics() -> None:
    """With batch normalization too, the bound measured anew at the end is the best of all records."""
    data = splits("static")
    built, _ = model(data, batch_norm=True)
    records = list(fit(built, data, train_params(epochs=12, learning_rate=0.05), seed=0))
    with seeded(0, "valid"), torch.no_grad():
        actual = terms(elbo(built, to_unit_interval(torch.tensor(data.valid), data.scale), 2))[0].item()
    assert actual == pytest.approx(max(record.metrics["valid/elbo"] for record in records), rel=1e-9)


def test_a_resumed_training_with_statistics_and_averages_is_the_uninterrupted_one(tmp_path: Path) -> None:
    """Batch normalization and averaged weights resume bit for bit."""
    data, params = splits(), train_params(epochs=5, ema=0.9)
    whole, _ = model(data, batch_norm=True)
    records = list(fit(whole, data, params, seed=0))
    stopped_early, _ = model(data, batch_norm=True)
    run = fit(stopped_early, data, params, seed=0, folder=tmp_path)
    for _ in range(2):
        next(run)
    run.close()
    resumed, _ = model(data, batch_norm=True)
    again = list(fit(resumed, data, params, seed=0, folder=tmp_path))
    assert [record.metrics for record in again] == [record.metrics for record in records]
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in whole.state_dict().items())


@pytest.mark.parametrize("objective", list(OBJECTIVES))
def test_gradients_pass_through_normalization(objective: str) -> None:
    """Every objective gives every weight that matters a finite gradient; a dense bias before a norm has none."""
    data = splits("static")
    built, _ = model(data, batch_norm=True)
    x = to_unit_interval(torch.tensor(data.train[:16]), data.scale)
    measure = pathwise_terms if objective in PATHWISE else elbo
    OBJECTIVES[objective](measure(built, x, 3), 0.7).mean().backward()
    for value in built.parameters():
        assert value.grad is not None
        assert value.grad.isfinite().all()


# --- Convolutions


@covering(
    "shape, hidden, side",
    [(1, 28, 28), (1, 28, 20), (3, 8, 8), (1, 4, 4), (3, 7, 5)],
    [(), (3,), (3, 4), (2, 3, 4)],
    ["input", "output"],
)
def test_a_convolutional_network_fits_any_image(side: Any, shape: Shape, hidden: tuple[int, ...]) -> None:
    """It maps images of any shape from or to two numbers a value, acts on each row alone, with gradients everywhere."""
    pixels = math.prod(shape)
    inputs, outputs = (pixels, 5) if side == "input" else (5, 2 * pixels)
    built = conv(inputs, outputs, hidden, "elu", image=Image(side, shape))
    x = torch.randn(2, 3, inputs)
    y = built(x)
    assert y.shape == (2, 3, outputs)
    torch.testing.assert_close(y[1, 2], built(x[1:, 2:])[0, 0])
    y.square().sum().backward()
    assert all(value.grad is not None and value.grad.isfinite().all() for value in built.parameters())
    assert built[-1].bias.shape == (outputs,)


def test_without_an_image_a_convolutional_network_is_the_mlp() -> None:
    """Upper rungs stay multilayer perceptrons, weight for weight."""
    built = []
    for network in NETWORKS.values():
        torch.manual_seed(0)
        built.append(network(3, 5, [7, 4], "tanh").state_dict())
    assert built[0].keys() == built[1].keys() == built[2].keys()
    assert all(torch.equal(built[0][name], other[name]) for name in built[0] for other in built[1:])


@pytest.mark.slow
@directions
@both
@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_a_convolutional_model_starts_at_the_mean_and_trains(inference: str, parents: str, likelihood: str) -> None:
    """Without noise the output is the data's mean; rungs that touch the image are convolutions, the others are not."""
    settings = {"network": "conv", "inference": inference, "parents": parents, "likelihood": likelihood}
    data = splits("static")
    start, _ = model(data, hidden=((3, 4), (6,)), **settings)
    mean = torch.tensor(data.mean).double()
    expected = mean.clamp(1e-3, 1 - 1e-3) if likelihood == "bernoulli" else mean
    torch.testing.assert_close(start.decode_noise([torch.zeros(1, 4), torch.zeros(1, 2)])[0], expected)
    for rungs in (start.inference, start.generative[:-1]):
        actual = [any(isinstance(module, nn.Conv2d) for module in rung.modules()) for rung in rungs]
        assert actual == [True, False]
    trained(hidden=((3, 4), (6,)), **settings)


def test_a_convolutional_model_needs_a_shape() -> None:
    """Without channels, height and width, or with others than the units', it is refused."""
    for shape in (None, (1, 3, 5), (3, 4, 4)):
        with pytest.raises(ValueError, match="needs the shape of images of 16 units"):
            build(model_params(network="conv"), torch.zeros(16), shape)


def test_a_convolutional_checkpoint_comes_back(tmp_path: Path) -> None:
    """The checkpoint holds the shape that its network needs."""
    data = splits("static")
    built, params = model(data, network="conv", hidden=((3,),))
    save_model(tmp_path, built, params, data)
    x = to_unit_interval(torch.tensor(data.valid), data.scale)
    bounds = []
    for of in (built, load(tmp_path).double()):
        torch.manual_seed(0)
        bounds.append(terms(elbo(of, x)))
    torch.testing.assert_close(bounds[0], bounds[1])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"model.batch_norm": True, "model.prior": "vamp"}, "pseudo-inputs would be normalized apart"),
        ({"model.network": "conv", "model.hidden": [[], [8]]}, "needs channels"),
    ],
)
def test_what_does_not_go_together_is_refused(overrides: dict[str, Any], message: str) -> None:
    """Both are errors of one line."""
    with pytest.raises(InputError, match=message):
        Params.read(ROOT / "params.yaml", overrides)
