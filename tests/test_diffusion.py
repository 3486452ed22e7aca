"""The diffusion as a hierarchy: its q, the three forms of p, the estimate from drawn levels, training and limits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations, pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import kl_divergence

from pipeline.distributions import (
    BernoulliVector,
    Conditional,
    DiagGaussian,
    Family,
    StandardNormal,
    ValueMixture,
    ValueVector,
)
from pipeline.errors import InputError
from pipeline.files import read_csv, read_json
from pipeline.models import HierarchicalVAE, at_levels, build, log_linear_levels, noised
from pipeline.models.checkpoint import load, save_model
from pipeline.models.denoiser import Decoder, signal
from pipeline.models.diffusion import Diffusion
from pipeline.models.grid import best_path, optimal_levels
from pipeline.models.noise_chains import chain_of
from pipeline.models.noising import (
    denoising_kl,
    evidence,
    kl_mixture,
    kl_mixture_binary,
    prior_kl,
    rate_density,
)
from pipeline.objectives import elbo, top_down_kl
from pipeline.params import Params
from pipeline.stages import fetch, prepare, train
from pipeline.sweep import Sweep, run
from pipeline.training import fit
from pipeline.training.sampled import draw_terms, sampled_elbo, term_values
from tests.small import ROOT, model_params, splits, train_params
from tests.workshop import make_study

GREY = {"likelihood": "discretized_logistic", "grey_levels": 17}
LIKELIHOODS: dict[str, dict[str, Any]] = {"binary": {}, "grey": GREY, "three components": GREY | {"components": 3}}


def diffusion(seed: int = 0, units: int = 6, **changes: Any) -> HierarchicalVAE:
    """Build a small diffusion in double precision, away from its start."""
    torch.manual_seed(seed)
    params = model_params(inference="diffusion", **{"depth": 4, "log_snr": (2.0, -4.0)} | changes)
    model = build(params, torch.full((units,), 0.4)).double().eval()
    with torch.no_grad():
        for weights in model.parameters():
            weights += 0.3 * torch.randn_like(weights)
    return model


def images(model: HierarchicalVAE, count: int = 5, units: int = 6) -> Tensor:
    values = model.diffusion.decoder.values
    return torch.randint(0, 2, (count, units)).double() if values is None else values[torch.randint(17, (count, units))]


def bottom_up(model: HierarchicalVAE, nodes: list[Tensor]) -> list[DiagGaussian]:
    """Return the factors of (20), q(z_t | z_t-1), at the nodes."""
    levels = model.diffusion.log_snr
    factors = [evidence(nodes[0], levels[0])]
    for t, (lower, upper) in enumerate(pairwise(levels), start=1):
        a = signal(upper)[0] / signal(lower)[0]
        s = (signal(upper)[1] ** 2 - a**2 * signal(lower)[1] ** 2).sqrt()
        factors.append(DiagGaussian(a * nodes[t], s.expand(nodes[t].shape[-1])))
    return factors


# --- q, and the three forms of p


@pytest.mark.parametrize("likelihood", LIKELIHOODS.values(), ids=list(LIKELIHOODS))
def test_q_is_one_chain_upwards_and_downwards(likelihood: dict[str, Any]) -> None:
    """The log-density of each draw is the same by q(z_t | z_t-1) and by q(z_t | z_t+1, x)."""
    model = diffusion(**likelihood)
    x = images(model)
    nodes, q = model.posterior(x, 7)
    downwards = sum(factor.log_prob(z) for factor, z in zip(q, nodes[1:], strict=True))
    upwards = sum(factor.log_prob(z) for factor, z in zip(bottom_up(model, nodes), nodes[1:], strict=True))
    torch.testing.assert_close(upwards, downwards, rtol=1e-12, atol=1e-12)


def test_rates_drawn_up_and_down_differ_by_information_and_have_the_same_sum() -> None:
    """By level the difference is I(z_t; z_t-1 | x) - I(z_t; z_t+1 | x), of neighbours in q's chain, in closed form."""
    model = diffusion(depth=5)
    nodes, q = model.posterior(images(model), 3)
    up = torch.stack([p.entropy().mean() for p in bottom_up(model, nodes)])
    down = torch.stack([p.entropy().mean() for p in q])
    levels, zero = model.diffusion.log_snr, torch.zeros(1).double()
    shared = torch.cat([zero, -3 * torch.log(-torch.expm1(levels.diff())), zero])  # nats of 6 pixels
    torch.testing.assert_close(down - up, shared[:-1] - shared[1:])
    torch.testing.assert_close(up.sum(), down.sum())


