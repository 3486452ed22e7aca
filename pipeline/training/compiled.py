"""A step of training that torch compiles into one function, for `train.compile`.

Taken apart into torch's operators, at batch 20 most of a step's time goes between them. Compiled, all that lies between
the matrix products is fused, Adam included. That is for models with a gradient derived by hand and objectives whose
derivatives have a closed form, without free bits, stagger or an average of the weights.
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
from pipeline.objectives import ELBO, beta_at
from pipeline.params import TrainParams
from pipeline.training.loss import Loss
from pipeline.training.manual import ManualGradient
from pipeline.training.step import Adam

__all__ = ["CompiledStep"]


class CompiledStep:
    """A compiled step on weights and moments of its own, since the compiler writes views of one tensor as a whole.

    Between epochs they are the model's. A batch of another size, an epoch's last, goes through the same function
    uncompiled.
    """

    def __init__(self, model: HierarchicalVAE, adam: Adam, params: TrainParams) -> None:
        self.adam, self.params, self.loss = adam, params, Loss(params)
        own = deepcopy(model).requires_grad_(False)
        self.manual = ManualGradient(own, self.loss)
        self.weights = [w for weights in self.manual.weights for w in weights]
        self.means = [torch.zeros_like(w) for w in self.weights]
        self.squares = [torch.zeros_like(w) for w in self.weights]
        indices = {id(w): index for index, w in enumerate(own.parameters())}
        self.indices = [indices[id(w)] for w in self.weights]
        self.compiled = _compiled(self._step, self.weights[0].device)
        self.count = 0

    @classmethod
    def supports(cls, model: HierarchicalVAE, params: TrainParams) -> bool:
        """Return whether a step of this model with these parameters can be compiled."""
        return ManualGradient.supports(model) and Loss(params).has_closed_form and params.ema is None

    @contextmanager
    def epoch(self) -> Iterator[None]:
        """Copy the model's weights and moments in, and back after the epoch's last step."""
        mean, square, steps = self.adam.moments.values()
        pairs: list[tuple[Tensor, Tensor]] = []
        for flat, own in ((self.adam.weights, self.weights), (mean, self.means), (square, self.squares)):
            views = self.adam.views(flat)
            pairs += zip([views[index] for index in self.indices], own, strict=True)
        for model_part, own_part in pairs:
            own_part.copy_(model_part)
        self.count = int(steps)
        yield
        for model_part, own_part in pairs:
            model_part.copy_(own_part)
        steps.fill_(self.count)

    @torch.no_grad()
    def __call__(self, x: Float[Tensor, "batch units"], at: float, rate: float) -> tuple[ELBO, Float[Tensor, ""]]:
        """Move the weights at this learning rate; return a batch's terms and loss, at epoch `at`, before that."""
        self.count += 1
        first, second = (1 - beta**self.count for beta in (self.params.adam_beta1, self.params.adam_beta2))
        numbers = x.new_tensor([beta_at(self.params, at), rate / first, 1 / second])
        step = self.compiled if len(x) == self.params.batch_size else self._step
        *terms, loss = step(x, self.manual.noise(x, self.params.draws), numbers)
        return ELBO(*terms), loss

    def _step(self, x: Tensor, noise: Sequence[Tensor], numbers: Float[Tensor, "3"]) -> tuple[Tensor, Tensor, Tensor]:
        """Return reconstruction, rates and loss; the numbers are the rate's weight and Adam's two corrections."""
        beta, rate, correction = numbers.unbind()
        bound, saved = self.manual.forward(x, noise)
        loss, derivatives = self.loss.closed_form_gradients(bound, beta)
        by_layer = self.manual.backward(
            saved, *derivatives, into=[[None] * len(weights) for weights in self.manual.weights]
        )
        by_weights = {
            w: g for ws, gs in zip(self.manual.weights, by_layer, strict=True) for w, g in zip(ws, gs, strict=True)
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
    """Return the function, compiled at its first call, which raises `InputError` where that cannot be done."""
    from torch._dynamo.exc import TorchDynamoException  # these imports take seconds
    from torch._inductor import config

    config.compile_threads = 1  # no process that would outlive this one
    options: dict[str, Any] = {"cpp_wrapper": True} if device.type == "cpu" else {}
    torch.compiler.reset()  # a process that trains many models, as a sweep does, would reach the limit of its cache
    compiled = torch.compile(function, fullgraph=True, dynamic=False, options=options)

    def call(*args: Any) -> Any:
        try:
            return compiled(*args)
        except TorchDynamoException as error:
            reason = str(error).strip().splitlines()[0]
            raise InputError(f"train.compile: true given; a step cannot be compiled here: {reason}") from None

    return call
