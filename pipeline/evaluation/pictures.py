"""What a model's figures are drawn of, computed where the model is, as small arrays: the report needs no model.

A diffusion's samples are drawn with 50 levels at most; the rest is of a chain of 6 levels with its decoder.

Images are uint8 [.., c, h, w], c channels, 255 for 1. T is the model's depth, `columns` the images of a row.

    samples, nearest [n, c, h, w]: means of p(x | z_1) of draws from the prior; the training images nearest to them
    images, reconstructions [columns, c, h, w]: test images, and the means of p(x | z_1) at draws of q(z_1 | x)
    base [rows, c, h, w], redrawn [T, rows, columns, c, h, w]: draws; the same, one level's noise drawn again
    traversals/z1, .. [units, steps, c, h, w], with /units: one unit's noise from -2.5 to 2.5, all other noise being 0
    interpolated [pairs, 2, c, h, w]: two test images each
    interpolations [T, pairs, steps, c, h, w]: from one of them to the other in z_t and the levels above
    best, worst [columns, c, h, w], with /nll: the test images with the highest and the lowest estimates of log p(x)
    nats/z1, .. [units]: of each unit (`latents`), the `MOST_UNITS` largest in falling order
    map [images, 2]: the means of the top level along their first two principal axes
    ink [1]: whether figures show 1 as black
    map/share [2], map/labels [images]: of the variance on each axis; the images' labels, where there are any
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import avg_pool2d

from pipeline.data import DATASETS, Splits
from pipeline.data.images import to_unit_interval
from pipeline.evaluation.latents import MOST_IMAGES, Latents, latents
from pipeline.models import HierarchicalVAE
from pipeline.models.noise_chains import chains_to_draw
from pipeline.randomness import seeded

__all__ = ["compute_pictures"]

Arrays = dict[str, np.ndarray]
ROWS = 4  # of the figure of the levels
UNITS = 6  # of a level that are traversed
STEPS = 9
REACH = 2.5  # standard deviations
PAIRS = 3
MOST_UNITS = 200
MOST_PIXELS = 32  # of a side
BATCH, NUMBERS = 10_000, 2**27  # training images that are compared at a time, and the most of their pixels


@torch.no_grad()
def compute_pictures(
    model: HierarchicalVAE, splits: Splits, test: Tensor, nll: Float[Tensor, " images"], *, columns: int, seed: int
) -> Arrays:
    """Return the arrays of a model.

    Args:
        model: the model, on the device of the test images.
        splits: the data set.
        test: the stored pixels [images, units] of its test set.
        nll: of these images, by which the best and the worst are chosen.
        columns: images of a row.
        seed: of the random numbers.
    """
    whole, model = chains_to_draw(model)
    with seeded(seed, "figures"):
        arrays = _drawn(model, whole, splits, test, columns)
    with seeded(seed, "latents of figures"):
        x = to_unit_interval(test[:MOST_IMAGES], splits.scale)
        inside = latents(model, x)
    arrays |= _traversals(model, splits, inside) | _interpolations(model, splits, x) | _map(splits, inside)
    order = nll.argsort().cpu()
    for name, chosen in (("best", order[:columns]), ("worst", order.flip(0)[:columns])):
        arrays[name] = _stored(to_unit_interval(test[chosen.to(test.device)], splits.scale), splits)
        arrays[f"{name}/nll"] = nll.cpu()[chosen].double().numpy()
    arrays["ink"] = np.array([DATASETS[splits.name].dark_on_light])
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}


def _stored(x: Float[Tensor, "*batch units"], splits: Splits) -> np.ndarray:
    """Return images as they are stored; what is wider than `MOST_PIXELS` is averaged over squares."""
    grid = x.unflatten(-1, splits.shape).clamp(0, 1)
    factor = -(-max(splits.shape[1:]) // MOST_PIXELS)
    if factor > 1:
        flat = grid.flatten(0, -4).float()
        grid = avg_pool2d(flat, factor, ceil_mode=True).unflatten(0, grid.shape[:-3])
    pixels: np.ndarray = (255 * grid).round().byte().cpu().numpy()
    return pixels


def _drawn(model: HierarchicalVAE, whole: HierarchicalVAE, splits: Splits, test: Tensor, columns: int) -> Arrays:
    """Return samples of the `whole` model, reconstructions, and what each level decides."""
    x = to_unit_interval(test[:columns], splits.scale)
    z, q = model.posterior(x)
    mean = model.joint(z)[0].mean[0]
    widths = [factor.event_shape[0] for factor in q]

    def noise(count: int, levels: list[int]) -> list[Tensor]:
        return [torch.randn(count, width, device=test.device) for width in levels]

    drawn = widths if whole is model else [x.shape[1]] * whole.depth
    prior = whole.decode_noise(noise(columns * columns // 2, drawn))
    fixed = noise(ROWS, widths)
    base = model.decode_noise(fixed)
    redrawn = []
    for level, width in enumerate(widths):
        repeated = [eps.repeat_interleave(columns, 0) for eps in fixed]
        repeated[level] = torch.randn(ROWS * columns, width, device=test.device)
        redrawn.append(model.decode_noise(repeated).unflatten(0, (ROWS, columns)))
    nearest = _nearest(prior, splits)
    tensors = {
        "samples": prior,
        "nearest": nearest,
        "images": x,
        "reconstructions": mean,
        "base": base,
        "redrawn": torch.stack(redrawn),
    }
    return {name: _stored(value, splits) for name, value in tensors.items()}


def _nearest(samples: Tensor, splits: Splits) -> Tensor:
    """Return for each sample the training image, in grey levels, at the least Euclidean distance."""
    train = torch.as_tensor(splits.train)
    own = samples.float().cpu()
    step = max(1, min(BATCH, NUMBERS // train.shape[1]))
    distances = [torch.cdist(own, part.float() / splits.scale) for part in train.split(step)]
    return train[torch.cat(distances, dim=1).argmin(1)].float() / splits.scale


def _traversals(model: HierarchicalVAE, splits: Splits, inside: Latents) -> Arrays:
    """Move the units with the most nats, one at a time, in coordinates in which the prior is N(0, I)."""
    arrays: Arrays = {}
    for level, nats in enumerate(inside.nats, start=1):
        units = nats.argsort(descending=True)[:UNITS]
        noise = [torch.zeros(len(units) * STEPS, len(n), device=inside.top.device) for n in inside.nats]
        line = torch.linspace(-REACH, REACH, STEPS, device=inside.top.device)
        noise[level - 1][torch.arange(len(units) * STEPS), units.repeat_interleave(STEPS)] = line.repeat(len(units))
        images = model.decode_noise(noise).unflatten(0, (len(units), STEPS))
        arrays[f"traversals/z{level}"] = _stored(images, splits)
        arrays[f"traversals/z{level}/units"] = units.cpu().numpy()
        arrays[f"nats/z{level}"] = nats.sort(descending=True).values[:MOST_UNITS].cpu().numpy()
    return arrays


def _interpolations(model: HierarchicalVAE, splits: Splits, x: Tensor) -> Arrays:
    """Lead z_t and the levels above it from one image's posterior to another's; lower levels follow as means of p."""
    count = min(PAIRS, len(x) // 2)
    pairs = x[: 2 * count]
    widths = [factor.event_shape[0] for factor in model.posterior(pairs[:1])[1]]
    nodes, _ = model.posterior(pairs, noise=[torch.zeros(1, len(pairs), width, device=x.device) for width in widths])
    step = torch.linspace(0, 1, STEPS, device=x.device)[:, None]
    paths = [torch.lerp(node[0, ::2, None], node[0, 1::2, None], step).flatten(0, 1)[None] for node in nodes]
    images = []
    for level in range(1, model.depth + 1):
        path = list(paths)
        for below in range(level - 1, -1, -1):
            path[below] = model.joint(path)[below].mean  # of which only the levels above are used
        images.append(_stored(path[0][0].unflatten(0, (count, STEPS)), splits))
    return {"interpolated": _stored(pairs.unflatten(0, (count, 2)), splits), "interpolations": np.stack(images)}


def _map(splits: Splits, inside: Latents) -> Arrays:
    centred = (inside.top - inside.top.mean(0)).double().cpu()
    if centred.shape[1] == 1:
        centred = torch.cat([centred, torch.zeros_like(centred)], dim=1)
    vectors, values, _ = torch.linalg.svd(centred, full_matrices=False)
    arrays = {
        "map": (vectors * values)[:, :2].float().numpy(),
        "map/share": (values**2 / (values**2).sum())[:2].numpy(),
    }
    if "test" in splits.labels:
        arrays["map/labels"] = splits.labels["test"][: len(centred)].astype(np.int64)
    return arrays
