"""What levels know of the factors, on representations that are constructed and on Gaussians with closed forms."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
import torch
from scipy.stats import norm

from pipeline.data.cave import FACTORS, draw, render
from pipeline.errors import InputError
from pipeline.evaluation import Estimate
from pipeline.evaluation.factors import factor_scores, represent
from pipeline.evaluation.factors.information import (
    BINS,
    CLASSES,
    adjusted_information,
    bin_edges,
    bin_shares,
    discretize,
    information,
    mutual_information_gap,
)
from pipeline.evaluation.factors.prediction import concentration, dci, probe, skill
from pipeline.evaluation.jackknife import leave_out, summarize
from pipeline.models import HierarchicalVAE, build
from tests.linear_gaussian import Affine, chain, inferred
from tests.small import covering, model_params

pytestmark = pytest.mark.usefixtures("float64")

NAMES = ("kind", "a", "b", "c")
HADAMARD = np.array([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]) / 2


def factors(n: int, random: np.random.Generator) -> np.ndarray:
    """Draw a category of four values and three uniform numbers [n, 4]."""
    drawn = random.uniform(-1, 1, (n, 4))
    drawn[:, 0] = np.floor(2 * drawn[:, 0] + 2)
    return drawn


def scores(weight: np.ndarray, images: tuple[np.ndarray, np.ndarray], sigma: float = 1e-3) -> dict[str, Estimate]:
    """Return the scores of a level q(z | x) = N(W x, sigma^2), x being (the factors, noise), scaled to deviation 1."""
    rung = Affine([torch.tensor(weight)], torch.zeros(len(weight)), sigma**2 * torch.eye(len(weight)))
    model = HierarchicalVAE(chain((4, 2), "nearest").model.generative, [rung], "nearest")
    train, test = images
    x = [torch.tensor((part - train.mean(0)) / train.std(0)) for part in images]
    return factor_scores(model, x[0], train[:, :4], x[1], test[:, :4], NAMES, draws=5, seed=0)


@functools.cache
def images() -> tuple[np.ndarray, np.ndarray]:
    """Return factors, and four uniform numbers that have nothing to do with them, of 1000 and 900 images."""
    random = np.random.default_rng(0)
    train, test = (np.hstack([factors(n, random), random.uniform(-1, 1, (n, 4))]) for n in (1000, 900))
    return train, test


@functools.cache
def permuted() -> dict[str, Estimate]:
    """Return the scores where units are the factors in another order."""
    return scores(only([2, 0, 3, 1]), images())


def only(columns: list[int]) -> np.ndarray:
    """Return the weight that lets z be some columns of x."""
    return np.eye(8)[columns]


@pytest.mark.slow
def test_a_permutation_of_the_factors_is_disentangled() -> None:
    """Where units are the factors in another order, D and C are above 0.99, informativeness and probes of numbers too.

    MIG is what is left of a category whose classes share a bin: at most 3 bins of 20, each with log 2 nats of log 4, of
    one factor in four.
    """
    for name in ("dci_disentanglement", "dci_completeness", "dci_informativeness", "probe/a", "probe/b", "probe/c"):
        assert 0.99 < permuted()[f"{name}/z1"].value <= 1, name
    lost = 3 / BINS * math.log(2) / math.log(4) / 4
    assert 1 - lost - 0.03 < permuted()["mig/z1"].value <= 1


@pytest.mark.slow
def test_a_rotation_is_entangled_and_as_informative_to_a_linear_map() -> None:
    """Units that mix all factors equally have D, C and MIG below 0.2, and the probes of the factors themselves."""
    rotated = scores(HADAMARD @ only([0, 1, 2, 3]), images())
    for name in ("mig", "dci_disentanglement", "dci_completeness"):
        assert rotated[f"{name}/z1"].value < 0.2, name
    for name in NAMES[1:]:
        assert rotated[f"probe/{name}/z1"].value == pytest.approx(permuted()[f"probe/{name}/z1"].value, abs=1e-4)
    assert rotated["probe/kind/z1"].value == pytest.approx(permuted()["probe/kind/z1"].value, abs=0.01)


def test_two_units_for_one_factor_are_disentangled_and_not_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where every factor has two units, D is above 0.99, C half that, as log 2 / log 4 says, and MIG about 0."""
    monkeypatch.setattr("pipeline.evaluation.factors.prediction.TREES", 1)
    double = scores(only([1, 1, 2, 2]), images())
    for name in ("probe/a", "probe/b"):
        assert double[f"{name}/z1"].value > 0.99
    assert concentration(np.kron(np.eye(2), np.ones((2, 1))).T) == pytest.approx(0.5)
    assert concentration(np.kron(np.eye(2), np.ones((2, 1)))) == pytest.approx(1.0)
    assert abs(double["mig/z1"].value) < 0.05


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.nightly) for seed in (1, 2))])
def test_noise_knows_nothing(seed: int) -> None:
    """Units independent of the factors have MIG, D and C of 0 within 4 standard errors; no fit beats a constant."""
    random = np.random.default_rng(seed)
    parts = tuple(np.hstack([factors(n, random), random.normal(size=(n, 4))]) for n in (1000, 900))
    actual = scores(only([4, 5, 6, 7]), parts)
    for name in ("mig", "dci_disentanglement", "dci_completeness"):
        score = actual[f"{name}/z1"]
        assert abs(score.value) < 4 * score.se, name
    for name in ("dci_informativeness", "probe", *(f"probe/{factor}" for factor in NAMES)):
        score = actual[f"{name}/z1"]
        assert -0.12 < score.value <= 4 * score.se, name