@pytest.mark.parametrize("denoising", ["fixed", "matched", "mixture"])
@pytest.mark.parametrize("likelihood", LIKELIHOODS.values(), ids=list(LIKELIHOODS))
def test_the_divergence_of_a_level_has_a_closed_form(denoising: str, likelihood: dict[str, Any]) -> None:
    """`denoising_kl`, from SNR and p(x | z_t+1) alone, is what `top_down_kl` has from the distributions."""
    model = diffusion(denoising=denoising, **likelihood)
    x = images(model)
    torch.manual_seed(1)
    nodes, _ = model.posterior(x, 3)
    torch.manual_seed(1)
    by_level = top_down_kl(model, x, 3)
    snr = model.diffusion.log_snr.exp()
    for t in range(1, model.depth):
        p = model.diffusion.decoder.likelihood(nodes[t + 1], model.diffusion.log_snr[t])
        own = denoising_kl(denoising, snr[t - 1] - snr[t], p, x)
        torch.testing.assert_close(own.sum(-1), by_level[t - 1], rtol=1e-10, atol=1e-10)
        if denoising == "fixed":
            off = 2 * (x - p.mean)
            torch.testing.assert_close(own, 0.5 * (snr[t - 1] - snr[t]) * off**2, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(
        by_level[-1], prior_kl(x, model.diffusion.log_snr[-1]).expand(3, -1), rtol=1e-10, atol=1e-10
    )
    assert (by_level >= 0).all()


def test_the_mixture_of_two_values_is_that_of_many() -> None:
    """The closed form of binary pixels is `kl_mixture` of two values, and a fine integral."""
    logits = torch.tensor([-3.0, -0.2, 0.5, 4.0]).double()
    x, delta = torch.tensor([0.0, 1.0, 1.0, 0.0]).double(), torch.tensor([0.7]).double()
    binary = kl_mixture_binary(delta, (2 * x - 1) * logits)
    log_shares = torch.log_softmax(torch.stack([torch.zeros_like(logits), logits]), 0)
    values = torch.tensor([-1.0, 1.0]).double()
    torch.testing.assert_close(binary, kl_mixture(delta, log_shares, values, 2 * x - 1))
    z = torch.linspace(-12, 12, 20001).double()[:, None]
    q = torch.exp(-0.5 * (z - delta.sqrt() * (2 * x - 1)) ** 2) / math.sqrt(2 * math.pi)
    by_value = [torch.exp(-0.5 * (z - delta.sqrt() * y) ** 2) / math.sqrt(2 * math.pi) for y in values]
    p = sum(share * density for share, density in zip(log_shares.exp(), by_value, strict=True))
    integral = (q * (q / p).log()).nan_to_num().sum(0) * (z[1] - z[0])
    torch.testing.assert_close(binary, integral, rtol=5e-4, atol=0)


@pytest.mark.parametrize("denoising", ["fixed", "matched", "mixture"])
@pytest.mark.parametrize("likelihood", [{}, GREY], ids=["binary", "grey"])
def test_close_levels_cost_what_a_chain_without_end_costs(denoising: str, likelihood: dict[str, Any]) -> None:
    """KL / (difference of log SNR) tends to `rate_density`, whatever the form."""
    model = diffusion(**likelihood)
    x, level = images(model), torch.tensor(-1.0).double()
    p = model.diffusion.decoder.likelihood(noised(x, level), level)
    step = 1e-5
    kl = denoising_kl(denoising, (level + step).exp() - level.exp(), p, x) / step
    torch.testing.assert_close(kl, rate_density(level, p, x), rtol=1e-4, atol=1e-6)


def test_independent_pixels_are_modelled_exactly() -> None:
    """Where the decoder knows the pixels' shares, every log-weight of the form mixture is log p(x)."""
    mean = torch.tensor([0.1, 0.5, 0.8])
    params = model_params(inference="diffusion", depth=6, log_snr=(3.0, -3.0))
    model = build(params, mean).double()
    model.generative[-1] = Marginal(model.diffusion, mean.double())
    x = torch.tensor(list(product([0.0, 1.0], repeat=3))).double()
    expected = BernoulliVector(torch.logit(mean.double())).log_prob(x)
    torch.testing.assert_close(elbo(model, x, 4).log_weight, expected.expand(4, -1), rtol=1e-6, atol=1e-6)


class Marginal(nn.Module):
    """q(z_T) over independent pixels in the place of N(0, I)."""

    def __init__(self, chain: Diffusion, mean: Tensor) -> None:
        super().__init__()
        alpha, sigma = signal(chain.log_snr[-1])
        logits = torch.stack([torch.zeros_like(mean), torch.logit(mean)])
        self.p = ValueMixture(logits, alpha * torch.tensor([[-1.0], [1.0]]).double().expand(2, len(mean)), sigma)

    def forward(self) -> ValueMixture:
        return self.p


def test_one_level_is_a_vae() -> None:
    """At T = 1 the bound is, draw by draw, that of a VAE with q(z | x) = N(alpha y, sigma^2) and the same decoder."""
    model = diffusion(depth=1)
    level, x = model.diffusion.log_snr[0], images(model)
    assert level == pytest.approx(-1.0)
    likelihood = Conditional(AtLevel(model.diffusion.decoder, level), Family(1, BernoulliVector, torch.logit))
    prior = StandardNormal(6).double()
    vae = HierarchicalVAE([likelihood, prior], [Noise(level)], "nearest", "bottom_up")
    bounds = []
    for each in (model, vae):
        torch.manual_seed(2)
        bounds.append(elbo(each, x, 4))
    torch.testing.assert_close(bounds[0].log_weight, bounds[1].log_weight)
    torch.testing.assert_close(bounds[0].rate, bounds[1].rate)


class AtLevel(nn.Module):
    def __init__(self, decoder: Decoder, level: Tensor) -> None:
        super().__init__()
        self.decoder, self.level = decoder, level

    def forward(self, z: Tensor) -> Tensor:
        logits: Tensor = self.decoder(z, self.level)
        return logits


class Noise(nn.Module):
    def __init__(self, level: Tensor) -> None:
        super().__init__()
        self.level = level

    def forward(self, x: Tensor) -> DiagGaussian:
        return evidence(x, self.level)


# --- With the exact decoder


class Exact(Decoder):
    """P(x | z) pixel by pixel of images of given probabilities: the best decoder there is."""

    def __init__(self, x: Tensor, probability: Tensor) -> None:
        super().__init__(nn.Identity(), Family(1, BernoulliVector, torch.logit), torch.zeros(x.shape[1]), None)
        self.x, self.probability = x, probability

    def forward(self, z: Tensor, log_snr: Tensor) -> Tensor:
        alpha, sigma = signal(log_snr)
        off = (z[..., None, :] - alpha * (2 * self.x - 1)) / sigma
        weight = torch.log_softmax(self.probability.log() - 0.5 * (off**2).sum(-1), -1)
        white = torch.logsumexp(weight[..., None] + self.x.log(), -2)
        black = torch.logsumexp(weight[..., None] + (1 - self.x).log(), -2)
        return white - black


@pytest.mark.parametrize("denoising", ["fixed", "matched", "mixture"])
def test_more_levels_come_closer_to_the_entropy(denoising: str) -> None:
    """With the exact decoder of four images -E elbo, a sum of integrals, falls with every finer grid to the entropy."""
    x = torch.tensor(list(product([0.0, 1.0], repeat=2))).double()
    probability = torch.tensor([0.45, 0.1, 0.05, 0.4]).double()
    exact, entropy = Exact(x, probability), -(probability * probability.log()).sum().item()
    at, weights = np.polynomial.hermite_e.hermegauss(40)
    noise = torch.tensor(list(product(at, repeat=2)))[:, None]
    volume = torch.tensor([a * b for a, b in product(weights, repeat=2)])[:, None] / weights.sum() ** 2
    bounds = []
    for count in (2, 3, 5, 9, 17, 33, 65, 129):
        chain = Diffusion(exact, torch.tensor([5.0, -7.0]).double(), torch.linspace(0, 1, count).double(), denoising)
        levels = chain.log_snr
        cost = -exact.likelihood(noised(x, levels[0], noise.expand(-1, 4, -1)), levels[0]).log_prob(x)
        for lower, upper in pairwise(levels):
            p = exact.likelihood(noised(x, upper, noise.expand(-1, 4, -1)), upper)
            cost = cost + denoising_kl(denoising, lower.exp() - upper.exp(), p, x).sum(-1)
        bounds.append(((cost * volume).sum(0) * probability).sum().item() + prior_kl(x, levels[-1])[0].item())
    assert all(finer < coarser for coarser, finer in pairwise(bounds))
    assert entropy < bounds[-1] < entropy + {"fixed": 0.13, "matched": 0.03, "mixture": 0.01}[denoising]


# --- The estimate from drawn levels


@pytest.mark.parametrize("depth", [1, 2, 9, 70, 150])
def test_every_term_of_a_chain_counts_once(depth: int) -> None:
    """Over a fine grid of uniform numbers the weights of each of the T terms have the mean 1."""
    chain = diffusion(depth=depth).diffusion
    chain.cost.copy_(torch.rand_like(chain.cost) + 0.1)
    fine = 400_000
    drawn = draw_terms(chain, (torch.arange(fine).double() + 0.5) / fine)
    levels = (drawn.log_snr[:, None] == chain.log_snr).double()
    torch.testing.assert_close(drawn.weight @ levels / fine, torch.ones(depth).double(), rtol=2e-3, atol=2e-3)
    assert torch.equal(drawn.first, drawn.log_snr == chain.log_snr[0])


def test_without_end_the_weights_integrate_over_log_snr() -> None:
    """Over a fine grid the first term counts once, and a function of log SNR is integrated between the ends."""
    chain = diffusion(depth="continuous").diffusion
    chain.cost.copy_(torch.rand_like(chain.cost) + 0.1)
    fine = 400_000
    drawn = draw_terms(chain, (torch.arange(fine).double() + 0.5) / fine)
    assert (drawn.weight[drawn.first].sum() / fine).item() == pytest.approx(1, rel=1e-3)
    later = ~drawn.first
    for power, integral in ((0, 6), (1, (2**2 - 4**2) / 2), (2, (2**3 + 4**3) / 3)):
        mean = (drawn.weight * drawn.log_snr**power)[later].sum() / fine
        assert mean.item() == pytest.approx(integral, rel=1e-3)


@pytest.mark.parametrize("denoising", ["fixed", "matched", "mixture"])
@pytest.mark.parametrize("likelihood", [{}, GREY], ids=["binary", "grey"])
def test_the_terms_are_those_of_the_bound(denoising: str, likelihood: dict[str, Any]) -> None:
    """Each term at a draw is the divergence of its level given that draw, and the first the reconstruction."""
    model = diffusion(denoising=denoising, **likelihood)
    chain, x = model.diffusion, images(model)
    for term, level in enumerate(chain.log_snr):
        drawn = draw_terms(chain, torch.full((len(x),), (term + 0.5) / model.depth).double())
        assert torch.equal(drawn.log_snr, level.expand(len(x)))
        torch.manual_seed(3)
        value = term_values(chain, drawn, x)
        torch.manual_seed(3)
        z = noised(x, level.expand(len(x)))
        if term == 0:
            expected = -model.generative[0](z).log_prob(x)
        else:
            p = model.generative[term](z)
            message, own = chain.message(term, z), chain.evidence(term, x)
            variance = 1 / (1 / message.variance + 1 / own.variance)
            mean = variance * (message.mean / message.variance + own.mean / own.variance)
            expected = kl_divergence(DiagGaussian(mean, variance.sqrt()), p)
        torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-9)


