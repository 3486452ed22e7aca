"""The gradient derived by hand against torch's own, on the same draws: terms, loss, and every weight."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from pipeline.models import ACTIVATIONS, build
from pipeline.params import TrainParams
from pipeline.training.loss import Loss
from pipeline.training.manual import ManualGradient
from pipeline.training.manual.dense import DERIVATIVES, Dense
from pipeline.training.step import AutogradGradient, gradient
from tests.small import model_params, train_params

OBJECTIVES: dict[str, dict[str, Any]] = {
    "elbo": {"draws": 3},
    "iwae": {"objective": "iwae", "draws": 4},
    "beta": {"objective": "beta", "beta": 0.7, "warmup": 3, "draws": 2, "reduction": "sum"},
    "staggered": {"objective": "beta", "beta": 2.0, "warmup": 3, "warmup_stagger": 1},
    "free bits": {"free_bits": 0.3, "draws": 2},
}
MODELS: dict[str, dict[str, Any]] = {
    "vae": {"depth": 1},
    "mhvae": {"depth": 4, "hidden": ((7, 6), (5,))},
    "hvae": {"depth": 4, "parents": "every"},
    "gaussian": {"depth": 2, "likelihood": "gaussian"},
    "linear": {"depth": 2, "hidden": ((),)},
}


def both(settings: TrainParams, **changes: Any) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Return terms, loss and gradients of a batch by torch and by hand."""
    model = build(model_params(**changes), torch.full((12,), 0.3))
    for weights in model.parameters():
        weights.data.add_(0.1 * torch.randn_like(weights))
    x = (torch.rand(5, 12) < 0.5).to(torch.get_default_dtype())
    found = []
    for form in (AutogradGradient, ManualGradient):
        torch.manual_seed(0)
        bound, loss = form(model, Loss(settings))(x, settings.draws, 1.3)
        slopes = [weights.grad.clone() for weights in model.parameters() if weights.grad is not None]
        assert len(slopes) == len(list(model.parameters()))
        found.append([bound.reconstruction, bound.rate, loss, *slopes])
    return found[0], found[1]


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.usefixtures("float64")
def test_the_gradient_derived_by_hand_is_that_of_torch(model: str, objective: str) -> None:
    """Terms, loss and the gradient of every weight agree to 1e-10, for every model and objective."""
    plain, chain = both(train_params(**OBJECTIVES[objective]), **MODELS[model])
    torch.testing.assert_close(chain, plain, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("activation", ["tanh", "relu", "leaky_relu", "elu"])
@pytest.mark.usefixtures("float64")
def test_every_activation_has_its_derivative(activation: str) -> None:
    """The gradient agrees to 1e-10 with every activation that has a derivative by its result."""
    plain, chain = both(train_params(), depth=2, activation=activation)
    torch.testing.assert_close(chain, plain, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("objective", ["elbo", "iwae"])
@pytest.mark.parametrize("model", MODELS)
def test_what_was_computed_before_changes_nothing(model: str, objective: str) -> None:
    """After batches of other sizes and draws, a batch gives bit for bit what it gives first; its terms stay valid."""
    built = build(model_params(**MODELS[model]), torch.full((12,), 0.3))
    settings = train_params(**OBJECTIVES[objective])
    batches = [
        ((torch.rand(size, 12) < 0.5).float(), draws) for size, draws in ((5, 3), (2, 3), (5, 1), (7, 4), (2, 3))
    ]

    def step(form: ManualGradient, seed: int) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        torch.manual_seed(seed)
        x, draws = batches[seed]
        bound, loss = form(x, draws, 1.0)
        return [bound.reconstruction, bound.rate, loss], [weights.grad.clone() for weights in built.parameters()]

    once = [step(ManualGradient(built, Loss(settings)), seed) for seed in range(len(batches))]
    form = ManualGradient(built, Loss(settings))
    again = [step(form, seed) for seed in (0, 1, 2, 3, 4, 0, 1, 2, 3, 4)]  # all are compared after the last
    torch.testing.assert_close(again, once + once, rtol=0, atol=0)


def test_it_agrees_in_single_precision() -> None:
    """In float32 both forms differ by rounding alone."""
    plain, chain = both(train_params(draws=2), depth=3)
    torch.testing.assert_close(chain, plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "form"),
    [
        ({}, ManualGradient),
        ({"parents": "every"}, ManualGradient),
        ({"inference": "top_down"}, AutogradGradient),
        ({"prior": "vamp", "pseudo_inputs": 3}, AutogradGradient),
        ({"prior": "mixture", "pseudo_inputs": 3}, AutogradGradient),
        ({"likelihood": "continuous_bernoulli"}, AutogradGradient),
        ({"likelihood": "discretized_logistic"}, AutogradGradient),
        ({"likelihood": "gaussian", "sigma": 0.1}, AutogradGradient),
        ({"batch_norm": True}, AutogradGradient),
        ({"activation": "silu"}, AutogradGradient),
    ],
)
def test_what_has_no_gradient_by_hand_is_left_to_torch(changes: dict[str, Any], form: type) -> None:
    """The form is chosen by what the model consists of."""
    model = build(model_params(**changes), torch.full((12,), 0.3))
    assert type(gradient(model, train_params())) is form


@pytest.mark.parametrize("objective", ["stl", "dreg"])
def test_gradients_that_are_not_the_losss_own_are_left_to_torch(objective: str) -> None:
    """Objectives with a gradient of their own take torch's."""
    model = build(model_params(), torch.full((12,), 0.3))
    assert type(gradient(model, train_params(objective=objective))) is AutogradGradient


def test_every_activation_is_known_to_one_form() -> None:
    """A network of any registered activation either fits or is left to torch, and convolutions never fit."""
    assert set(DERIVATIVES) < set(ACTIVATIONS.values())
    assert not Dense.supports(nn.Sequential(nn.Conv2d(1, 1, 3)))
    assert not Dense.supports(nn.Sequential(nn.Linear(1, 1), nn.Tanh(), nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1)))
