"""Likelihood ratios by level: exact weights, closed forms of their AUROC, and images from elsewhere in a study."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from pipeline import data
from pipeline.data import Splits
from pipeline.data.images import to_unit_interval
from pipeline.errors import InputError
from pipeline.evaluation.outliers import auroc, bounds_above, outliers, scores, shuffled
from pipeline.evaluation.saved_model import measure_outliers
from pipeline.files import read_json
from pipeline.models import build, checkpoint
from pipeline.params import Params
from pipeline.stages import evaluate, fetch, prepare, train
from pipeline.training import fit
from tests.linear_gaussian import chain
from tests.small import ROOT, model_params, train_params
from tests.workshop import make_study

WIDTHS = (3, 2, 2, 2)


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("parents", ["nearest", "every"])
def test_every_weight_with_redrawn_levels_has_the_mean_p_of_x(parents: Any) -> None:
    """On a linear-Gaussian chain w / p(x) has mean 1 within 4 standard errors for every k, and L^{>k} <= log p(x)."""
    torch.manual_seed(4)
    exact = chain(WIDTHS, parents)
    x = exact.model.sample(1)[0]
    ratio = (bounds_above(exact.perturbed(0.1), x, 200_000) - exact.log_p(x))[..., 0]
    error = ratio.exp().std(1) / ratio.shape[1] ** 0.5
    assert ((ratio.exp().mean(1) - 1).abs() < 4 * error).all()
    assert (error < 0.1).all()
    assert (ratio.mean(1) < 0).all()


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
def test_the_ratio_of_an_exact_chain_has_its_closed_form() -> None:
    """With an exact q, L^{>0} is log p(x), and L^{>1} the mean of E_p(z_1 | z_2) log p(x | z_1) + log p / q of z_2."""
    torch.manual_seed(1)
    exact = chain((3, 2, 2), "nearest")
    x = exact.model.sample(1)[0]
    bound = bounds_above(exact.model, x, 400_000)
    assert (bound[0] - exact.log_p(x)).abs().max() < 1e-9
    z, q = exact.model.posterior(x, 400_000)
    p = exact.model.joint(z)
    rung, above = exact.model.generative[:2]
    weight, precision = rung.weights[0], torch.linalg.inv(rung.covariance)
    # E over z_1' ~ N(m, S) of log N(x; W z_1' + b, Q) is that at m, less half the trace of W' Q^-1 W S.
    inner = rung(p[1].mean).log_prob(x) - 0.5 * torch.trace(weight.mT @ precision @ weight @ above.covariance)
    expected = inner + p[2].log_prob(z[2]) - q[1].log_prob(z[2])
    error = math.hypot((expected.std() / len(expected) ** 0.5).item(), (bound[1].std() / len(expected) ** 0.5).item())
    assert abs(bound[1].mean() - expected.mean()) < 4 * error < 0.1


@pytest.mark.parametrize("inference", ["bottom_up", "top_down"])
@pytest.mark.parametrize("depth", [1, 3])
def test_scores_are_the_bound_and_a_ratio_a_level_below_the_top(depth: int, inference: str) -> None:
    """Redrawn levels leave those above as they were; a model of one level has its bound alone."""
    torch.manual_seed(0)
    model = build(model_params(depth=depth, inference=inference), torch.full((16,), 0.5))
    z, _ = model.posterior(torch.rand(5, 16).round(), 3)
    nodes = model.redraw(z, depth - 1)
    assert torch.equal(nodes[depth], z[depth])
    assert all(not torch.equal(nodes[t], z[t]) for t in range(1, depth))
    assert list(scores(model, z[0][0], 7)) == ["elbo", *(f"llr/z{k}" for k in range(1, depth))]
    with pytest.raises(ValueError, match="cannot be drawn"):
        model.redraw(z, depth)


def test_the_auroc_and_its_error_are_those_of_two_normals() -> None:
    """Over 300 draws of scores the AUROC has the mean of the closed form, and its error is the spread within 20 %."""
    rng = np.random.default_rng(0)
    runs = [auroc(*torch.tensor(rng.normal([[0], [0.8]], 1, (2, 80)))) for _ in range(300)]
    values = np.array([run.value for run in runs])
    assert values.mean() == pytest.approx(norm.cdf(0.8 / 2**0.5), abs=3 * values.std() / 300**0.5)
    assert values.std() / np.mean([run.se for run in runs]) == pytest.approx(1, abs=0.2)


def test_equal_scores_count_one_half() -> None:
    """With ties the AUROC is that of scikit-learn."""
    own, other = torch.tensor([0.0, 1, 1, 2]), torch.tensor([1.0, 2, 3])
    expected = roc_auc_score([0] * 4 + [1] * 3, torch.cat([own, other]))
    assert auroc(own, other).value == pytest.approx(expected)
    assert auroc(own, own).value == 0.5


def test_shuffled_images_keep_their_own_pixels() -> None:
    """Each image has its pixels in an order of its own, the same for one seed."""
    pixels = torch.arange(60, dtype=torch.uint8).view(3, 20)
    mixed = shuffled(pixels, 0)
    assert torch.equal(mixed.sort(1).values, pixels)
    assert not torch.equal(mixed[0] % 20, mixed[1] % 20)
    assert torch.equal(mixed, shuffled(pixels, 0))
    assert not torch.equal(mixed, shuffled(pixels, 1))


def test_shuffled_pixels_keep_their_colours() -> None:
    """Red, green and blue of a pixel move together; grey images are shuffled as they were without channels."""
    pixels = torch.arange(24).view(2, 12)
    mixed = shuffled(pixels, 0, channels=3).unflatten(1, (3, 4))
    assert (mixed.diff(dim=1) == 4).all()
    assert torch.equal(mixed.flatten(1).sort(1).values, pixels)
    noise = torch.rand(2, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.equal(shuffled(pixels, 0), pixels.gather(1, noise.argsort(1)))


def digits(tmp_path: Path) -> Splits:
    """Return the digits, binarized."""
    return data.prepare(Params.read(ROOT / "params.yaml").data, tmp_path, tmp_path / "data")


@pytest.mark.slow
def test_a_model_of_digits_tells_shuffled_digits_apart(tmp_path: Path) -> None:
    """After 15 epochs the bound is lower for shuffled digits: an AUROC above 0.98, and no score of equal images."""
    made = digits(tmp_path)
    torch.manual_seed(0)
    model = build(model_params(z_dim=8, hidden=((64,),)), torch.as_tensor(made.mean, dtype=torch.float32))
    list(fit(model, made, train_params(epochs=15, batch_size=64), seed=0))
    test = torch.as_tensor(made.test)
    own, other = (scores(model, to_unit_interval(x, made.scale), 20) for x in (test, shuffled(test, 0)))
    actual = outliers(own, other)
    assert list(actual) == ["outlier_auroc/elbo", "outlier_auroc/llr/z1"]
    assert actual["outlier_auroc/elbo"].value > 0.98
    again = auroc(own["elbo"], scores(model, to_unit_interval(test, made.scale), 20)["elbo"])
    assert again.value == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"data": "digits"}, "which is data.name; allowed: shuffled or another set"),
        ({"data": "letters"}, "evaluate.outliers"),
        ({"images": 1}, "evaluate.outliers.images"),
    ],
)
def test_wrong_outliers_are_refused_in_one_line(overrides: dict[str, Any], message: str) -> None:
    """The study's own data, an unknown name and too few images are refused with the key."""
    expected = {"data": "shuffled", "images": 10, "draws": 4} | overrides
    with pytest.raises(InputError, match=message) as refused:
        Params.read(ROOT / "params.yaml", {"evaluate.outliers": expected})
    assert "\n" not in str(refused.value)