def test_the_draws_of_a_batch_are_spread_evenly() -> None:
    """Of 40 draws of 4 terms with equal shares, each term has 10, in every batch."""
    model = diffusion()
    model.train()
    x = images(model, 40)
    sampled_elbo(model, x)
    assert model.diffusion.cost[1].sum() == 40
    assert set(model.diffusion.cost[1].tolist()) == {10.0}


def test_shares_follow_the_root_of_the_mean_square() -> None:
    """A bin whose terms are 3 times as large is drawn 3 times as often, but for what all bins have in common."""
    chain = diffusion(depth=2).diffusion
    assert chain.shares().tolist() == [0.5, 0.5]
    chain.cost.copy_(torch.tensor([[900.0, 100.0], [100.0, 100.0]]))
    root = torch.tensor([905.0, 105.0]).double().sqrt()
    torch.testing.assert_close(chain.shares(), 0.9 * root / root.sum() + 0.05)
    chain.learn(torch.tensor([1]), torch.tensor([7.0]).double())
    torch.testing.assert_close(chain.cost, torch.tensor([[900.0, 148.0], [100.0, 100.0]]).double())


# --- The model


def test_the_same_decoder_is_taken_at_other_levels() -> None:
    """`at_levels` copies no weights: another number of levels has the likelihood and the ends of the model."""
    model = diffusion()
    other = at_levels(model, log_linear_levels(9, 2.0, -4.0).double(), "fixed")
    assert other.diffusion.decoder is model.diffusion.decoder
    assert (other.depth, other.diffusion.denoising) == (9, "fixed")
    torch.testing.assert_close(other.diffusion.log_snr[[0, -1]], model.diffusion.log_snr[[0, -1]])
    z = torch.randn(3, 6).double()
    torch.testing.assert_close(other.generative[0](z).mean, model.generative[0](z).mean)
    with pytest.raises(ValueError, match="falling"):
        at_levels(model, torch.tensor([-1.0, 1.0]))


