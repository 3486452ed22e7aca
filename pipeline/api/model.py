"""A trained model for images in and images out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pipeline.api.images import as_rows, in_form_of
from pipeline.data import Shape, Splits
from pipeline.errors import InputError
from pipeline.evaluation.application import mean_nodes
from pipeline.evaluation.bounds import many_draws
from pipeline.files import write_csv
from pipeline.log import Record
from pipeline.models import HierarchicalVAE
from pipeline.models.checkpoint import save_model
from pipeline.objectives import ELBO
from pipeline.params import MEASURES, PROBABILITY, ModelParams
from pipeline.randomness import seeded
from pipeline.report.frames import frame
from pipeline.text import by_level

if TYPE_CHECKING:
    from pipeline.report.frames import DataFrame

__all__ = ["Model"]

BATCH = 100  # images


@dataclass(repr=False)
class Model:
    """A trained model: its methods take images and return images, as arrays or, where they are given one, a tensor.

    Images are [n, height, width], or [n, channels, height, width]: uint8 from 0 to 255, float from 0 to 1, or bool.
    Where the likelihood is that of binary pixels, the pixels of grey images are drawn, and where the training had noise
    on grey levels, so have they: the same for the same images and `seed`.

    >>> import pipeline as cave
    >>> from sklearn.datasets import load_digits
    >>> images = load_digits().images / 16
    >>> model = cave.fit(images[:200], epochs=1, progress=False)
    >>> model.reconstruct(images[:3]).shape, model.sample(5).shape
    ((3, 8, 8), (5, 8, 8))
    """

    module: HierarchicalVAE  # the torch module; its nodes are rows of pixels
    params: ModelParams
    shape: Shape  # of an image: channels, height, width
    records: list[Record] = field(default_factory=list)  # one an epoch
    splits: Splits | None = field(default=None)  # that it was trained on
    run_id: str | None = None  # in MLflow
    dequantized_levels: int | None = None  # grey levels, where it was trained on them with uniform noise

    @property
    def history(self) -> DataFrame:
        """The metrics of the training by epoch.

        >>> import pipeline as cave
        >>> model = cave.fit("digits", epochs=2, hidden=[[8]], progress=False)
        >>> model.history[["train/elbo", "valid/elbo"]].shape
        (2, 2)
        """
        return frame([record.row for record in self.records], index="epoch")

    def __repr__(self) -> str:
        """Say in a line what the model is."""
        channels, height, width = self.shape
        colour = f" in {channels} channels" if channels > 1 else ""
        levels = by_level(self.widths, " - ")
        return f"Model(levels {levels}, images {height} x {width}{colour}, likelihood {self.params.likelihood})"

    @property
    def depth(self) -> int:
        """Number of latent levels."""
        return self.module.depth

    @property
    def widths(self) -> tuple[int, ...]:
        """Units of z_1, ..., z_T; a level of maps has those of all its channels."""
        return tuple(self.params.level_units(self.shape))

    @property
    def discrete(self) -> bool:
        """Whether an image has a probability; else it has a density, and its bounds may be above 0."""
        return MEASURES[self.params.likelihood] == PROBABILITY

    @torch.no_grad()
    def encode(self, x: Any, *, seed: int = 0) -> list[Any]:
        """Return the latents z_1, ..., z_T of images, [n, units] each: from level to level the mean of q(z_t | .).

        >>> import pipeline as cave
        >>> model = cave.fit("digits", depth=2, widths=[5, 3], epochs=1, progress=False)
        >>> x = model.sample(4)
        >>> [z.shape for z in model.encode(x)]
        [(4, 5), (4, 3)]
        """
        parts = [mean_nodes(self.module, rows)[1:] for rows in self.rows(x, seed).split(BATCH)]
        return [self._like(torch.cat(level, dim=1)[0], x) for level in zip(*parts, strict=True)]

    @torch.no_grad()
    def decode(self, z: Any) -> Any:
        """Return the mean of p(x | z_1, ..., z_T) as images; `z` has the levels [n, units] as `encode` returns them.

        Where `parents` is `nearest`, only z_1 counts, and may be given alone.

        >>> import pipeline as cave
        >>> model = cave.fit("digits", depth=2, widths=[5, 3], epochs=1, progress=False)
        >>> z = model.encode(model.sample(4))
        >>> model.decode(z).shape, bool((model.decode(z) == model.decode(z[:1])).all())
        ((4, 8, 8), True)
        """
        needed = 1 if self.params.parents == "nearest" else self.depth
        levels = self._levels(z, "z", range(needed, self.depth + 1))
        return self._images(self.module.decode(levels), z)

    @torch.no_grad()
    def decode_noise(self, noise: Any) -> Any:
        """Return the mean of p(x | z) at z_t = mean + deviation * noise_t of p(z_t | .), from the top level down.

        `noise` has standardized noise [n, units] of each level: numbers from N(0, 1) give latents of the model itself.

        >>> import numpy as np
        >>> import pipeline as cave
        >>> model = cave.fit("digits", depth=2, widths=[5, 3], epochs=1, progress=False)
        >>> model.decode_noise([np.zeros((4, 5)), np.zeros((4, 3))]).shape
        (4, 8, 8)
        """
        levels = self._levels(noise, "noise", [self.depth])
        return self._images(self.module.decode_noise(levels), noise)

    def reconstruct(self, x: Any, *, seed: int = 0) -> Any:
        """Return the images that the latents of images stand for: `decode(encode(x))`, in the form of `x`.

        >>> import torch
        >>> import pipeline as cave
        >>> model = cave.fit("digits", epochs=1, progress=False)
        >>> model.reconstruct(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 1, 8, 8])
        """
        return in_form_of(x, self.decode(self.encode(x, seed=seed)), self.shape)

    @torch.no_grad()
    def sample(self, count: int = 1, *, mean: bool = False, seed: int | None = None) -> np.ndarray:
        """Return images drawn from the model, its top level first; with `mean`, the mean of p(x | z) of each draw.

        A `seed` gives the same images again.

        >>> import pipeline as cave
        >>> model = cave.fit("digits", epochs=1, progress=False)
        >>> bool((model.sample(64, seed=1) == model.sample(64, seed=1)).all())
        True
        """
        _check_count(count, "count")
        chosen = torch.randint(2**31, ()).item() if seed is None else seed
        with seeded(int(chosen), "sample"):
            nodes = self.module.sample(count)
        images: np.ndarray = self._images(self.module.decode(nodes[1:]) if mean else nodes[0])
        return images

    def elbo(self, x: Any, draws: int = 100, *, seed: int = 0) -> Any:
        """Return the evidence lower bound of each image in nats, the mean over draws.

        >>> import pipeline as cave
        >>> model = cave.fit("digits", epochs=1, progress=False)
        >>> x = model.sample(4)
        >>> bool((model.log_prob(x, draws=50) >= model.elbo(x, draws=50)).all())
        True
        """
        return self._bound(x, draws, seed, "elbo")

    def log_prob(self, x: Any, draws: int = 500, *, seed: int = 0) -> Any:
        """Return an estimate of log p(x) of each image in nats: the importance-weighted bound L_k, k the draws.

        In the mean it lies below log p(x), and comes closer with more draws. `elbo` has an example.
        """
        return self._bound(x, draws, seed, "iwae")

    def save(self, folder: str | Path) -> None:
        """Write the model into a folder, which `cave.load` reads: `model.safetensors`, `model.json`, `curves.csv`.

        >>> import tempfile
        >>> import pipeline as cave
        >>> model = cave.fit("digits", epochs=1, progress=False)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     model.save(folder)
        ...     cave.load(folder).shape
        (1, 8, 8)
        """
        if self.splits is None:
            raise InputError(
                "save: this model was loaded; allowed: a copy of the folder that it was loaded from, or the files of"
                " its run by mlflow.artifacts.download_artifacts"
            )
        save_model(Path(folder), self.module, self.params, self.splits)
        write_csv(Path(folder) / "curves.csv", [record.row for record in self.records])

    def rows(self, x: Any, seed: int = 0) -> Tensor:
        """Return images as the model sees them: rows [n, units], on its device.

        Raises:
            InputError: they have another shape or type, or lie outside of 0 to 1.
        """
        rows = torch.as_tensor(as_rows(x, self.shape), dtype=self._weight.dtype)
        if (levels := self.dequantized_levels) is not None:
            with seeded(seed, "dequantization"):
                rows = ((rows * (levels - 1)).round() + torch.rand_like(rows)) / levels
        if self.params.likelihood == "discretized_logistic":  # its pixels are grey levels
            rows = (rows * (self.params.grey_levels - 1)).round() / (self.params.grey_levels - 1)
        if self.params.likelihood == "bernoulli" and not bool(((rows == 0) | (rows == 1)).all()):
            with seeded(seed, "binarization"):
                rows = torch.bernoulli(rows)
        return rows.to(self._weight.device)

    @torch.no_grad()
    def _bound(self, x: Any, draws: int, seed: int, name: str) -> Any:
        _check_count(draws, "draws")
        if self.params.depth == "continuous":
            raise InputError("model: its chain has no end and is not drawn as a whole; allowed: cave.evaluate")
        rows = self.rows(x, seed)
        with seeded(seed, "bounds"):
            bounds: list[ELBO] = [many_draws(self.module, part, draws) for part in rows.split(BATCH)]
        return self._like(torch.cat([getattr(bound, name) for bound in bounds]), x)

    @property
    def _weight(self) -> Tensor:
        return next(self.module.parameters())

    def _levels(self, z: Any, what: str, counts: Sequence[int]) -> list[Tensor]:
        """Return one tensor [n, units] a level, of so many levels as are allowed."""
        if not hasattr(z, "ndim") and not isinstance(z, list | tuple):
            raise InputError(f"{what}: {z!r} given; allowed: a list of one array [n, units] a level")
        levels = [z] if hasattr(z, "ndim") and z.ndim == 2 else list(z)
        shapes = [list(np.shape(level)) for level in levels]
        allowed = [[shapes[0][0] if shapes and shapes[0] else "n", width] for width in self.widths]
        if len(levels) not in counts or shapes != allowed[: len(levels)]:
            forms = ", ".join(f"[n, {width}]" for width in self.widths)
            raise InputError(f"{what}: shapes {shapes} given; allowed: a list of {forms}")
        return [torch.as_tensor(level).to(self._weight) for level in levels]

    def _images(self, rows: Tensor, like: Any = None) -> Any:
        channels, *size = self.shape
        images = rows.reshape(len(rows), *([channels] if channels > 1 else []), *size)
        return self._like(images, like[0] if isinstance(like, list | tuple) else like)

    def _like(self, values: Tensor, like: Any) -> Any:
        """Return values as a tensor on the device of `like` where that is one, else as an array."""
        return values.to(like.device) if isinstance(like, Tensor) else values.cpu().numpy()


def _check_count(value: Any, what: str) -> None:
    """Raise `InputError` unless a value is a whole number from 1."""
    if not isinstance(value, int | np.integer) or value < 1:
        raise InputError(f"{what}: {value!r} given; allowed: a whole number from 1")
