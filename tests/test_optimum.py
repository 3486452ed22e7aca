"""Linear models trained by stochastic gradients reach the closed-form maximum of the likelihood.

Of all x ~ N(c, W W' + sigma^2 I) with W of K columns, the likelihood of data with covariance S (mean over examples,
eigenvalues l_1 >= ... >= l_D) is greatest at

    c = mean,    W W' + sigma^2 I = U diag(max(l_1, sigma^2), ..., max(l_K, sigma^2), sigma^2, ..., sigma^2) U',

sigma^2 = mean of l_K+1..D where it is learned. Tipping, Bishop, "Probabilistic Principal Component Analysis" (1999),
https://doi.org/10.1111/1467-9868.00196; for the bound of linear VAEs see Lucas et al., "Don't Blame the ELBO!" (2019),
https://arxiv.org/abs/1911.02469

A linear MHVAE x = W z_1 + c + sigma e, z_t = A_t z_t+1 + b_t + diag(s_t) e, z_T ~ N(0, I) has p(z_1) = N(m, V), V of
full rank, hence p(x) = N(W m + c, W V W' + sigma^2 I): the same family, K being the width of z_1, whatever is above.
So no bound of it exceeds that maximum. A diagonal q attains it: with W of orthogonal columns and A_t diagonal, V and
the precisions of p(z_1|x), V^-1 + W'W / sigma^2, and of p(z_t|z_t-1) are diagonal, and the means are linear.
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import kl_divergence

from pipeline.data import Splits
from pipeline.distributions import StandardNormal
from pipeline.models import HierarchicalVAE, build
from pipeline.objectives import elbo
from pipeline.training import fit
from tests.linear_gaussian import Diagonal, exact, inferred
from tests.small import model_params, train_params

pytestmark = pytest.mark.usefixtures("float64")

COUNT, COPIES, SCALE = 60, 20, 50
WIDTHS = {1: (5, 2), 2: (5, 2, 2), 3: (5, 2, 2, 1)}


def pixels() -> np.ndarray:
    """Return correlated data of five dimensions, as stored pixels."""
    random = np.random.default_rng(3)
    loadings = np.linalg.qr(random.normal(size=(5, 2)))[0] * [1.4, 0.8]
    x = 2.5 + random.normal(size=(COUNT, 2)) @ loadings.T + 0.3 * random.normal(size=(COUNT, 5))
    return np.clip(np.rint(SCALE * x), 0, 255).astype(np.uint8)


def splits(data: np.ndarray) -> Splits:
    """Return the data, twenty times over for training so that an epoch is as many updates, and once to validate on."""
    return Splits(
        name="digits",
        protocol="stratified",
        binarization="none",
        train=np.tile(data, (COPIES, 1)),
        valid=data,
        test=data,
        labels={},
        factors={},
        factor_names=(),
        shape=(1, 1, 5),
        scale=SCALE,
        binary=False,
        digest="0" * 12,
    )


def maximum(x: Tensor, k: int, sigma: float | None = None) -> float:
    """Return the greatest mean log p(x) of the family, sigma given or learned, in nats."""
    eigenvalues = torch.linalg.eigvalsh(x.mT.cov(correction=0)).flip(0)
    variance = eigenvalues[k:].mean() if sigma is None else torch.tensor(sigma**2)
    saved = torch.cat([eigenvalues[:k].clamp(min=variance), variance.expand(len(eigenvalues) - k)])
    return (-0.5 * (2 * math.pi * saved).log() - 0.5 * eigenvalues / saved).sum().item()


def mhvae(widths: tuple[int, ...]) -> HierarchicalVAE:
    """Return an untrained linear MHVAE of one sigma for x and diagonal ones for every level."""

    def rung(outputs: int, inputs: int, sigmas: int) -> Diagonal:
        return Diagonal(0.3 * torch.randn(outputs, inputs), torch.zeros(outputs), 0.7 * torch.ones(sigmas))

    generative = [rung(below, this, 1 if t == 0 else below) for t, (below, this) in enumerate(pairwise(widths))]
    inference = [rung(this, below, this) for below, this in pairwise(widths)]
    return HierarchicalVAE([*generative, StandardNormal(widths[-1])], inference, "nearest")


TRAIN = {
    "objective": "stl",
    "draws": 16,
    "epochs": 60,
    "batch_size": COUNT,
    "learning_rate": 0.1,
    "schedule": "cosine",
    "adam_beta2": 0.99,
    "valid_draws": 50,
    "clip": None,
}


@pytest.mark.slow
@pytest.mark.parametrize("depth", [1, pytest.param(2, marks=pytest.mark.nightly), 3])
def test_a_linear_mhvae_reaches_the_maximum_likelihood(depth: int) -> None:
    """Trained by Adam, its exact bound is at most 1e-3 nats below the closed-form maximum, and not above it.

    So is log p(x), between the two; the mean of sampled log-weights is the exact bound within 4 standard errors.
    """
    data = pixels()
    x = torch.tensor(data) / float(SCALE)
    model = mhvae(WIDTHS[depth])
    start = elbo(model, x, 200).elbo.mean().item()
    list(fit(model, splits(data), train_params(**TRAIN), seed=0))
    with torch.no_grad():
        trained = exact(model.generative, WIDTHS[depth], "nearest")
        log_p = trained.log_p(x)
        bound = log_p - kl_divergence(inferred(model, x), trained.posterior(x))
        best = maximum(x, WIDTHS[depth][1])
        assert start < best - 1
        assert best - 1e-3 < bound.mean() <= log_p.mean() <= best + 1e-12
        log_weight = elbo(model, x, 2000).log_weight
        error = (log_weight.var(0) / 2000).sum().sqrt() / COUNT
        assert abs(log_weight.mean() - bound.mean()) < 4 * error + 1e-9


@pytest.mark.slow
def test_the_linear_vae_of_the_package_reaches_the_maximum_likelihood() -> None:
    """`build` without hidden layers, sigma given, is trained to at most 1e-3 nats below the maximum for that sigma."""
    data, sigma = pixels(), 0.4
    x = torch.tensor(data) / float(SCALE)
    params = model_params(depth=1, widths=(2,), hidden=((),), likelihood="gaussian", sigma=sigma)
    model = build(params, x.mean(0))
    list(fit(model, splits(data), train_params(**TRAIN | {"epochs": 100}), seed=0))
    with torch.no_grad():
        log_weight = elbo(model, x, 4000).log_weight
    error = ((log_weight.var(0) / 4000).sum().sqrt() / COUNT).item()
    best = maximum(x, 2, sigma)
    assert error < 1e-3
    assert best - 1e-3 < log_weight.mean() < best + 4 * error
    (rung,) = model.generative[:-1]
    weight, offset = rung.network[-1].weight, rung.network[-1].bias
    covariance = weight @ weight.mT + sigma**2 * torch.eye(5)
    log_p = torch.distributions.MultivariateNormal(offset, covariance).log_prob(x).mean()
    assert best - 1e-3 < log_p <= best + 1e-12