@pytest.mark.parametrize("denoising", ["fixed", "matched", "mixture"])
@pytest.mark.parametrize("likelihood", [{}, GREY], ids=["binary", "grey"])
def test_what_holds_for_a_chain_holds_for_it(denoising: str, likelihood: dict[str, Any]) -> None:
    """Samples, redrawn levels and non-centred noise have the shapes and values of any hierarchy."""
    model = diffusion(denoising=denoising, **likelihood)
    assert [node.shape for node in model.sample(3)] == [(3, 6)] * 5
    nodes, _ = model.posterior(images(model))
    assert torch.equal(model.redraw(nodes, 2)[3], nodes[3])
    noise = [torch.randn(3, 6).double() for _ in range(4)]
    z, p = model.decode_noncentered(noise)
    assert all(factor.log_prob(node).isfinite().all() for factor, node in zip(p[1:], z, strict=True))
    torch.testing.assert_close(model.decode_noise(noise), model.decode(z))
    whole = sum(q.log_prob(node) for q, node in zip(model.posterior_at(nodes), nodes[1:], strict=True))
    torch.testing.assert_close(
        whole, sum(f.log_prob(z) for f, z in zip(bottom_up(model, nodes), nodes[1:], strict=True))
    )


def test_noise_is_carried_to_a_mixture_exactly() -> None:
    """Over the quantiles of N(0, 1) the mixture's mean and variance come out."""
    p = ValueMixture(
        torch.tensor([[0.0], [1.0], [-1.0]]).double(),
        torch.tensor([[-2.0], [0.0], [3.0]]).double(),
        torch.tensor(0.7).double(),
    )
    uniform = (torch.arange(100_000).double() + 0.5) / 100_000
    z = p.at_noise(torch.special.ndtri(uniform)[:, None])
    torch.testing.assert_close(z.mean(0), p.mean, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(z.var(0), p.variance, rtol=1e-3, atol=1e-3)


def test_values_are_a_distribution_over_vectors() -> None:
    """Masses sum to 1 over the values; mean, variance and draws are theirs."""
    values = torch.arange(5).double() / 4
    p = ValueVector(torch.randn(5, 2).double(), values)
    x = torch.tensor(list(product(values.tolist(), repeat=2))).double()
    mass = p.log_prob(x).exp()[:, None]
    assert mass.sum().item() == pytest.approx(1)
    torch.testing.assert_close(p.mean, (mass * x).sum(0))
    torch.testing.assert_close(p.variance, (mass * (x - p.mean) ** 2).sum(0))
    assert p.expand((3, 1)).sample((2,)).shape == (2, 3, 1, 2)


def test_a_thousand_levels_share_one_list_of_weights(tmp_path: Path) -> None:
    """A saved model has the decoder once, whatever T, and loads to the same bound."""
    data = splits("static")
    params = model_params(inference="diffusion", depth=1000)
    model = build(params, torch.tensor(data.mean, dtype=torch.float32), data.shape)
    assert len(model.state_dict()) == len(build(params.model_copy(update={"depth": 1}), torch.zeros(16)).state_dict())
    save_model(tmp_path, model, params, data)
    loaded = load(tmp_path)
    assert loaded.depth == 1000
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in loaded.state_dict().items())


