"""The search space: what it can draw is checked for every variant before anything runs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import InputError
from pipeline.files import write_json
from pipeline.jobs import final_models as stage
from pipeline.params import Choices, Params, Range
from tests.small import ROOT
from tests.workshop import make_study

GREY = {"data.binarization": "none", "model.likelihood": "gaussian"}


def refused(space: dict[str, Any], **overrides: Any) -> str:
    """Return the line that refuses a space."""
    with pytest.raises(InputError) as error:
        Params.read(ROOT / "params.yaml", {"sweep.space": space, **overrides})
    message = str(error.value)
    assert "\n" not in message
    return message


REFUSED: list[tuple[dict[str, Any], dict[str, Any], list[str]]] = [
    # space, what is set beside it, what the line says
    (
        {"model.likelihood": {"choices": ["bernoulli", "continuous_bernoulli"]}},
        {},
        ["sweep.space.model.likelihood: ", "bernoulli is a probability", "continuous_bernoulli is a density of pixels"],
    ),
    (
        {"model.likelihood": {"choices": ["gaussian", "discretized_logistic"]}},
        GREY | {"model.grey_levels": 17},
        ["sweep.space.model.likelihood: ", "gaussian is a density", "discretized_logistic is a probability"],
    ),
    (
        {"model.prior": {"choices": ["normal", "vamp"]}, "model.batch_norm": {"choices": [True, False]}},
        {},
        ["variant 'vae' can draw model.prior=vamp, model.batch_norm=True", "with prior vamp"],
    ),
    (
        {"model.prior": {"choices": ["normal", "vamp"]}},
        {"variants": {"a": {}, "b": {"model.batch_norm": True}}},
        ["variant 'b' can draw model.prior=vamp: ", "with prior vamp"],
    ),
    (
        {"train.objective": {"choices": ["beta", "iwae"]}},
        {"train.objective": "beta", "train.warmup": 3},
        ["variant 'vae' can draw train.objective=iwae: ", "weigh nothing in objective 'iwae'"],
    ),
    (
        {"train.warmup": {"low": 0, "high": 5}, "train.warmup_stagger": {"low": 0, "high": 2}},
        {"train.objective": "beta"},
        ["can draw train.warmup_stagger=2: ", "delays a warmup, and there is none"],
    ),
    ({"model.depth": {"low": 2, "high": 4, "step": 0.5}}, {}, ["model.depth: 2.0 given; allowed: integer, for low,"]),
    ({"model.depth": {"low": 1.5, "high": 4}}, {}, ["model.depth: 1.5 given; allowed: integer"]),
    ({"model.depth": {"low": 1, "high": 1.5}}, {}, ["model.depth: 1.0 given; allowed: integer"]),
    ({"model.batch_norm": {"low": 0, "high": 1}}, {}, ["model.batch_norm: 0 given; allowed: boolean"]),
    ({"model.batch_norm": {"low": 0.0, "high": 1.0}}, {}, ["model.batch_norm: 0.0 given; allowed: boolean"]),
    ({"model.prior": {"low": 0, "high": 1}}, {}, ["model.prior: 0 given; allowed: normal, vamp, mixture"]),
    ({"model.z_dim": {"choices": [16, 8, 16]}}, {}, ["model.z_dim: choices must differ, not [16, 8, 16]"]),
    ({"model.z_ratio": {"choices": [0.5, 1, 1.0]}}, {}, ["choices must differ, not [0.5, 1, 1.0]"]),
    ({"model.batch_norm": {"choices": [True, 1]}}, {}, ["choices must differ, not [True, 1]"]),
    ({"model.z_dim": {"low": 4, "high": 8}}, {}, ["sweep.space.model.z_dim: 4..8 given, but model.z_dim is 16"]),
    ({"model.z_dim": {"low": 4, "high": 32, "step": 8}}, {}, ["4..32, step 8 given, but model.z_dim is 16"]),
    ({"model.activation": {"choices": ["relu", "elu"]}}, {}, ["relu | elu given, but model.activation is tanh"]),
    ({"train.clip": {"low": 1.0, "high": 9.0}}, {"train.clip": None}, ["1.0..9.0 given, but train.clip is None"]),
    ({"train.free_bits": {"low": 0, "high": 2}}, {"train.free_bits": 0.5}, ["but train.free_bits is 0.5"]),
    ({"train.keep": {"choices": ["best", "last"]}}, {}, ["sweep.space.train.keep: only paths in model and train"]),
    ({"train.valid_draws": {"low": 1, "high": 8}}, {}, ["sweep.space.train.valid_draws: only paths in"]),
]


@pytest.mark.parametrize(("space", "beside", "words"), REFUSED, ids=[str(row[0])[:80] for row in REFUSED])
def test_what_a_space_can_draw_is_checked(space: dict[str, Any], beside: dict[str, Any], words: list[str]) -> None:
    """What `--set` would refuse in a trial, the space is refused for: variant, combination and rule in one line."""
    message = refused(space, **beside)
    assert message.startswith(("sweep.space", "--set: sweep.space"))
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("space", "beside"),
    [
        ({"model.likelihood": {"choices": ["gaussian", "continuous_bernoulli"]}}, GREY),
        ({"model.prior": {"choices": ["normal", "mixture"]}, "model.batch_norm": {"choices": [True, False]}}, {}),
        ({"model.z_dim": {"low": 4, "high": 32, "step": 4}, "model.z_ratio": {"low": 0.25, "high": 1}}, {}),
        ({"train.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}}, {}),
        ({"train.warmup": {"low": 0, "high": 5}}, {"variants": {"a": {"train.objective": "beta"}}}),
        ({"model.depth": {"low": 2, "high": 2}}, {}),
        ({}, {}),
    ],
)
def test_a_space_of_settings_that_go_together_is_taken(space: dict[str, Any], beside: dict[str, Any]) -> None:
    """Nothing sound is refused: neither a step that the file's value is on nor what a variant makes possible."""
    assert set(Params.read(ROOT / "params.yaml", {"sweep.space": space, **beside}).sweep.space) == set(space)


