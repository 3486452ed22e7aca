"""A step in pieces and as one function: the same weights, the same course after an interruption, and its own limits."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.models import build
from pipeline.objectives import ELBO
from pipeline.stages import fetch, prepare
from pipeline.training.compiled import CompiledStep
from pipeline.training.loop import make_step
from pipeline.training.loss import Loss
from pipeline.training.step import Adam, Step
from tests.small import ROOT, model_params, train_params
from tests.test_manual_gradient import MODELS
from tests.workshop import make_study, rows

ALONE = os.environ | {"PYTHONPATH": str(ROOT)}
"""For processes of their own: the types that tests check at run time cannot be compiled."""

OBJECTIVES: dict[str, dict[str, Any]] = {
    "elbo": {"draws": 3, "clip": None},
    "clipped": {"clip": 0.5},
    "iwae": {"objective": "iwae", "draws": 4, "adam_initial_second_moment": 1.0, "clip": None},
    "rounded": {"precision": "bfloat16", "clip": None},
    "beta": {"objective": "beta", "beta": 0.7, "warmup": 3, "draws": 2, "reduction": "sum", "clip": None},
}


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.usefixtures("float64")
def test_the_one_function_takes_the_steps_of_its_pieces(model: str, objective: str) -> None:
    """As it is written, terms, losses, weights and moments of two epochs agree to 1e-9, those of clipped ones to 1e-6.

    Adam's own pass over the weights takes the clipped norm in single precision.
    """
    params, tolerance = train_params(**OBJECTIVES[objective], compile=True), 1e-6 if objective == "clipped" else 1e-9
    actual = []
    for form in (Step, CompiledStep):
        torch.manual_seed(0)
        built = build(model_params(**MODELS[model]), torch.full((12,), 0.3))
        adam = Adam(built, params)
        step, output = form(built, adam, params), []
        for epoch in range(2):
            with step.epoch():
                for batch in range(3):
                    x = (torch.rand(5, 12) < 0.5).double()  # fewer than params.batch_size: nothing is compiled
                    bound, loss = step(x, epoch + batch / 3, 0.01 / (batch + 1))
                    output += [bound.reconstruction, bound.rate, loss]
        actual.append([*output, adam.weights, *adam.moments.values(), *built.parameters()])
    torch.testing.assert_close(actual[1], actual[0], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("objective", ["elbo", "iwae", "beta"])
@pytest.mark.usefixtures("float64")
def test_known_derivatives_are_those_of_torch(objective: str) -> None:
    """Loss and derivatives by every term agree with those that torch derives, for means and sums."""
    for gradient in ("mean", "sum"):
        loss = Loss(train_params(**OBJECTIVES[objective] | {"reduction": gradient}))
        assert loss.has_closed_form
        bound = ELBO(torch.randn(4, 5), torch.randn(3, 4, 5))
        value, (by_reconstruction, by_rate) = loss.gradients(bound, 1.0)
        expected, (wanted_reconstruction, wanted_rate) = loss._autograd_gradients(bound, 1.0)
        torch.testing.assert_close(value, expected)
        torch.testing.assert_close(by_reconstruction.expand(4, 5), wanted_reconstruction)
        torch.testing.assert_close(by_rate.expand(3, 4, 5), wanted_rate)


TRAINED = """
import json, sys
from pathlib import Path
import torch
from pipeline.models import build
from pipeline.training import fit
from tests.small import model_params, splits, train_params

folder, changes = Path(sys.argv[1]), json.loads(sys.argv[2])


def trained(compile, folder=None, epochs=3):
    torch.manual_seed(0)
    torch.compiler.reset()
    model = build(model_params(depth=2), torch.full((16,), 0.5))
    params = train_params(**changes, epochs=3, batch_size=7, compile=compile)
    metrics = [r.metrics for r, _ in zip(fit(model, splits(), params, seed=0, folder=folder), range(epochs))]
    return [metrics, [weights.flatten().tolist() for weights in model.parameters()]]


plain, compiled, _ = trained(False), trained(True), trained(True, folder, 2)
print(json.dumps([plain, compiled, trained(True, folder)]))
"""


@pytest.mark.nightly
@pytest.mark.parametrize("objective", ["clipped", pytest.param("iwae", marks=pytest.mark.nightly)])
def test_a_compiled_training_is_the_plain_one_but_for_rounding(objective: str, tmp_path: Path) -> None:
    """Validation bounds differ by less than 1e-3 nats; resumed after a stop it has the same metrics and weights."""
    words = [sys.executable, "-c", TRAINED, str(tmp_path), json.dumps(OBJECTIVES[objective])]
    done = subprocess.run(words, env=ALONE, capture_output=True, text=True, check=True)
    plain, compiled, resumed = json.loads(done.stdout)
    assert resumed == compiled
    assert compiled != plain
    for one, other in zip(compiled[0], plain[0], strict=True):
        assert one["valid/elbo"] == pytest.approx(other["valid/elbo"], abs=1e-3)


@pytest.mark.nightly
def test_without_a_compiler_one_line_says_so(tmp_path: Path) -> None:
    """Where there is no C++ compiler the stage ends with exit code 2 and a line, and leaves no run open."""
    study = make_study(tmp_path, **{"train.compile": True})
    fetch.run(study)
    prepare.run(study)
    none = {"CXX": str(tmp_path / "none"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache"), "CAVE_WORKERS": "1"}
    words = [sys.executable, "-m", "pipeline.stages", "train", "vae"]
    done = subprocess.run(words, env=ALONE | none, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert re.fullmatch(r"error: train.compile: true given; [^\n]+\n", done.stderr)
    assert rows(tmp_path / "mlflow.db", "select count(*) from runs where status = 'RUNNING'") == [(0,)]


@pytest.mark.parametrize(
    ("model", "train", "form"),
    [
        ({}, {}, CompiledStep),
        ({"parents": "every"}, {"precision": "bfloat16"}, CompiledStep),
        ({}, {"compile": False}, Step),
        ({}, {"ema": 0.9}, Step),
        ({}, {"free_bits": 0.1}, Step),
        ({}, {"objective": "stl"}, Step),
        ({"inference": "top_down"}, {}, Step),
    ],
)
def test_what_cannot_be_one_function_stays_in_pieces(model: dict[str, Any], train: dict[str, Any], form: type) -> None:
    """The form is chosen by the model, the objective and the average of the weights."""
    params = train_params(**{"compile": True} | train)
    built = build(model_params(**model), torch.full((12,), 0.3))
    assert type(make_step(built, Adam(built, params), params)) is form