def test_counts_as_they_stand_find_information_in_noise() -> None:
    """At 900 images of noise, plain counts give I = 0.1 nats and a gap of 20 standard errors between two noisy units.

    The second unit has two values, so few cells, and little bias. The corrected I and gap are 0 within 4 errors.
    """
    random = np.random.default_rng(0)
    train, test = factors(1000, random), factors(900, random)
    z = [random.normal(size=(1, n, 2)) for n in (1000, 900)]
    for part in z:
        part[..., 1] = np.sign(part[..., 1])
    shares, classes = bin_shares(z[1], bin_edges(z[0])), discretize(train, test)
    right = adjusted_information(shares, classes, random)
    gap = mutual_information_gap(*z, train, test, random)
    assert abs(gap.value) < 4 * gap.se
    wrong = []
    for k in (1, 2, 3):
        table = np.einsum("nc,njb->jcb", np.eye(CLASSES)[classes[:, k]], shares)
        plain = information(table)
        assert plain[0] == pytest.approx((BINS - 1) * (CLASSES - 1) / 1800, rel=0.3)
        wrong.append((plain[0] - plain[1]) / math.log(CLASSES))
        for j in (0, 1):
            score = summarize(right[:, j, k])
            assert abs(score.value) < 4 * score.se
            if j == 0:
                assert plain[0] / math.log(CLASSES) > 4 * score.se
    assert np.mean(wrong) > 10 * gap.se


def binned(correlation: float) -> float:
    """Return I of the classes and bins of two Gaussians in nats, by quadrature over one of them."""
    v = norm.ppf((np.arange(20000) + 0.5) / 20000)
    edges = norm.ppf(np.arange(1, BINS) / BINS)
    below = norm.cdf((edges - correlation * v[:, None]) / math.sqrt(1 - correlation**2))
    bins = np.diff(below, axis=1, prepend=0.0, append=1.0)
    return information(bins.reshape(CLASSES, -1, BINS).mean(1)).item()


@pytest.mark.parametrize("correlation", [0.0, 0.3, 0.6, 0.9, 0.99])
def test_information_is_that_of_gaussians(correlation: float) -> None:
    """The corrected I / H of Gaussian pairs is the one of their bins by quadrature, within 4 standard errors + 0.01.

    Plain counts are above the corrected number, and for weak dependence off by more than 4 errors + 0.01.
    """
    random = np.random.default_rng(1)
    v, noise = random.normal(size=(2, 3000, 2))
    train, test = slice(0, 2000), slice(2000, 3000)
    classes = discretize(v[train], v[test])[:, 1:]
    z_1 = correlation * v[:, 1] + math.sqrt(1 - correlation**2) * noise[:, 1]
    shares = bin_shares(z_1[None, test, None], bin_edges(z_1[None, train, None]))
    score = summarize(adjusted_information(shares, classes, random)[:, 0, 0])
    exact = binned(correlation) / math.log(CLASSES)
    assert abs(score.value - exact) < 4 * score.se + 0.01
    table = np.eye(CLASSES)[classes[:, 0]].T @ shares[:, 0]
    plain = information(table).item() / math.log(CLASSES)
    assert plain > score.value
    if correlation < 0.5:
        assert plain > exact + 0.01 + 2 * score.se