def test_what_no_variant_searches_need_not_hold_the_own_value() -> None:
    """A path that every variant fixes is searched by none, and its own value may lie anywhere."""
    params = Params.read(
        ROOT / "params.yaml",
        {"sweep.space": {"model.depth": {"low": 3, "high": 4}}, "variants": {"a": {"model.depth": 1}}},
    )
    assert params.space("a") == {}


def test_every_product_is_checked_where_there_are_few() -> None:
    """A combination of three that alone breaks a rule is found among 3 x 3 x 3."""
    params = Params.read(ROOT / "params.yaml", {"train.objective": "beta", "variants": {"a": {}}})
    space: dict[str, Any] = {
        "train.objective": Choices(choices=("beta", "elbo")),
        "train.beta": Range(low=0.5, high=1.0),
        "train.warmup": Range(low=0, high=3),
    }
    changed = params.model_copy(update={"sweep": params.sweep.model_copy(update={"space": space})})
    with pytest.raises(InputError, match=r"variant 'a' can draw train.objective=elbo, train\.\w+=\S+: train: beta"):
        changed.check()


def test_a_space_of_very_many_combinations_is_checked_fast() -> None:
    """Five paths of a hundred choices each are checked alone and, up to a number, in pairs."""
    hundred = {"choices": [float(n) for n in range(1, 101)]}
    paths = ["learning_rate", "clip", "adam_eps", "adam_initial_second_moment"]
    space = {f"train.{path}": hundred for path in paths} | {"train.draws": {"choices": list(range(1, 101))}}
    start = time.process_time()
    Params.read(ROOT / "params.yaml", {"sweep.space": space} | {f"train.{path}": 1.0 for path in paths})
    assert time.process_time() - start < 5


# --- A trial's settings, and those of best.json


def test_settings_are_checked_with_the_variants_own() -> None:
    """A trial's settings are taken with the variant's values in place, or refused in a line with their source."""
    params = Params.read(ROOT / "params.yaml", {"variants": {"a": {"model.batch_norm": True}}})
    assert params.with_settings("a", {"model.prior": "mixture"}, "trial 3").model.batch_norm
    with pytest.raises(InputError, match=r"^trial 3: model\.batch_norm: true given with prior vamp"):
        params.with_settings("a", {"model.prior": "vamp"}, "trial 3")


BEST: list[tuple[dict[str, Any], str]] = [
    ({"params": {"model.prior": "vamp", "model.batch_norm": True}}, "true given with prior vamp"),
    ({"params": {"model.likelihood": "gaussian"}}, "'gaussian' needs grey pixels"),
    (
        {"params": {}, "measure": "density of pixels scaled to [0, 1]"},
        "trials were compared by a density of",
    ),
]


@pytest.mark.parametrize(("content", "words"), BEST)
def test_a_best_json_of_settings_that_do_not_go_together_is_refused(
    tmp_path: Path, content: dict[str, Any], words: str
) -> None:
    """The training of a variant stops in one line that names best.json and the rule."""
    study = make_study(tmp_path)
    write_json(study.sweep("mhvae") / "best.json", {"trial": 0, **content})
    with pytest.raises(InputError) as error:
        stage.settings(study, "mhvae", 0)
    assert str(error.value).startswith(str(study.sweep("mhvae") / "best.json"))
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_best_json_of_the_same_measure_is_taken(tmp_path: Path) -> None:
    """Settings that go together, compared by the likelihood's own measure, are those of the training."""
    study = make_study(tmp_path)
    best = {"trial": 0, "params": {"model.depth": 3}, "measure": "probability"}
    write_json(study.sweep("mhvae") / "best.json", best)
    assert stage.settings(study, "mhvae", 0).model.depth == 3
