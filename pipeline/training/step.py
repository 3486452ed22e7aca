"""A step of training: the gradient of a batch, the limit of its norm, and Adam.

Taken apart into torch's operators, at batch 20 most of its time goes between them. With `train.compile` torch makes one
function of it, fusing what lies between the matrix products, Adam included. That is for models with a gradient derived
by hand and objectives whose derivatives are known, without free bits, stagger or an average of the weights; all others
stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.errors import InputError
from pipeline.models import HierarchicalVAE
from pipeline.objectives import ELBO, weight
from pipeline.params import TrainParams
from pipeline.training.adam import Adam
from pipeline.training.gradients import Chain, Loss, gradient

__all__ = ["CompiledStep", "Step", "steps"]


def steps(model: HierarchicalVAE, adam: Adam, params: TrainParams) -> Step | CompiledStep:
    """Return what takes a model's steps."""
    compiled = params.compile and Chain.fits(model) and Loss(params).is_known and params.ema is None
    return (CompiledStep if compiled else Step)(model, adam, params)


class Step:
    """Operator by operator."""

    def __init__(self, model: HierarchicalVAE, adam: Adam, params: TrainParams) -> None:
        self.adam, self.params, self.gradient = adam, params, gradient(model, params)

    @contextmanager
    def epoch(self) -> Iterator[None]:
        """Take an epoch's steps within this."""
        yield

    def __call__(self, x: Float[Tensor, "batch units"], at: float, rate: float) -> tuple[ELBO, Float[Tensor, ""]]:
        """Move the weights at this learning rate; return a batch's terms and loss, at epoch `at`, before that."""
        bound, loss = self.gradient(x, self.params.draws, at)
        if self.params.clip is not None:
            self.adam.clip(self.params.clip)
        self.adam.step(rate)
        return bound, loss


class CompiledStep:
    """As one function, on weights and moments of its own: a compiler writes views of one tensor as a whole.

    Between epochs they are the model's. A batch of another size, an epoch's last, goes through the same function as
    it is written.
    """

    def __init__(self, model: HierarchicalVAE, adam: Adam, params: TrainParams) -> None:
        self.adam, self.params, self.loss = adam, params, Loss(params)
        own = deepcopy(model).requires_grad_(False)
        self.chain = Chain(own, self.loss)
        self.weights = [w for weights in self.chain.weights for w in weights]
        self.means = [torch.zeros_like(w) for w in self.weights]
        self.squares = [torch.zeros_like(w) for w in self.weights]
        places = {id(w): place for place, w in enumerate(own.parameters())}
        self.places = [places[id(w)] for w in self.weights]
        self.compiled = _compiled(self.written, self.weights[0].device)
        self.count = 0

    @contextmanager
    def epoch(self) -> Iterator[None]:
        """Take up the model's weights and moments, and hand them back after the epoch's last step."""
        mean, square, steps = self.adam.moments.values()
        pairs: list[tuple[Tensor, Tensor]] = []
        for flat, own in ((self.adam.weights, self.weights), (mean, self.means), (square, self.squares)):
            views = self.adam.views(flat)
            pairs += zip([views[place] for place in self.places], own, strict=True)
        for of_model, mine in pairs:
            mine.copy_(of_model)
        self.count = int(steps)
        yield
        for of_model, mine in pairs:
            of_model.copy_(mine)
        steps.fill_(self.count)

    @torch.no_grad()
    def __call__(self, x: Float[Tensor, "batch units"], at: float, rate: float) -> tuple[ELBO, Float[Tensor, ""]]:
        """Move the weights at this learning rate; return a batch's terms and loss, at epoch `at`, before that."""
        self.count += 1
        first, second = (1 - beta**self.count for beta in (self.params.adam_beta1, self.params.adam_beta2))
        numbers = x.new_tensor([weight(self.params, at), rate / first, 1 / second])
        step = self.compiled if len(x) == self.params.batch_size else self.written
        *terms, loss = step(x, self.chain.noise(x, self.params.draws), numbers)
        return ELBO(*terms), loss

    def written(self, x: Tensor, noise: Sequence[Tensor], numbers: Float[Tensor, "3"]) -> tuple[Tensor, Tensor, Tensor]:
        """Return reconstruction, rates and loss; the numbers are the rate's weight and Adam's two corrections."""
        beta, rate, correction = numbers.unbind()
        bound, kept = self.chain.forward(x, noise)
        loss, slopes = self.loss.known(bound, beta)
        found = self.chain.backward(kept, *slopes, into=[[None] * len(weights) for weights in self.chain.weights])
        by_weights = {
            w: g for ws, gs in zip(self.chain.weights, found, strict=True) for w, g in zip(ws, gs, strict=True)
        }
        gradients = [by_weights[w] for w in self.weights]
        if self.params.clip is not None:
            norm = torch.stack([(g * g).sum() for g in gradients]).sum().sqrt()
            gradients = [g * (self.params.clip / norm).clamp(max=1) for g in gradients]
        for w, m, v, g in zip(self.weights, self.means, self.squares, gradients, strict=True):
            m.lerp_(g, 1 - self.params.adam_beta1)
            v.mul_(self.params.adam_beta2).addcmul_(g, g, value=1 - self.params.adam_beta2)
            w.sub_(rate * m / ((v * correction).sqrt() + self.params.adam_eps))
        return bound.reconstruction, bound.rate, loss


def _compiled(function: Callable[..., Any], device: torch.device) -> Callable[..., Any]:
    """Return a function that is compiled at its first call, which says so in one line where that cannot be."""
    from torch._dynamo.exc import TorchDynamoException  # these take seconds
    from torch._inductor import config

    config.compile_threads = 1  # no process that would outlive this one
    options: dict[str, Any] = {"cpp_wrapper": True} if device.type == "cpu" else {}
    torch.compiler.reset()  # a process that trains many models, as a sweep does, would reach the limit of its cache
    made = torch.compile(function, fullgraph=True, dynamic=False, options=options)

    def call(*given: Any) -> Any:
        try:
            return made(*given)
        except TorchDynamoException as error:
            reason = str(error).strip().splitlines()[0]
            raise InputError(f"train.compile: true given; a step cannot be compiled here: {reason}") from None

    return call
