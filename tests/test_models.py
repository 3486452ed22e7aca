"""Architectures of any depth: who sees whom, how wide, where it starts, how it decodes."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch import Tensor, nn

from pipeline.distributions import StandardNormal
from pipeline.models import ACTIVATIONS, NETWORKS, PRIORS, HierarchicalVAE, build
from pipeline.models.noise_chains import DECODERS
from pipeline.objectives import elbo
from pipeline.params import ModelParams
from tests.small import model_params

pytestmark = pytest.mark.usefixtures("float64")

both = pytest.mark.parametrize("parents", ["nearest", "every"])
depths = pytest.mark.parametrize("depth", [1, 2, 3, 5])
MEAN = [0.1, 0.3, 0.5, 0.7, 0.9, 1.0]


def model(**changes: object) -> HierarchicalVAE:
    """Build a small model for six pixels."""
    return build(model_params(**changes), torch.tensor(MEAN))


def latents(of: HierarchicalVAE, *leading: int) -> list[Tensor]:
    """Return standard normal tensors as wide as the levels of a model."""
    return [torch.randn(*leading, rung.network[-1].out_features // 2) for rung in of.inference]


# --- Registries


@pytest.mark.parametrize(
    ("registry", "field"),
    [(ACTIVATIONS, "activation"), (NETWORKS | DECODERS, "network"), (PRIORS, "prior")],
    ids=["activation", "network", "prior"],
)
def test_every_name_that_params_allow_is_there(registry: dict[str, object], field: str) -> None:
    """A registry's keys are the choices of its parameter, in their order."""
    assert tuple(registry) == get_args(ModelParams.model_fields[field].annotation)


@pytest.mark.parametrize("name", list(PRIORS))
def test_a_prior_needs_no_parents_and_normalizes(name: str) -> None:
    """Called without parents a prior is a distribution over vectors of its width whose density integrates to 1."""
    distribution = build(model_params(prior=name, widths=(3, 1)), torch.tensor(MEAN)).generative[-1]()
    assert distribution.event_shape == (1,)
    axis = torch.linspace(-12, 12, 2001)[:, None]
    assert abs(distribution.log_prob(axis).exp().sum() * 24 / 2000 - 1) < 1e-9


@pytest.mark.parametrize("activation", list(ACTIVATIONS))
@pytest.mark.parametrize("network", list(NETWORKS))
def test_a_network_maps_any_leading_dimensions(network: str, activation: str) -> None:
    """A network takes [..., inputs] to [..., outputs], acts on each row alone, and has gradients everywhere."""
    built = NETWORKS[network](3, 5, [7, 4], activation)
    x = torch.randn(2, 6, 3)
    y = built(x)
    assert y.shape == (2, 6, 5)
    torch.testing.assert_close(y[1, 2], built(x[1, 2]))
    y.sum().backward()
    assert all(value.grad is not None and value.grad.isfinite().all() for value in built.parameters())


