from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.evaluation.latents import latents
from pipeline.evaluation.pictures import compute_pictures
from pipeline.models import build
from pipeline.objectives import elbo
from tests.small import model_params, splits

pytestmark = pytest.mark.usefixtures("float64")

DATA = splits()
TEST = torch.tensor(DATA.test)
MODELS = {
    "mhvae": {"depth": 3},
    "hvae": {"parents": "every"},
    "ladder": {"inference": "top_down"},
    "vamp": {"prior": "vamp"},
    "one": {"depth": 1, "z_dim": 1},
}


def make(name: str):
    torch.manual_seed(0)
    built = build(model_params(**MODELS[name]), torch.tensor(DATA.mean).double()).eval()
    with torch.no_grad():  # an untrained model ignores its latents
        for weights in built.parameters():
            weights += 0.3 * torch.randn_like(weights)
    return built


@pytest.mark.parametrize("name", MODELS)
def test_the_nats_of_units_sum_to_the_rate_of_their_level(name):
    """With the same draws they are equal; the top level under a mixture has information instead, which is positive."""
    built, x = make(name), TEST.double() / 255
    torch.manual_seed(1)
    inside = latents(built, x)
    torch.manual_seed(1)
    with torch.no_grad():
        rates = elbo(built, x, 20).rate.mean((1, 2))
    for level, (nats, rate) in enumerate(zip(inside.nats, rates, strict=True)):
        if name == "vamp" and level == built.depth - 1:
            assert (nats >= 0).all()
        else:
            torch.testing.assert_close(nats.sum(), rate)


@pytest.mark.parametrize("name", MODELS)
def test_pictures_of_a_model(name):
    """A path ends at the means of its test images, a unit's path crosses those of others in the middle, and so on."""
    built, nll = make(name), torch.arange(len(TEST)).flip(0).double()
    arrays = compute_pictures(built, DATA, TEST, nll, columns=4, seed=0)
    middle = arrays["traversals/z1"][:, 4]
    assert (middle == middle[:1]).all()
    x = TEST[:6].double() / 255
    noise = [torch.zeros(1, 6, len(arrays[f"nats/z{t}"])) for t in range(1, built.depth + 1)]
    with torch.no_grad():
        mean = built.joint(built.posterior(x, noise=noise)[0])[0].mean[0]
    ends = arrays["interpolations"][0][:, [0, -1]].reshape(6, 16)
    np.testing.assert_allclose(ends, 255 * mean.clamp(0, 1), atol=0.51)
    assert (np.diff(arrays["best/nll"]) > 0).all()
    assert (np.diff(arrays["worst/nll"]) < 0).all()
    assert (arrays["worst"][0].ravel() == DATA.test[0]).all()
    train = DATA.train.astype(float)
    for sample, nearest in zip(arrays["samples"], arrays["nearest"], strict=True):
        distances = ((train - sample.ravel()) ** 2).sum(1)
        assert ((nearest.ravel() - sample.ravel().astype(float)) ** 2).sum() <= 1.05 * distances.min() + 64
    assert arrays["map"].shape == (len(TEST), 2)
    assert arrays["map/share"].sum() <= 1 + 1e-9
    assert all(array.dtype.kind in "uifb" for array in arrays.values())