# --- Levels that are chosen


def test_the_best_path_is_that_of_all_paths() -> None:
    """Over nine candidates and up to four levels the programme finds the least cost of all chains."""
    torch.manual_seed(0)
    first, pairs, last = torch.rand(9).double(), torch.rand(9, 9).double(), torch.rand(9).double()
    pairs[torch.tril_indices(9, 9).unbind()] = torch.inf

    def cost(path: Sequence[int]) -> float:
        return (first[path[0]] + sum(pairs[i, j] for i, j in pairwise(path)) + last[path[-1]]).item()

    for count in (1, 2, 4):
        path = best_path(first, pairs, last, count)
        assert cost(path) == pytest.approx(min(map(cost, combinations(range(9), count))))


def test_optimal_levels_have_the_better_bound() -> None:
    """Of the exact decoder's chains of 1 to 4 levels the chosen ones have a higher elbo than equal steps."""
    x = torch.tensor(list(product([0.0, 1.0], repeat=2))).double()
    exact = Exact(x, torch.tensor([0.4, 0.1, 0.1, 0.4]).double())
    many = x[torch.multinomial(exact.probability, 2000, replacement=True)]
    for count in (1, 2, 4):
        even = log_linear_levels(count, 4.0, -8.0).double()
        ends = torch.tensor([4.0, -8.0]).double()
        model = chain_of(Diffusion(exact, ends, (4.0 - even) / 12, "matched"), 2).double()
        levels = optimal_levels(model, many, count)
        assert (levels.diff() < 0).all()
        bounds = [elbo(each, many, 20).elbo.mean() for each in (at_levels(model, levels), model)]
        assert bounds[0] > bounds[1]


