"""Products in bfloat16: how far gradients and bounds are from single precision, and that nothing else changes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pipeline.evaluation import evaluate
from pipeline.models import HierarchicalVAE, build
from pipeline.models.precision import linear_autocast
from pipeline.training import fit
from pipeline.training.loss import Loss
from pipeline.training.manual import ManualGradient
from pipeline.training.step import AutogradGradient
from tests.small import model_params, splits, train_params
from tests.test_evaluation import evaluate_params

ROUNDING = 2**-9  # relative, of a number in bfloat16


def model(**changes: Any) -> HierarchicalVAE:
    """Return a model of some hundred units whose posterior depends on the image."""
    torch.manual_seed(3)
    built = build(model_params(**{"hidden": ((100, 100), (50,)), "z_dim": 20} | changes), torch.full((196,), 0.3))
    for weights in built.parameters():
        weights.data.add_(0.05 * torch.randn_like(weights))
    return built


@pytest.mark.parametrize("form", [ManualGradient, AutogradGradient])
@pytest.mark.parametrize("changes", [{"depth": 1}, {"depth": 3}, {"depth": 3, "parents": "every"}])
def test_gradients_are_near_those_of_single_precision(form: Any, changes: dict[str, Any]) -> None:
    """Gradients deviate by 10 roundings in norm at most, their direction by 0.1%, and they are not the same."""
    built, x = model(**changes), (torch.rand(50, 196) < 0.3).float()
    actual = {}
    for precision in ("float32", "bfloat16"):
        torch.manual_seed(0)
        bound, loss = form(built, Loss(train_params(precision=precision)))(x, 2, 1.0)
        gradient = torch.cat([weights.grad.flatten() for weights in built.parameters() if weights.grad is not None])
        actual[precision] = gradient.clone(), bound.log_weight, loss
        assert {gradient.dtype, bound.rate.dtype, loss.dtype} == {torch.float32}
    (exact, weights, loss), (rounded, near, close) = actual.values()
    assert 0 < (rounded - exact).norm() / exact.norm() < 10 * ROUNDING
    assert torch.cosine_similarity(rounded, exact, dim=0) > 0.999
    assert (near - weights).abs().mean() < ROUNDING * weights.abs().mean()
    assert close.item() == pytest.approx(loss.item(), rel=ROUNDING)


def test_both_forms_round_alike() -> None:
    """The gradient by hand and that of torch differ less from each other than either does from single precision."""
    built, x = model(depth=2), (torch.rand(50, 196) < 0.3).float()
    actual = []
    for form, precision in ((ManualGradient, "bfloat16"), (AutogradGradient, "bfloat16"), (ManualGradient, "float32")):
        torch.manual_seed(0)
        form(built, Loss(train_params(precision=precision)))(x, 1, 1.0)
        actual.append(torch.cat([w.grad.flatten() for w in built.parameters() if w.grad is not None]).clone())
    assert (actual[0] - actual[1]).norm() < 0.7 * (actual[0] - actual[2]).norm()


def test_bounds_err_by_less_than_they_say() -> None:
    """The reported error is that of the first images on the same draws, below 0.2 nats; the mean's is smaller."""
    built = model(depth=2)
    test = torch.randint(2, (20, 196), dtype=torch.uint8)
    settings = {"draws": 200, "k": (1, 200)}
    exact, rounded = (
        evaluate(built, test, 1, evaluate_params(precision=precision, **settings), discrete=True).estimates
        for precision in ("float32", "bfloat16")
    )
    assert set(rounded) - set(exact) == {"rounding"}
    assert 0 < abs(rounded["nll"].value - exact["nll"].value) <= rounded["rounding"].value < 0.2


def test_the_model_is_left_as_it_was() -> None:
    """Outside of the block, and in it for single precision, dense layers take their own products."""
    built, z = model(depth=1), torch.randn(3, 2, 20)
    exact = built.joint([torch.zeros(1, 2, 196), z])[0].mean
    with linear_autocast(built, "bfloat16"):
        assert not torch.equal(built.joint([torch.zeros(1, 2, 196), z])[0].mean, exact)
    for block in (linear_autocast(built, "float32"), linear_autocast(built, "bfloat16")):
        with block:
            pass
        assert torch.equal(built.joint([torch.zeros(1, 2, 196), z])[0].mean, exact)


@pytest.mark.slow
@pytest.mark.parametrize("prior", ["normal", "vamp"])
def test_a_training_ends_where_one_in_single_precision_ends(prior: str) -> None:
    """After five epochs the validation bound of both is within 0.1 nats, and higher than at first."""
    last = []
    for precision in ("float32", "bfloat16"):
        torch.manual_seed(0)
        built = build(model_params(prior=prior), torch.full((16,), 0.5))
        records = list(fit(built, splits(), train_params(precision=precision), seed=0))
        last.append(records[-1].metrics["valid/elbo"])
        assert last[-1] > records[0].metrics["valid/elbo"]
        assert {weights.dtype for weights in built.parameters()} == {torch.float32}
    assert last[0] != last[1]
    assert last[0] == pytest.approx(last[1], abs=0.1)