@pytest.mark.slow
def test_a_wide_posterior_says_little_however_its_mean_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    """A permutation of the factors behind posteriors 30 times as wide has the same probes and a MIG near 0."""
    narrow = permuted()
    monkeypatch.setattr("pipeline.evaluation.factors.prediction.TREES", 1)
    wide = scores(only([2, 0, 3, 1]), images(), 30.0)
    assert wide["probe/z1"] == narrow["probe/z1"]
    assert narrow["mig/z1"].value > 0.9
    assert abs(wide["mig/z1"].value) < 0.02


def test_the_probe_of_gaussians_is_their_squared_correlation() -> None:
    """Numbers v = B z + e have the R^2 of the population, 1 - var(e) / var(v), within 4 standard errors."""
    random = np.random.default_rng(0)
    weight, sigma = random.normal(size=(3, 5)), np.array([0.5, 2.0, 8.0])
    z = random.normal(size=(6000, 5))
    v = np.column_stack([random.integers(0, 3, 6000), z @ weight.T + sigma * random.normal(size=(6000, 3))])
    actual = probe(z[:4000], z[4000:], v[:4000], v[4000:], NAMES, 1)
    for name, b, s in zip(NAMES[1:], weight, sigma, strict=True):
        score = actual[f"probe/{name}/z1"]
        assert abs(score.value - b @ b / (b @ b + s**2)) < 4 * score.se, name
    mean = np.mean([actual[f"probe/{name}/z1"].value for name in NAMES])
    assert actual["probe/z1"].value == pytest.approx(mean, abs=1e-12)


def test_the_probe_of_a_category_is_that_of_the_best_rule() -> None:
    """Two Gaussians 2 d apart have the normalized accuracy 2 Phi(d) - 1 of the best rule, within 4 standard errors."""
    random = np.random.default_rng(0)
    v = np.column_stack([random.integers(0, 2, 6000), random.normal(size=6000)]).astype(np.float64)
    z = 0.8 * (2 * v[:, :1] - 1) + random.normal(size=(6000, 1))
    score = probe(z[:4000], z[4000:], v[:4000], v[4000:], NAMES[:2], 1)["probe/kind/z1"]
    assert abs(score.value - (2 * norm.cdf(0.8) - 1)) < 4 * score.se


def test_skill_is_r_squared_and_accuracy_above_chance() -> None:
    """The skill is 1 - MSE / variance and (accuracy - chance) / (1 - chance); constants of the training set have 0."""
    train = np.array([[0, 1.0], [1, 3.0], [1, 2.0]])
    v = np.array([[1, 1.0], [0, 2.0], [1, 3.0], [2, 4.0]])
    predicted = np.array([[1, 1.5], [0, 2.0], [0, 3.0], [1, 3.0]])
    assert skill(predicted, v, train)[0] == pytest.approx([1 - 2 / 2, 1 - 1.25 / 6])
    assert skill(np.array([[1, 2.0]] * 4), v, train)[0] == pytest.approx([0, 0])


def test_the_jackknife_of_a_mean_is_its_standard_error() -> None:
    """For a mean over as many images as groups the jackknife's error is deviation / sqrt(n), to 1e-12."""
    x = np.random.default_rng(0).normal(size=50)
    sums = leave_out(np.column_stack([x, np.ones(50)]))
    score = summarize(sums[:, 0] / sums[:, 1])
    assert score.value == pytest.approx(x.mean(), abs=1e-12)
    assert score.se == pytest.approx(x.std(ddof=1) / math.sqrt(50), abs=1e-12)


@pytest.mark.nightly
@pytest.mark.slow
def test_the_errors_are_those_of_new_images() -> None:
    """Over 16 repetitions with new images, each score's deviation is 0.6 to 1.5 times its error, D and C's 0.3 to 1.5.

    The errors of D and C also count the trees' randomness, and are too large rather than too small.
    """
    actual: dict[str, list[Estimate]] = {}
    for seed in range(16):
        random = np.random.default_rng(seed)
        parts = tuple(np.hstack([factors(n, random), random.normal(size=(n, 4))]) for n in (500, 400))
        weight = np.hstack([HADAMARD * [1, 1, 0.3, 0.3], 0.5 * np.eye(4)])
        for name, score in scores(weight, parts, 0.3).items():
            actual.setdefault(name, []).append(score)
    for name in ("mig/z1", "dci_disentanglement/z1", "dci_completeness/z1", "dci_informativeness/z1", "probe/z1"):
        deviation = np.std([score.value for score in actual[name]], ddof=1)
        error = math.sqrt(np.mean([score.se**2 for score in actual[name]]))
        low = 0.3 if name.startswith(("dci_d", "dci_c")) else 0.6
        assert low < deviation / error < 1.5, name