# --- Training

TRAINED: dict[str, dict[str, Any]] = {
    "continuous": {"depth": "continuous"},
    "learned ends": {"depth": 5, "log_snr_ends": "learned", "denoising": "matched"},
    "one level, learned": {"depth": 1, "log_snr_ends": "learned"},
    "100 levels": {"depth": 100},
    "grey": {"depth": "continuous", "likelihood": "discretized_logistic"},
    "optimal levels": {"depth": 3, "log_snr_grid": "optimal"},
    "unet": {"depth": "continuous", "network": "unet", "hidden": ((4, 8),)},
}


def trained(folder: Path | None, epochs: int, changes: dict[str, Any], **settings: Any) -> tuple[Any, list[Any]]:
    data = splits("none" if "likelihood" in changes else "static")
    if data.binary:
        binary = {name: 255 * (getattr(data, name) > 127).astype(np.uint8) for name in ("train", "valid")}
        data = replace(data, **binary)
    torch.manual_seed(0)
    params = model_params(**{"inference": "diffusion", "hidden": ((16, 16),)} | changes)
    model = build(params, torch.as_tensor(data.mean, dtype=torch.float32), (1, 4, 4))
    settings = {"ema": 0.9, "valid_draws": 8, **settings}
    records = list(fit(model, data, train_params(epochs=epochs, **settings), seed=0, folder=folder))
    return model, records


