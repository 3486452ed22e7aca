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
    LATENT,
    BottomUpBlock,
    Conditional,
    Family,
    Mixture,
    StandardNormal,
    Vamp,
    bottom_up_pass,
    likelihood,
)
from pipeline.models.hierarchy import HierarchicalVAE
from pipeline.models.networks import ACTIVATIONS, NETWORKS, Image
from pipeline.params import ModelParams

__all__ = ["PRIORS", "build"]


def build(params: ModelParams, mean: Float[Tensor, " units"], shape: Shape | None = None) -> HierarchicalVAE:
    """Build the model that `params` describes for data of mean `mean`, a vector of all its units.

    The output bias starts at the data's mean; every latent conditional starts near N(0, I). `shape`, the images'
    channels, height and width, is what network conv needs.

    Raises:
        ValueError: network conv without a shape of as many units.
    """
    widths = [len(mean), *params.level_widths]
    if params.network == "conv" and (shape is None or math.prod(shape) != len(mean)):
        raise ValueError(f"network conv needs the shape of images of {len(mean)} units, not {shape}")

    def network(
        rung: int, inputs: int, outputs: int, hidden: Sequence[int], side: Literal["input", "output"]
    ) -> nn.Sequential:
        image = Image(side, shape) if shape is not None and rung == 0 else None
        return NETWORKS[params.network](inputs, outputs, hidden, params.activation, params.batch_norm, image)

    def conditional(rung: int, child: int, ancestors: Sequence[int], family: Family, at: Tensor) -> Conditional:
        inputs = sum(widths[node] for node in (ancestors if params.parents == "every" else ancestors[:1]))
        outputs = family.per_unit * widths[child]
        built = network(rung, inputs, outputs, _hidden(params, rung), "output" if child == 0 else "input")
        return Conditional(_starting_at(built, family, at), family)

    levels = range(1, params.depth + 1)
    inference: list[nn.Module] = []
    if params.inference == "bottom_up":
        inference += [conditional(t - 1, t, range(t - 1, -1, -1), LATENT, torch.zeros(widths[t])) for t in levels]
    else:
        below = widths[0]
        for t in levels:
            *hidden, d = _hidden(params, t - 1)
            body = network(t - 1, below, d, hidden, "input")
            body.append(ACTIVATIONS[params.activation]())
            head = NETWORKS["mlp"](d, LATENT.per_unit * widths[t], [], params.activation, params.batch_norm)
            inference.append(BottomUpBlock(body, _starting_at(head, LATENT, torch.zeros(widths[t]))))
            below = d
    family = likelihood(params)
    generative: list[nn.Module] = [
        conditional(
            t - 1,
            t - 1,
            range(t, params.depth + 1),
            family if t == 1 else LATENT,
            mean if t == 1 else torch.zeros(widths[t - 1]),
        )
        for t in levels
    ]
    prior = PRIORS[params.prior](params, mean, inference)
    return HierarchicalVAE([*generative, prior], inference, params.parents, params.inference)


def _hidden(params: ModelParams, rung: int) -> Sequence[int]:
    return params.hidden[min(rung, len(params.hidden) - 1)]


def _starting_at(network: nn.Sequential, family: Family, mean: Tensor) -> nn.Sequential:
    """Return the network, its output bias set so that it starts at `mean`."""
    with torch.no_grad():
        network[-1].bias.copy_(family.bias(mean))  # type: ignore[operator]
    return network


def _vamp(params: ModelParams, mean: Tensor, inference: Sequence[nn.Module]) -> Vamp:
    """Images start at the data's mean and noise of deviation 1 in the logit, latent parents at draws from N(0, I)."""
    widths = [len(mean), *params.level_widths]
    count = params.pseudo_inputs
    if params.inference == "top_down":
        top, ancestors = partial(_ladder_top, inference), [0]
    else:
        top, ancestors = partial(_call, inference[-1]), list(range(params.depth - 1, -1, -1))
        ancestors = ancestors if params.parents == "every" else ancestors[:1]
    start = torch.randn(count, sum(widths[node] for node in ancestors)).split([widths[t] for t in ancestors], dim=1)
    image = ancestors[-1] == 0
    if image:
        start = (*start[:-1], start[-1] + torch.logit(mean, eps=1e-2))
    return Vamp(top, start, image)


def _ladder_top(inference: Sequence[nn.Module], x: Tensor) -> Distribution:
    return bottom_up_pass(inference, x)[-1]


def _call(rung: nn.Module, *parents: Tensor) -> Distribution:
    q: Distribution = rung(*parents)
    return q


PRIORS: dict[str, Callable[[ModelParams, Tensor, Sequence[nn.Module]], nn.Module]] = {
    "normal": lambda params, mean, inference: StandardNormal(params.level_widths[-1]),
    "vamp": _vamp,
    "mixture": lambda params, mean, inference: Mixture(params.level_widths[-1], params.pseudo_inputs),
}