@pytest.mark.slow
@pytest.mark.parametrize("parents", ["nearest", "every"])
def test_the_mean_of_every_level_is_the_exact_one(parents: str) -> None:
    """In linear-Gaussian chains E_q[z_t | x] is exact at level 1, and within 5 errors of its draws above it."""
    gaussian = chain((4, 3, 2, 2), parents)
    x, draws = torch.randn(30, 4), 4000
    exact = inferred(gaussian.model, x)
    levels = represent(gaussian.model, x, draws)
    parts = zip(exact.mean.split([3, 2, 2], 1), exact.variance.split([3, 2, 2], 1), levels, strict=True)
    for t, (mean, variance, level) in enumerate(parts, start=1):
        assert level.draws.shape == (draws, *mean.shape)
        error = 1e-12 if t == 1 else 5 * (variance / draws).sqrt().max().item()
        assert np.abs(level.mean - mean.numpy()).max() < error


@pytest.mark.slow
@covering("inference, parents, depth", ["bottom_up", "top_down"], ["nearest", "every"], [1, 3, 2])
def test_every_model_is_measured(inference: str, parents: str, depth: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Models of either direction and parents give finite scores of shadows at every level, probes of the image x too.

    The same seed gives the same numbers, and the caller's random state stays as it was.
    """
    monkeypatch.setattr("pipeline.evaluation.factors.prediction.TREES", 2)
    v = draw(120, 0)
    x = torch.tensor(render(v, 28, False)).double()
    model = build(model_params(depth=depth, inference=inference, parents=parents), x.mean(0).clamp(0.01, 0.99)).eval()

    def measure(seed: int) -> dict[str, Estimate]:
        return factor_scores(model, x[:80], v[:80], x[80:], v[80:], tuple(FACTORS), draws=3, seed=seed)

    before = torch.get_rng_state()
    actual = measure(0)
    assert torch.equal(torch.get_rng_state(), before)
    levels = [f"z{t}" for t in range(1, depth + 1)]
    kinds = ["mig", "dci_disentanglement", "dci_completeness", "dci_informativeness"]
    probes = [f"probe/{name}" for name in FACTORS] + ["probe"]
    expected = {f"{kind}/{level}" for kind in kinds for level in levels}
    assert set(actual) == expected | {f"{kind}/{level}" for kind in probes for level in ["x", *levels]}
    assert all(math.isfinite(score.value) and score.se >= 0 for score in actual.values())
    if depth == 1:
        assert measure(0) == actual
        assert measure(1) != actual


@pytest.mark.slow
def test_a_level_of_one_unit_and_constant_units_have_scores() -> None:
    """A level's only unit is complete; units that are constant know nothing, exactly 0."""
    random = np.random.default_rng(0)
    train, test = factors(200, random), factors(100, random)
    single = dci(train[:, 1:2], test[:, 1:2], train, test, random)
    assert single["completeness"] == Estimate(1.0, 0.0)
    gap = mutual_information_gap(train[None, :, 1:2], test[None, :, 1:2], train, test, random)
    assert gap.value > 0.2
    still = [np.zeros((n, 3)) for n in (200, 100)]
    constant = dci(*still, train, test, random)
    assert constant["disentanglement"].value == constant["completeness"].value == pytest.approx(0, abs=1e-12)
    gap = mutual_information_gap(*(z[None] for z in still), train, test, random)
    assert gap.value == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v, names: (v[:, :0], ()), "need ground-truth factors"),
        (lambda v, names: (v, names[:-1]), "need ground-truth factors"),
        (lambda v, names: (np.where(np.arange(4) == 2, 0.5, v), names), "factor b is constant in the train set"),
        (lambda v, names: (np.where((np.arange(4) == 0) & (v == 3), 0.0, v), names), "kind has categories"),
    ],
)
def test_factors_that_cannot_be_scored_are_refused(change, message: str) -> None:
    """Without factors, with names that do not fit, constant ones or a class not trained on, one line says so."""
    v = factors(60, np.random.default_rng(0))
    train, names = change(v, NAMES)
    model = chain((4, 2), "nearest").model
    test = v[:, : train.shape[1]]
    with pytest.raises(InputError, match=message):
        factor_scores(model, torch.zeros(60, 4), train, torch.zeros(60, 4), test, names, draws=2, seed=0)
