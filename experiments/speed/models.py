"""The IWAE paper's models: of this project, of the hand-written script, and their matrix products.

Burda, Grosse, Salakhutdinov, "Importance Weighted Autoencoders" (2016), section 5, https://arxiv.org/abs/1509.00519
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from experiments.speed.script import Script
from pipeline.models import HierarchicalVAE, build
from pipeline.models.precision import Precision
from pipeline.params import Params

__all__ = ["BATCHES", "CHAINS", "PIXELS", "Chain", "pixels", "twin"]

ROOT = Path(__file__).resolve().parents[2]
PIXELS = 784
BATCHES = (20, 100, 256)


@dataclass(frozen=True)
class Chain:
    """A chain of Gaussian rungs: its widths [pixels, z_1, ..., z_T], and the hidden layers of each rung."""

    widths: tuple[int, ...]
    hidden: tuple[tuple[int, ...], ...]

    @property
    def levels(self) -> int:
        """T."""
        return len(self.hidden)

    @property
    def name(self) -> str:
        """The model as it is told."""
        return f"{self.levels} level{'s' if self.levels > 1 else ''}"

    def params(self, batch: int = 100, precision: Precision = "float32", compile: bool = False) -> Params:
        """Return this project's parameters: those of params.yaml, at a constant learning rate of 0.001."""
        return Params.read(
            ROOT / "params.yaml",
            {
                "variants": {"paper": {}},
                "model.widths": list(self.widths[1:]),
                "model.hidden": [list(layers) for layers in self.hidden],
                "train.batch_size": batch,
                "train.learning_rate": 1e-3,
                "train.schedule": "constant",
                "train.clip": None,  # no peer has one
                "train.precision": precision,
                "train.compile": compile,
            },
        )

    def model(self, mean: float = 0.5) -> HierarchicalVAE:
        """Return this project's model for data of a mean."""
        return build(self.params().model, torch.full((self.widths[0],), mean))

    def script(self) -> Script:
        """Return the hand-written one."""
        return Script(self.widths, self.hidden)


CHAINS = (
    Chain((PIXELS, 50), ((200, 200),)),
    Chain((PIXELS, 100, 50), ((200, 200), (100, 100))),
)


def pixels(images: int) -> Tensor:
    """Return random images, uint8."""
    return torch.randint(0, 256, (images, PIXELS), dtype=torch.uint8)


def twin(model: HierarchicalVAE, chain: Chain) -> Script:
    """Return the hand-written model with the weights of this project's."""
    script = chain.script()
    rungs = [*zip(script.up, model.inference, strict=True)]
    rungs += [*zip(script.down, list(model.generative)[1:-1], strict=True)]
    with torch.no_grad():
        for hand, own in rungs:
            *hidden, last = _layers(own)
            _copy(hand.body, hidden)
            for head, weight, bias in zip((hand.mu, hand.sigma), last.weight.chunk(2), last.bias.chunk(2), strict=True):
                head.weight.copy_(weight)
                head.bias.copy_(bias)
        _copy(script.decoder, _layers(model.generative[0]))
    return script


def _layers(module: nn.Module) -> list[nn.Linear]:
    return [layer for layer in module.modules() if isinstance(layer, nn.Linear)]


def _copy(to: nn.Module, layers: list[nn.Linear]) -> None:
    for mine, layer in zip(_layers(to), layers, strict=True):
        mine.load_state_dict(layer.state_dict())
