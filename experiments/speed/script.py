"""The same models and their training as most people write them by hand, in PyTorch: the yardstick.

TensorDataset, DataLoader, torch.distributions, torch.optim.Adam; nothing of this project. Started as a program, it
measures its evaluation for another process (`peers`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Normal, kl_divergence
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

__all__ = ["Gaussian", "Script", "Training", "evaluate"]


def _body(inputs: int, hidden: Sequence[int]) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(inputs, width), nn.Tanh()]
        inputs = width
    return layers


class Gaussian(nn.Module):
    """A network whose two heads are a mean and a deviation."""

    def __init__(self, inputs: int, hidden: Sequence[int], units: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*_body(inputs, hidden))
        self.mu, self.sigma = nn.Linear(hidden[-1], units), nn.Linear(hidden[-1], units)

    def forward(self, x: Tensor) -> Normal:
        """Return the distribution given x."""
        h = self.body(x)
        return Normal(self.mu(h), F.softplus(self.sigma(h)) + 1e-4)


class Script(nn.Module):
    """A chain of the widths [pixels, z_1, ..., z_T], with the hidden layers of each rung."""

    def __init__(self, widths: Sequence[int], hidden: Sequence[Sequence[int]]) -> None:
        super().__init__()
        rungs = list(zip(widths, widths[1:], hidden, strict=False))
        self.up = nn.ModuleList(Gaussian(below, layers, above) for below, above, layers in rungs)
        self.down = nn.ModuleList(Gaussian(above, layers, below) for below, above, layers in rungs[1:])
        self.decoder = nn.Sequential(*_body(widths[1], hidden[0]), nn.Linear(hidden[0][-1], widths[0]))

    def forward(self, x: Tensor) -> Tensor:
        """Return the bound of each image at one draw, with the KL of the top level in closed form."""
        z, q = self._draw(x, ())
        top = kl_divergence(q[-1], Normal(0.0, 1.0)).sum(-1)
        return self._reconstruction(x, z) - sum(self._rates(z, q)) - top

    def log_weight(self, x: Tensor, draws: int) -> Tensor:
        """Return the log-weights [draws, batch], all draws at once."""
        z, q = self._draw(x, (draws,))
        top = (q[-1].log_prob(z[-1]) - Normal(0.0, 1.0).log_prob(z[-1])).sum(-1)
        return self._reconstruction(x, z) - sum(self._rates(z, q)) - top

    def _draw(self, x: Tensor, draws: tuple[int, ...]) -> tuple[list[Tensor], list[Normal]]:
        z, q = [x], []
        for rung in self.up:
            q.append(rung(z[-1]))
            z.append(q[-1].rsample(draws if len(q) == 1 else ()))
        return z, q

    def _reconstruction(self, x: Tensor, z: list[Tensor]) -> Tensor:
        return Bernoulli(logits=self.decoder(z[1])).log_prob(x).sum(-1)

    def _rates(self, z: list[Tensor], q: list[Normal]) -> list[Tensor]:
        """Return log q - log p of every level but the top."""
        return [
            (q[t - 1].log_prob(z[t]) - rung(z[t + 1]).log_prob(z[t])).sum(-1) for t, rung in enumerate(self.down, 1)
        ]


class Training:
    """A model, its optimizer and its loader."""

    def __init__(self, model: Script, pixels: Tensor, batch: int) -> None:
        self.model = model
        self.optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        self.loader = DataLoader(TensorDataset(pixels.float() / 255), batch_size=batch, shuffle=True)

    def __call__(self) -> float:
        """Train one epoch; return images per second of processor time."""
        start, count = time.process_time(), 0
        self.model.train()
        for (x,) in self.loader:
            x = torch.bernoulli(x)
            loss = -self.model(x).mean()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            count += len(x)
        return count / (time.process_time() - start)


@torch.no_grad()
def evaluate(model: Script, x: Tensor, draws: int, at_once: int = 20) -> Tensor:
    """Return L_draws of every image."""
    parts = [model.log_weight(images, draws) for images in x.split(at_once)]
    return torch.cat([torch.logsumexp(part, 0) - math.log(draws) for part in parts])


if __name__ == "__main__":
    from answer import answer  # of this folder

    models: dict[str, Script] = {}

    def rate(widths: list[int], hidden: list[list[int]], images: int, draws: int) -> float:
        """Return rows, draws times images, per second of processor time."""
        model = models.setdefault(str((widths, hidden)), Script(widths, hidden))
        x = (torch.rand(images, widths[0]) < 0.1).float()
        start = time.process_time()
        evaluate(model, x, draws)
        return images * draws / (time.process_time() - start)

    torch.set_num_threads(1)
    answer(rate, {})