def test_outliers_of_other_grey_levels_or_by_a_budget_are_refused() -> None:
    """Pixels of 256 levels are not compared with 17, and a budget does not ask for data that are not fetched."""
    grey = {"data.binarization": "none", "model.likelihood": "gaussian"}
    expected = {"data": "mnist", "images": 10, "draws": 4}
    with pytest.raises(InputError, match="'mnist' has 256 grey levels here, digits has 17"):
        Params.read(ROOT / "params.yaml", grey | {"evaluate.outliers": expected})
    with pytest.raises(InputError, match="a budget does not set it"):
        Params.read(ROOT / "params.yaml", {"budgets": {"default": {"evaluate.outliers": expected}}})


def test_images_of_another_shape_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images of 8 x 8 are no match for shadows of 28 x 28."""
    monkeypatch.setitem(data.DATASETS, "omniglot", data.DATASETS["digits"])
    made = make_study(tmp_path, **{"evaluate.outliers": {"data": "omniglot", "images": 10, "draws": 4}})
    fetch.run(made)
    with pytest.raises(InputError, match="images of omniglot are 8 x 8, those of cave 28 x 28"):
        prepare.run(made)


@pytest.mark.slow
def test_a_study_measures_its_outliers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stages bring another data set (here a twin of the study's own), and a seed has each AUROC with its error."""
    monkeypatch.setenv("CAVE_WORKERS", "1")
    monkeypatch.setitem(data.DATASETS, "omniglot", data.DATASETS["cave"])
    expected = {"data": "omniglot", "images": 20, "draws": 4}
    changes = {"train.seeds": [0], "train.epochs": 1, "evaluate.decompose": None, "evaluate.outliers": expected}
    made = make_study(tmp_path, **changes)
    fetch.run(made)
    prepare.run(made)
    assert (made.outliers / "test.npy").exists()
    train.run(made, "mhvae")
    evaluate.run(made, "mhvae")
    actual = read_json(made.evaluate("mhvae") / "seed-0.json")["final"]
    twin = [actual[f"test/outlier_auroc/{name}"] for name in ("elbo", "llr/z1")]
    assert all(abs(each["value"] - 0.5) < 4 * each["se"] for each in twin)
    params, own = made.params.evaluate.outliers, data.load(made.data)
    model, test = checkpoint.load(made.train("mhvae") / "seed-0"), torch.as_tensor(own.test)
    mixed = measure_outliers(params.model_copy(update={"data": "shuffled"}), model, own, test, made.outliers, 0, 0)
    assert set(mixed.estimates) == {"outlier_auroc/elbo", "outlier_auroc/llr/z1"}
    assert mixed.estimates["outlier_auroc/elbo"].value > 0.9
    assert set(mixed.images) == {"outlier_score/elbo", "outlier_score/llr/z1"}