@pytest.mark.parametrize("changes", TRAINED.values(), ids=list(TRAINED))
def test_it_is_trained_and_resumed_bit_for_bit(changes: dict[str, Any], tmp_path: Path) -> None:
    """The bound rises; a training that stopped after two epochs goes on as one that did not, shares included."""
    whole, records = trained(None, 6, changes)
    first, last = records[0].metrics, records[-1].metrics
    assert last["valid/elbo"] > first["valid/elbo"]
    assert set(last) == {
        *(f"{split}/{term}" for split in ("train", "valid") for term in ("elbo", "reconstruction", "kl")),
        *("valid/objective", "train/learning_rate", "train/gradient_norm"),
    }
    trained(tmp_path, 2, changes)
    resumed, again = trained(tmp_path, 6, changes)
    assert [record.metrics for record in again] == [record.metrics for record in records]
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in whole.state_dict().items())
    assert whole.diffusion.cost.any()


def test_objectives_that_make_sense() -> None:
    """With beta 1 the objective beta is the elbo; iwae takes the whole chain, and its one draw is the elbo."""
    changes = {"depth": 3}
    elbos = [trained(None, 2, changes, objective=name)[1][-1].metrics["train/elbo"] for name in ("elbo", "beta")]
    assert elbos[0] == elbos[1]
    one = trained(None, 2, changes, objective="iwae")[1][-1].metrics
    assert one["valid/iwae"] == pytest.approx(one["valid/elbo"], abs=1e-5)


def test_learned_ends_move() -> None:
    """The ends are weights like others, with the gradient of the estimate."""
    model, _ = trained(None, 3, {"depth": 3, "log_snr_ends": "learned"})
    assert not torch.equal(model.diffusion.ends.detach(), torch.tensor([4.0, -10.0]))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"model.depth": "continuous"}, "model.depth: continuous given with inference bottom_up; allowed: 1 to 64"),
        ({"model.network": "unet"}, "'unet' given, which only inference diffusion has"),
        ({"model.inference": "diffusion", "model.prior": "vamp"}, "model.prior: vamp given with inference diffusion"),
        ({"model.inference": "diffusion", "model.widths": [3, 2]}, "model.widths: "),
        ({"model.inference": "diffusion", "model.parents": "every"}, "model.parents: every given with inference"),
        ({"model.inference": "diffusion", "model.network": "conv"}, "model.network: conv given with inference"),
        ({"model.inference": "diffusion", "model.log_snr": [-4.0, 2.0]}, "model.log_snr: "),
        ({"model.inference": "diffusion", "train.objective": "dreg"}, "train.objective: 'dreg' given with inference"),
        ({"model.inference": "diffusion", "train.free_bits": 1.0}, "train.free_bits: 1 given with inference"),
        (
            {"model.inference": "diffusion", "model.depth": "continuous", "train.objective": "iwae"},
            "train.objective: 'iwae' given with inference diffusion and model.depth continuous",
        ),
    ],
)
def test_what_a_diffusion_does_not_have_is_refused(overrides: dict[str, Any], message: str) -> None:
    """Each is an error of one line."""
    with pytest.raises(InputError) as error:
        Params.read(ROOT / "params.yaml", {"sweep.space": {}, "variants": {"a": {}}, **overrides})
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_a_study_searches_its_depth_up_to_a_thousand_and_trains_it(tmp_path: Path) -> None:
    """Sweep and final training take one variant of any depth and one without end, as they take any other."""
    study = make_study(
        tmp_path,
        **{
            "variants": {
                "chain": {"model.inference": "diffusion"},
                "continuous": {"model.inference": "diffusion", "model.depth": "continuous"},
            },
            "sweep.space": {"model.depth": {"low": 1, "high": 1000, "log": True}},
            "sweep.trials": 3,
            "train.seeds": [0],
        },
    )
    fetch.run(study)
    prepare.run(study)
    outcome = run(Sweep(study, "chain"), 1)
    assert {row["state"] for row in read_csv(study.sweep("chain") / "trials.csv")} == {"COMPLETE"}, outcome
    for variant, depth in (("chain", None), ("continuous", "continuous")):
        train.run(study, variant)
        saved = read_json(study.train(variant) / "seed-0" / "model.json", "model", "widths")
        assert depth is None or saved["model"]["depth"] == depth
        assert set(saved["widths"]) == {784}
