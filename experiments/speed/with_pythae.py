"""The model of one level in pythae, by its trainer. Run in the peers' environment by `peers`."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from itertools import pairwise
from typing import Any

import torch
from answer import answer  # of this folder
from pythae.data.datasets import BaseDataset
from pythae.models import VAE, VAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.trainers import BaseTrainer, BaseTrainerConfig
from torch import Tensor, nn


def body(widths: Sequence[int]) -> list[nn.Module]:
    """Return dense layers, tanh after each."""
    return [part for i, o in pairwise(widths) for part in (nn.Linear(i, o), nn.Tanh())]


class Encoder(BaseEncoder):
    """784-200-200-z."""

    def __init__(self, pixels: int, hidden: Sequence[int], units: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*body([pixels, *hidden]))
        self.mu, self.log_var = nn.Linear(hidden[-1], units), nn.Linear(hidden[-1], units)

    def forward(self, x: Tensor) -> ModelOutput:
        """Return mean and log-variance."""
        h = self.body(x)
        return ModelOutput(embedding=self.mu(h), log_covariance=self.log_var(h))


class Decoder(BaseDecoder):
    """z-200-200-784."""

    def __init__(self, pixels: int, hidden: Sequence[int], units: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*body([units, *hidden]), nn.Linear(hidden[-1], pixels), nn.Sigmoid())

    def forward(self, z: Tensor) -> ModelOutput:
        """Return the pixels' means."""
        return ModelOutput(reconstruction=self.body(z))


class Binarizing(VAE):
    """Draws the pixels anew at each presentation."""

    def forward(self, inputs: Any, **words: Any) -> ModelOutput:
        """Return the loss."""
        return super().forward({**inputs, "data": torch.bernoulli(inputs["data"])}, **words)


def made(widths: Sequence[int], hidden: Sequence[Sequence[int]], batch: int, images: int) -> BaseTrainer:
    """Return a trainer that is ready for its first epoch."""
    pixels, units = widths
    config = VAEConfig(input_dim=(pixels,), latent_dim=units, reconstruction_loss="bce")
    model = Binarizing(config, Encoder(pixels, hidden[0], units), Decoder(pixels, hidden[0], units))
    training = BaseTrainerConfig(
        output_dir=scratch.name,
        num_epochs=1,
        learning_rate=1e-3,
        per_device_train_batch_size=batch,
        no_cuda=True,
        optimizer_cls="Adam",
    )
    data = BaseDataset(torch.rand(images, pixels), torch.zeros(images))
    trainer = BaseTrainer(model, data, training_config=training)
    trainer.prepare_training()
    return trainer


scratch = tempfile.TemporaryDirectory()
running: dict[str, BaseTrainer] = {}


def rate(**request: Any) -> float:
    """Run one epoch and return images per second of processor time."""
    name = str(request)
    trainer = running[name] = running.get(name) or made(**request)
    start = time.process_time()
    trainer.train_step(1)
    return request["images"] / (time.process_time() - start)


if __name__ == "__main__":
    torch.set_num_threads(1)
    answer(rate, {"pythae": version("pythae")})
