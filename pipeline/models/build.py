"""Models built from parameters: widths, hidden layers, where they start."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution

from pipeline.data import Shape
from pipeline.distributions import (
    FULL,
    LATENT,
    POSTERIORS,
    BottomUpBlock,
    Conditional,
    Family,
    FlowPrior,
    InverseAutoregressive,
    Mixture,
    StandardNormal,
    Vamp,
    bottom_up_pass,
    likelihood,
)
from pipeline.models.hierarchy import HierarchicalVAE
from pipeline.models.latent_diffusion import diffusion_rungs
from pipeline.models.layers import ACTIVATIONS, Image
from pipeline.models.networks import NETWORKS
from pipeline.models.noise_chains import build_diffusion
from pipeline.models.residual import NoiseStep, zero_last
from pipeline.models.resnet import maps, resnet
from pipeline.params import ModelParams

__all__ = ["PRIORS", "build"]


def build(params: ModelParams, mean: Float[Tensor, " units"], shape: Shape | None = None) -> HierarchicalVAE:
    """Build the model that `params` describes for data of mean `mean`, a vector of all its units.

    The output bias starts at the data's mean; every latent conditional starts near N(0, I). `shape`, the images'
    channels, height and width, is what convolutions need, and a likelihood whose channels depend on each other. Nodes
    are vectors in any case: a level of maps holds its channels one after another.

    Raises:
        ValueError: a network of convolutions without a shape of as many units.
    """
    if params.network != "mlp" and (shape is None or math.prod(shape) != len(mean)):
        raise ValueError(f"network {params.network} needs the shape of images of {len(mean)} units, not {shape}")
    if params.inference == "diffusion":
        return build_diffusion(params, mean, shape)
    image = shape or (len(mean), 1, 1)
    nodes = [image, *params.level_shapes(image)]
    units = [math.prod(node) for node in nodes]
    residual = params.parametrization == "residual"
    make = partial(resnet, blocks=params.blocks) if params.network == "resnet" else NETWORKS[params.network]

    def network(
        rung: int, inputs: Sequence[Shape], output: Shape, hidden: Sequence[int], side: Literal["input", "output"]
    ) -> nn.Sequential:
        if params.latents == "maps":
            halve = params.halves(rung)
            return maps(inputs, output, hidden if halve else hidden[-1:], side, params.activation, params.blocks, halve)
        widths = sum(map(math.prod, inputs)), math.prod(output)
        pixels = Image(side, shape) if shape is not None and rung == 0 else None
        return make(*widths, hidden, params.activation, params.batch_norm, pixels)

    def conditional(
        rung: int, child: int, ancestors: Sequence[int], family: Family | InverseAutoregressive, at: Tensor
    ) -> Conditional:
        inputs = [nodes[node] for node in (ancestors if params.parents == "every" else ancestors[:1])]
        output = _planes(family.raw_numbers(units[child]), nodes[child])
        built = network(rung, inputs, output, params.hidden_of(rung), "output" if child == rung else "input")
        if residual and rung:
            return Conditional(NoiseStep(built, inputs[0], nodes[child]), family)
        return Conditional(_starting_at(built, family, at), family)

    levels = range(1, params.levels + 1)
    inference: list[nn.Module] = []
    if params.inference != "top_down":
        inference += [
            conditional(t - 1, t, range(t - 1, -1, -1), _posterior(params, units[t]), torch.zeros(units[t]))
            for t in levels
        ]
    else:
        below = nodes[0]
        for t in levels:
            hidden = params.hidden_of(t - 1)
            d, output = (hidden[-1], *nodes[t][1:]), _planes(LATENT.raw_numbers(units[t]), nodes[t])
            if params.latents == "maps":
                body, head = network(t - 1, [below], d, hidden, "input"), network(t - 1, [d], output, [], "input")
            else:
                body = network(t - 1, [below], d, hidden[:-1], "input")
                head = NETWORKS["mlp"](d[0], output[0], [], params.activation, params.batch_norm)
            body.append(ACTIVATIONS[params.activation]())
            relative = residual and t < params.levels
            head = _starting_at(zero_last(head) if relative else head, LATENT, torch.zeros(units[t]))
            inference.append(BottomUpBlock(body, head, relative))
            below = d
    family = likelihood(params, shape[0] if shape else 1)
    generative: list[nn.Module] = [
        conditional(
            t - 1,
            t - 1,
            range(t, params.levels + 1),
            family if t == 1 else LATENT,
            mean if t == 1 else torch.zeros(units[t - 1]),
        )
        for t in levels
    ]
    if params.prior == "diffusion":
        noising, denoised = diffusion_rungs(params, units[-1])
        inference, generative = [*inference, *noising], [*generative, *denoised]
    prior = PRIORS[params.prior](params, units, mean, inference)
    direction: Literal["bottom_up", "top_down"] = "top_down" if params.inference == "top_down" else "bottom_up"
    return HierarchicalVAE([*generative, prior], inference, params.parents, direction)


def _planes(numbers: int, node: Shape) -> Shape:
    """Return the shape of so many numbers in planes of the size of a node's."""
    _, height, width = node
    return numbers // (height * width), height, width


def _posterior(params: ModelParams, units: int) -> Family | InverseAutoregressive:
    """Return the family of a level of so many units, given those below it."""
    if params.posterior == "iaf":
        return InverseAutoregressive(units, params.flow_transforms, params.flow_hidden)
    return FULL if params.posterior == "full" else POSTERIORS[params.inference]


def _starting_at(network: nn.Sequential, family: Family | InverseAutoregressive, mean: Tensor) -> nn.Sequential:
    """Return the network, its output bias set so that it starts at `mean`."""
    with torch.no_grad():
        network[-1].bias.copy_(family.bias(mean))  # type: ignore[operator]
    return network


def _vamp(params: ModelParams, units: Sequence[int], mean: Tensor, inference: Sequence[nn.Module]) -> Vamp:
    """Images start at the data's mean and noise of deviation 1 in the logit, latent parents at draws from N(0, I)."""
    count = params.pseudo_inputs
    if params.inference == "top_down":
        top, ancestors = partial(_ladder_top, inference), [0]
    else:
        top, ancestors = partial(_call, inference[-1]), list(range(params.levels - 1, -1, -1))
        ancestors = ancestors if params.parents == "every" else ancestors[:1]
    start = torch.randn(count, sum(units[node] for node in ancestors)).split([units[t] for t in ancestors], dim=1)
    image = ancestors[-1] == 0
    if image:
        start = (*start[:-1], start[-1] + torch.logit(mean, eps=1e-2))
    return Vamp(top, start, image)


def _ladder_top(inference: Sequence[nn.Module], x: Tensor) -> Distribution:
    return bottom_up_pass(inference, x)[-1]


def _call(rung: nn.Module, *parents: Tensor) -> Distribution:
    q: Distribution = rung(*parents)
    return q


PRIORS: dict[str, Callable[[ModelParams, Sequence[int], Tensor, Sequence[nn.Module]], nn.Module]] = {
    "normal": lambda params, units, mean, inference: StandardNormal(units[-1]),
    "vamp": _vamp,
    "mixture": lambda params, units, mean, inference: Mixture(units[-1], params.pseudo_inputs),
    "flow": lambda params, units, mean, inference: FlowPrior(units[-1], params.flow_transforms, params.flow_hidden),
    "diffusion": lambda params, units, mean, inference: StandardNormal(units[-1]),
}
