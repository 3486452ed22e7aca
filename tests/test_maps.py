"""Networks at the scale of images: residual blocks with group normalization, and levels that are maps."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from pipeline.data import Shape, Splits
from pipeline.data.images import to_unit_interval
from pipeline.errors import InputError
from pipeline.evaluation.decompose import decompose
from pipeline.evaluation.pictures import compute_pictures
from pipeline.models import HierarchicalVAE, Image, build, rows_within
from pipeline.models.checkpoint import load, save_model
from pipeline.models.resnet import Block, Maps, maps, resnet
from pipeline.objectives import OBJECTIVES, PATHWISE, elbo, pathwise_terms
from pipeline.params import ModelParams, Params
from pipeline.randomness import seeded
from pipeline.testing import check_network
from pipeline.training import fit
from tests.small import ROOT, covering, model_params, splits, train_params
from tests.workshop import DECOMPOSE, QUICK

float64 = pytest.mark.usefixtures("float64")
SMALL: dict[str, Any] = {"network": "resnet", "latents": "maps", "widths": (2, 3), "hidden": ((5,), (4, 6))}


def in_colour(count: int = 24, side: int = 4) -> Splits:
    """Return images of three colours, each channel of one shade per image."""
    rng = np.random.default_rng(0)
    shade = rng.integers(40, 200, (3, count, 3, 1, 1))
    pixels = (shade + rng.integers(-30, 30, (3, count, 3, side, side))).astype(np.uint8).reshape(3, count, -1)
    return replace(splits("none"), train=pixels[0], valid=pixels[1], test=pixels[2], shape=(3, side, side))


def preset(name: str) -> dict[str, Any]:
    """Return a variant, `hvae-conv` or `hvae-deep`, as the documents give it."""
    lines = (ROOT / "docs" / "settings.md").read_text().splitlines()
    (line,) = [line.strip() for line in lines if line.startswith(f"    {name}: ")]
    values: dict[str, Any] = yaml.safe_load(line)[name]
    return values


# --- Networks


@pytest.mark.parametrize("image", [Image("input", (1, 28, 28)), Image("output", (3, 9, 7))], ids=str)
def test_a_residual_network_of_several_blocks_keeps_its_contract(image: Image) -> None:
    """Shapes, rows apart, the last bias and gradients; a block more at a size is another Block there."""
    check_network(lambda *args, **kwargs: resnet(*args, **kwargs, blocks=2), image)
    built = resnet(
        image.shape[0] * math.prod(image.shape[1:]), 4, [8, 8], "silu", image=Image("input", image.shape), blocks=3
    )
    assert sum(isinstance(module, Block) for module in built.modules()) == 6


@float64
@covering(
    "side, inputs, hidden",
    ["input", "output"],
    [[(2, 7, 7)], [(2, 7, 7), (1, 4, 4)], [(2, 7, 7), (3, 14, 14)]],
    [(), (5,), (5, 6)],
)
def test_maps_become_maps(side: Any, inputs: list[Shape], hidden: tuple[int, ...]) -> None:
    """Of any sizes, to half or twice the size of the first for each hidden layer, row by row."""
    small = {0: (7, 7), 1: (4, 4), 2: (2, 2)}[len(hidden)]
    size = small if side == "input" else {0: (7, 7), 1: (14, 14), 2: (28, 28)}[len(hidden)]
    built = maps(inputs, (3, *size), hidden, side, "silu")
    x = torch.randn(2, 3, sum(map(math.prod, inputs)))
    y = built(x)
    assert y.shape == (2, 3, 3 * math.prod(size))
    torch.testing.assert_close(built(x[1:, 2:]), y[1:, 2:])
    y.square().sum().backward()
    assert all(value.grad is not None and value.grad.any() for value in built.parameters())


def test_maps_of_other_sizes_are_averaged_or_repeated() -> None:
    """Halving a map takes means of four, doubling repeats each; the channels stand in the order of the maps."""
    x = torch.arange(16.0)
    large, small = x.view(1, 4, 4), x[:4].view(1, 2, 2)
    means, same = Maps([(1, 4, 4), (1, 2, 2)], (2, 2))(torch.cat([x, x[:4]])[None])[0]
    assert (means == large.unfold(1, 2, 2).unfold(2, 2, 2).mean((-1, -2))).all()
    assert (same == small[0]).all()
    (repeated,) = Maps([(1, 2, 2)], (4, 4))(x[None, :4])[0]
    assert (repeated == small[0].repeat_interleave(2, 0).repeat_interleave(2, 1)).all()


# --- Models


def built_model(shape: Shape, **changes: Any) -> tuple[HierarchicalVAE, ModelParams]:
    """Build a small model of maps."""
    params = model_params(**SMALL | changes)
    with seeded(0, "weights"):
        return build(params, torch.full((math.prod(shape),), 0.4), shape), params


@float64
@pytest.mark.parametrize("inference", ["bottom_up", "top_down"])
@pytest.mark.parametrize("parents", ["nearest", "every"])
@pytest.mark.parametrize("prior", ["normal", "vamp", "mixture"])
def test_every_form_of_a_hierarchy_may_have_maps(inference: str, parents: str, prior: str) -> None:
    """Levels are as large as the halvings leave; it starts at the mean; all weights learn; no example sees another."""
    model, _ = built_model((3, 8, 8), inference=inference, parents=parents, prior=prior)
    assert [node.shape for node in model.sample(2)] == [(2, 192), (2, 2 * 16), (2, 3)]
    mean = model.decode([torch.zeros(1, 32), torch.zeros(1, 3)])
    torch.testing.assert_close(mean, torch.full((1, 192), 0.4)) if prior == "normal" else None
    x = torch.rand(4, 192).round()
    elbo(model, x, draws=2).elbo.mean().backward()
    assert all(value.grad is not None and value.grad.any() for value in model.parameters())
    z, _ = model.posterior(x)
    alone = [node[:, 1:2] for node in z]
    among = zip([*model.joint(z), *model.posterior_at(z)], [*z, *z[1:]], strict=True)
    for (p, node), by_itself in zip(among, [*model.joint(alone), *model.posterior_at(alone)], strict=True):
        torch.testing.assert_close(p.log_prob(node)[:, 1:2], by_itself.log_prob(node[:, 1:2]))


@float64
@pytest.mark.parametrize("objective", list(OBJECTIVES))
def test_every_objective_trains_maps(objective: str) -> None:
    """Each gives every weight a finite gradient, also where it needs the encoder held constant."""
    model, _ = built_model((1, 8, 8), inference="top_down", parents="every")
    measure = pathwise_terms if objective in PATHWISE else elbo
    OBJECTIVES[objective](measure(model, torch.rand(3, 64).round(), 3), 0.7).mean().backward()
    assert all(value.grad is not None and value.grad.isfinite().all() for value in model.parameters())


@pytest.mark.parametrize(
    ("name", "shape"),
    [("hvae-conv", (1, 28, 28)), ("hvae-conv", (3, 32, 32)), ("hvae-conv", (3, 64, 64)), ("hvae-deep", (1, 28, 28))],
    ids=str,
)
def test_the_presets_fit_images_of_usual_sizes(name: str, shape: Shape) -> None:
    """`hvae-conv` and `hvae-deep` have a bound and gradients of all levels of maps, none larger than the one below."""
    values = {path.removeprefix("model."): value for path, value in preset(name).items() if path.startswith("model.")}
    colour = {"likelihood": "discretized_logistic", "components": 2}
    params = model_params(**values | {"hidden": tuple(map(tuple, values["hidden"]))} | colour)
    model = build(params, torch.full((math.prod(shape),), 0.5), shape)
    bound = elbo(model, torch.rand(2, math.prod(shape)).mul(255).round() / 255)
    bound.elbo.mean().backward()
    assert bound.elbo.isfinite().all()
    assert all(value.grad is not None and value.grad.isfinite().all() for value in model.parameters())
    units = [node.shape[-1] for node in model.sample(1)[1:]]
    assert units == [params.level_widths[0] * (shape[1] // 4) ** 2, *units[1:]]
    assert sorted(units, reverse=True) == units
    assert len(units) == params.depth


@pytest.mark.parametrize("name", ["hvae-conv", "hvae-deep"])
def test_the_presets_are_sound_variants(name: str) -> None:
    """Their lines stand in `variants` of a study as they are."""
    assert name in Params.read(ROOT / "params.yaml", {"variants": {name: preset(name)}}).variants


@float64
@pytest.mark.parametrize("inference", ["bottom_up", "top_down"])
def test_several_levels_may_have_one_size(inference: str) -> None:
    """Each list of `hidden` halves once, and serves the levels of its size; their networks keep height and width."""
    changes = {"inference": inference, "parents": "every", "depth": 4, "widths": (2, 3, 2, 3), "levels_per_size": 2}
    model, params = built_model((1, 8, 8), **changes | {"hidden": ((5,), (4,))})
    assert params.level_shapes((1, 8, 8)) == [(2, 4, 4), (3, 4, 4), (2, 2, 2), (3, 2, 2)]
    assert [params.hidden_of(rung) for rung in range(4)] == [(5,), (5,), (4,), (4,)]
    elbo(model, torch.rand(4, 64).round(), draws=2).elbo.mean().backward()
    assert all(value.grad is not None and value.grad.any() for value in model.parameters())


def test_maps_in_colour_train_come_back_and_are_taken_apart(tmp_path: Path) -> None:
    """Epochs raise the bound; the checkpoint gives the same model; decompositions and pictures have all levels."""
    data = in_colour()
    changes = {"likelihood": "discretized_logistic", "components": 2, "inference": "top_down", "hidden": ((5,), (4,))}
    model, params = built_model(data.shape, **changes)
    records = list(fit(model, data, train_params(epochs=5, ema=0.5, batch_size=8), seed=0))
    assert records[-1].metrics["valid/elbo"] > records[0].metrics["valid/elbo"]
    save_model(tmp_path, model, params, data)
    again, test = load(tmp_path), torch.as_tensor(data.test)
    x = to_unit_interval(test, data.scale)
    with torch.no_grad(), seeded(0, "draws"):
        bound = elbo(model.eval(), x)
    with torch.no_grad(), seeded(0, "draws"):
        assert torch.equal(elbo(again, x).elbo, bound.elbo)
    evaluate = Params.read(ROOT / "params.yaml", QUICK | {"evaluate.decompose": DECOMPOSE}).evaluate
    results = decompose(again, test, data.scale, evaluate, evaluate.decompose).estimates
    assert all(math.isfinite(estimate.value) for estimate in results.values())
    assert any(name.endswith("z2") for name in results)
    pictures = compute_pictures(again, data, test, torch.arange(24.0), columns=4, seed=0)
    assert pictures["redrawn"].shape == (2, 4, 4, 3, 4, 4)


@float64
@pytest.mark.parametrize("network", ["mlp", "conv", "resnet"])
def test_levels_that_are_vectors_have_colours_of_dependent_channels(network: str) -> None:
    """Each network puts out a mixture: it starts near the mean, all weights learn, samples are grey levels."""
    changes = {"network": network, "likelihood": "discretized_logistic", "components": 3, "hidden": ((4,), (5,))}
    model = build(model_params(**changes), torch.full((48,), 0.4), (3, 4, 4))
    assert ((model.decode([torch.zeros(1, 4), torch.zeros(1, 2)]) - 0.4).abs() < 0.05).all()
    (x, *_) = model.sample(5)
    assert torch.equal((255 * x).round() / 255, x)
    elbo(model, x, draws=2).elbo.mean().backward()
    assert all(value.grad is not None and value.grad.any() for value in model.parameters())


def test_a_pass_of_large_images_has_fewer_rows() -> None:
    """A row of 28 x 28 pixels leaves the most that is asked for; one of many numbers has as many as 2^24 hold."""
    small = build(model_params(likelihood="gaussian"), torch.full((784,), 0.5), (1, 28, 28))
    assert rows_within(small, torch.zeros(9, 784), 8192) == 8192
    large, _ = built_model((3, 32, 32), likelihood="discretized_logistic", components=10)
    assert rows_within(large, torch.zeros(9, 3072), 8192) == 2**24 // (100 * 1024)


def test_a_checkpoint_of_an_earlier_version_loads(tmp_path: Path) -> None:
    """A `model.json` without the parameters that came later gives the model that it gave."""
    data = splits("static")
    model = build(model_params(), torch.tensor(data.mean, dtype=torch.float32), data.shape)
    save_model(tmp_path, model, model_params(), data)
    path = tmp_path / "model.json"
    description = json.loads(path.read_text())
    for name in ("components", "blocks", "latents", "posterior", "flow_transforms", "flow_hidden", "prior_levels"):
        del description["model"][name]
    path.write_text(json.dumps(description))
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in load(tmp_path).state_dict().items())


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"model.latents": "maps"}, "'maps' given with network mlp; allowed: vectors, or network resnet"),
        ({"model.network": "resnet", "model.hidden": [[], [8]]}, "network resnet needs channels"),
        ({"model.components": 11}, "model.components: 11 given"),
    ],
)
def test_what_does_not_go_together_is_refused(overrides: dict[str, Any], message: str) -> None:
    """Each is an error of one line."""
    with pytest.raises(InputError, match=message):
        Params.read(ROOT / "params.yaml", overrides)
