"""Adam on one flat tensor: torch's own steps, the norm that is asked for, and weights that stay the model's."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch

from pipeline.models import HierarchicalVAE, build
from pipeline.objectives import elbo
from pipeline.training.step import Adam
from tests.small import model_params, train_params


def small() -> HierarchicalVAE:
    return build(model_params(), torch.full((12,), 0.3))


def climb(model: HierarchicalVAE, seed: int) -> None:
    """Leave the gradient of a batch's loss in the weights."""
    torch.manual_seed(seed)
    model.zero_grad(set_to_none=False)
    (-elbo(model, (torch.rand(5, 12) < 0.5).double()).elbo.mean()).backward()


@pytest.mark.parametrize("changes", [{}, {"adam_beta1": 0.5, "adam_beta2": 0.9, "adam_eps": 0.1}])
@pytest.mark.usefixtures("float64")
def test_its_steps_are_those_of_torch(changes: dict[str, Any]) -> None:
    """Ten steps at rates that change move every weight as torch.optim.Adam does, to 1e-12."""
    model, params = small(), train_params(**changes)
    other = deepcopy(model)
    betas = (params.adam_beta1, params.adam_beta2)
    wanted = torch.optim.Adam(other.parameters(), betas=betas, eps=params.adam_eps)
    mine = Adam(model, params)
    for step in range(10):
        rate = wanted.param_groups[0]["lr"] = 0.1 / (step + 1)
        climb(model, step)
        climb(other, step)
        mine.step(rate)
        wanted.step()
    torch.testing.assert_close(list(model.parameters()), list(other.parameters()), rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("float64")
def test_a_clipped_gradient_has_the_norm_that_is_asked_for() -> None:
    """Above the limit a step's direction stays and the norm becomes the limit; below it nothing changes."""
    model = small()
    mine = Adam(model, train_params())
    climb(model, 0)
    whole = mine.gradient.clone()
    mine.clip(2 * whole.norm().item())
    mine.step(0.1)
    assert torch.equal(mine.gradient, whole)
    mine.clip(0.01)
    mine.step(0.1)
    clipped = 0.01 * whole / whole.norm()
    torch.testing.assert_close(mine.gradient, clipped, rtol=1e-6, atol=0)  # the norm is in single precision
    torch.testing.assert_close(mine.moments["mean"], 0.9 * 0.1 * whole + 0.1 * clipped, rtol=1e-6, atol=1e-12)
    mine.step(0.1)  # a limit is of one step
    torch.testing.assert_close(mine.gradient, clipped, rtol=1e-6, atol=0)
    assert [part.grad is not None and part.grad.shape for part in model.parameters()] == [
        part.shape for part in model.parameters()
    ]


def test_the_weights_stay_those_of_the_model() -> None:
    """Flattened, every parameter has the value it had, and what is loaded into the model is what is stepped from."""
    model = small()
    before = deepcopy(model.state_dict())
    mine = Adam(model, train_params())
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    model.load_state_dict({name: torch.ones_like(part) for name, part in before.items()})
    assert bool((mine.weights == 1).all())