@pytest.mark.parametrize("hidden", [(), (7,), (7, 4, 3)])
def test_a_multilayer_perceptron_has_the_layers_it_is_given(hidden: tuple[int, ...]) -> None:
    """Linear layers of the given widths, zero biases, Glorot-uniform weights, an activation between any two."""
    built = NETWORKS["mlp"](3, 5, hidden, "elu")
    linear = [layer for layer in built if isinstance(layer, nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in linear] == list(
        zip([3, *hidden], [*hidden, 5], strict=True)
    )
    assert [type(layer) for layer in built] == ([nn.Linear, nn.ELU] * len(linear))[:-1]
    for layer in linear:
        assert not layer.bias.any()
        span = (6 / (layer.in_features + layer.out_features)) ** 0.5
        assert 0.5 * span < layer.weight.abs().max() <= span


# --- Widths and sizes


@both
@depths
def test_rungs_are_as_wide_as_the_parameters_say(depth: int, parents: str) -> None:
    """Nodes drawn from (19) and from (20) have one width a level, and one more rung goes down than up."""
    params = model_params(depth=depth, parents=parents, z_dim=8)
    built = build(params, torch.tensor(MEAN))
    widths = [6, *params.level_widths]
    assert built.depth == depth == len(built.inference) == len(built.generative) - 1
    assert [node.shape for node in built.sample(3)] == [(3, width) for width in widths]
    z, q = built.posterior(torch.zeros(3, 6), draws=2)
    assert [node.shape for node in z] == [(1, 3, 6), *((2, 3, width) for width in widths[1:])]
    assert [factor.batch_shape for factor in q] == [(2, 3)] * depth
    densities = [factor.log_prob(node) for factor, node in zip(built.joint(z), z, strict=True)]
    assert [density.shape for density in densities] == [(2, 3)] * (depth + 1)


def test_level_widths_shrink_by_the_ratio_or_are_as_given() -> None:
    """Level t has `z_dim * z_ratio^(t-1)` units, rounded and at least one; `widths` stand for themselves."""
    assert model_params(depth=4, z_dim=10, z_ratio=0.5).level_widths == (10, 5, 2, 1)
    assert model_params(depth=4, z_dim=2, z_ratio=0.1).level_widths == (2, 1, 1, 1)
    assert model_params(depth=3, z_dim=3, z_ratio=2.0).level_widths == (3, 6, 12)
    assert model_params(depth=2, widths=(7, 9)).level_widths == (7, 9)


def test_hidden_layers_are_given_from_the_data_up_and_the_last_serve_all_above() -> None:
    """Rung t up and rung t down have the same hidden layers, mirrored in place, not in order."""
    built = model(depth=3, hidden=((9, 8), (7,)))
    for rungs in (built.inference, built.generative[:-1]):
        hidden = [[layer.out_features for layer in rung.network if isinstance(layer, nn.Linear)][:-1] for rung in rungs]
        assert hidden == [[9, 8], [7], [7]]


def test_the_published_two_layer_model_has_as_many_parameters_as_counted_by_hand() -> None:
    """x784-200-200-z100-100-100-z50 and its mirror have 521,084 weights (IWAE, Burda et al. 2016)."""
    built = build(model_params(widths=(100, 50), hidden=((200, 200), (100, 100))), torch.full((784,), 0.1))
    q1 = (784 * 200 + 200) + (200 * 200 + 200) + (200 * 200 + 200)
    q2 = (100 * 100 + 100) + (100 * 100 + 100) + (100 * 100 + 100)
    p1 = (50 * 100 + 100) + (100 * 100 + 100) + (100 * 200 + 200)
    p0 = (100 * 200 + 200) + (200 * 200 + 200) + (200 * 784 + 784)
    assert q1 + q2 + p1 + p0 == 521_084
    assert sum(value.numel() for value in built.parameters()) == 521_084


def test_a_model_wants_one_more_rung_down_than_up() -> None:
    """Rungs that do not pair up are refused at once."""
    with pytest.raises(ValueError, match="2 levels need one more generative rung, not 2"):
        HierarchicalVAE([nn.Identity(), nn.Identity()], [nn.Identity(), nn.Identity()], "nearest")


# --- Who sees whom


@both
def test_only_every_ancestor_reaches_the_data(parents: str) -> None:
    """A change of z_3 changes p(x|.) and p(z_1|.) where `every` node is a parent; a chain sees its neighbour alone."""
    built = model(depth=3, parents=parents)
    z = [torch.zeros(1, 4, 6), *latents(built, 2, 4)]
    moved = [*z[:3], z[3] + 1]
    changed = [
        not torch.equal(before.mean, after.mean)
        for before, after in zip(built.joint(z), built.joint(moved), strict=True)
    ]
    assert changed == ([True, True, True, False] if parents == "every" else [False, False, True, False])


@both
def test_only_every_descendant_reaches_the_top(parents: str) -> None:
    """Gradients of q(z_3|.) reach z_1 and x directly where `every` node is a parent; a chain's come from z_2 alone."""
    built = model(depth=3, parents=parents)
    seen: list[tuple[Tensor, ...]] = []
    built.inference[2].register_forward_pre_hook(lambda _, inputs: seen.append(inputs))
    x = torch.rand(4, 6)
    z, _ = built.posterior(x, draws=2)
    expected = z[2::-1] if parents == "every" else [z[2]]
    assert len(seen[0]) == len(expected)
    assert all(torch.equal(actual, node) for actual, node in zip(seen[0], expected, strict=True))


def test_at_depth_one_both_kinds_are_the_same_model() -> None:
    """The same seed gives the same weights and the same bound: at depth 1 both are the VAE."""
    bounds, weights = [], []
    for parents in ("nearest", "every"):
        torch.manual_seed(5)
        built = model(depth=1, parents=parents)
        weights.append(built.state_dict())
        bounds.append(elbo(built, torch.eye(6), draws=3))
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert torch.equal(bounds[0].log_weight, bounds[1].log_weight)


def test_names_and_shapes_of_weights_depend_on_parents_only_above_depth_one() -> None:
    """`every` has wider first layers than `nearest` from depth 2 on, and otherwise the same ones."""
    models = [model(depth=2, parents=kind) for kind in ("nearest", "every")]
    shapes = [{name: value.shape for name, value in built.state_dict().items()} for built in models]
    assert shapes[0].keys() == shapes[1].keys()
    wider = {name for name in shapes[0] if shapes[0][name] != shapes[1][name]}
    assert wider == {"generative.0.network.0.weight", "inference.1.network.0.weight"}


# --- Where it starts


@both
@depths
@pytest.mark.parametrize("activation", list(ACTIVATIONS))
def test_an_untrained_model_starts_at_the_mean_of_the_data(depth: int, parents: str, activation: str) -> None:
    """Without noise the output is the data's mean, kept 0.001 off certainty, and every latent is N(0, I)."""
    built = model(depth=depth, parents=parents, activation=activation)
    zero = [torch.zeros(1, len(z[0])) for z in latents(built, 1)]
    torch.testing.assert_close(built.decode_noise(zero)[0], torch.tensor(MEAN).clamp(1e-3, 1 - 1e-3))
    for factor, z in zip(built.joint([torch.zeros(1, 1, 6), *(z[None] for z in zero)])[1:], zero, strict=True):
        torch.testing.assert_close(factor.mean.flatten(), torch.zeros(z.numel()))
        torch.testing.assert_close(factor.stddev.flatten(), torch.ones(z.numel()))


# --- Sampling and decoding


@both
@depths
def test_decoding_inverts_the_coordinates_of_a_sample(depth: int, parents: str) -> None:
    """At noise (z_t - mu_t) / sigma_t of an ancestral sample, `decode` is E[x|.] at that very sample."""
    built = model(depth=depth, parents=parents, z_dim=8)
    z = built.sample(5)
    rungs = built.joint([node[None] for node in z])
    noise = [((node[None] - rung.mean) / rung.stddev)[0] for node, rung in zip(z[1:], rungs[1:], strict=True)]
    torch.testing.assert_close(built.decode_noise(noise), rungs[0].mean[0])


@both
def test_one_level_is_decided_anew_with_those_above_held(parents: str) -> None:
    """With the noise of level 2 drawn again, z_3 stays, z_2 and all below it move."""
    built = model(depth=3, parents=parents)
    nodes: list[tuple[Tensor, ...]] = []
    seeing = built.generative[0 if parents == "every" else 2]
    seeing.register_forward_pre_hook(lambda _, inputs: nodes.append(inputs))
    noise = latents(built, 4)
    first = built.decode_noise(noise)
    second = built.decode_noise([noise[0], torch.randn_like(noise[1]), noise[2]])
    assert torch.equal(nodes[0][-1], nodes[1][-1])
    if parents == "every":
        assert not torch.equal(nodes[0][0], nodes[1][0])
        assert not torch.equal(nodes[0][1], nodes[1][1])
    assert not torch.equal(first, second)
    assert torch.equal(first, built.decode_noise(noise))


@both
@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_samples_are_pixels(parents: str, likelihood: str) -> None:
    """Bernoulli samples are 0 or 1; Gaussian ones are not; either is drawn anew each time."""
    built = model(parents=parents, likelihood=likelihood)
    x = built.sample(50)[0]
    assert torch.equal(x, x.round().clamp(0, 1)) is (likelihood == "bernoulli")
    assert not torch.equal(x, built.sample(50)[0])


def test_the_top_of_every_built_model_is_the_prior() -> None:
    """The last generative rung is p(z_T) = N(0, I), and it has no weights."""
    top = model(depth=3).generative[-1]
    assert isinstance(top, StandardNormal)
    assert not list(top.parameters())
