"""When a parameter is used: the table holds every parameter, and says the same as the numbers that come out."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.evaluation.decompose import decompose
from pipeline.models import build
from pipeline.params import Params
from pipeline.params.usage import CONDITIONS, UNUSED_BY, unused
from pipeline.training import fit, milestones
from pipeline.training.compiled import CompiledStep
from tests.small import MODEL, ROOT, TRAIN, model_params, splits, train_params
from tests.workshop import DECOMPOSE, QUICK

FLAT = Params.read(ROOT / "params.yaml").flat()
ALWAYS = {
    "data": "name protocol dequantization",
    "model": "depth widths inference prior likelihood network latents hidden",
    "train": "objective draws batch_size learning_rate schedule adam_beta1 adam_beta2 adam_eps"
    " adam_initial_second_moment reduction clip precision shuffle ema patience keep seeds",
    "sweep": "space",
    "compare": "match",
    "evaluate": "draws k active_draws active_threshold milestone_draws precision outliers seed",
    "evaluate.decompose": "level_images level_draws simulated queries aggregate gap_images gap_steps gap_draws"
    " gap_learning_rate ais_images ais_chains ais_temperatures ais_leapfrog_steps",
    "report": "confidence images published",
}


def test_every_parameter_is_always_used_or_has_a_condition() -> None:
    """No parameter is missing: a new one is put among those that are always used, or gets its condition."""
    always = {f"{section}.{name}" for section, names in ALWAYS.items() for name in names.split()}
    assert not always & set(CONDITIONS)
    assert always | set(CONDITIONS) == set(FLAT)


def test_conditions_read_parameters() -> None:
    """Whatever a condition reads, and whatever a command leaves out, is a parameter or a section."""
    assert {read for condition in CONDITIONS.values() for read in condition.reads} <= set(FLAT)
    starts = {start for some in UNUSED_BY.values() for start in some}
    assert starts <= set(FLAT) | {path.split(".")[0] for path in FLAT}


BETA = {"objective": "beta", "warmup": 3}
NUMBERS: list[tuple[str, tuple[Any, Any], dict[str, Any], bool]] = [
    # path, two values of it, what is set beside it, whether it is used then
    ("model.z_dim", (4, 6), {}, True),
    ("model.z_dim", (4, 6), {"widths": (3, 2)}, False),
    ("model.z_ratio", (0.5, 1.0), {}, True),
    ("model.z_ratio", (0.5, 1.0), {"widths": (3, 2)}, False),
    ("model.z_ratio", (0.5, 1.0), {"depth": 1}, False),
    ("model.parents", ("nearest", "every"), {}, True),
    ("model.parents", ("nearest", "every"), {"depth": 1}, False),
    ("model.parents", ("nearest", "every"), {"depth": 1, "inference": "top_down"}, False),
    ("model.parents", ("nearest", "every"), {"inference": "top_down"}, True),
    ("model.parametrization", ("plain", "residual"), {}, True),
    ("model.parametrization", ("plain", "residual"), {"inference": "top_down", "parents": "every"}, True),
    ("model.parametrization", ("plain", "residual"), {"depth": 1}, False),
    ("model.pseudo_inputs", (3, 5), {}, False),
    ("model.pseudo_inputs", (3, 5), {"prior": "mixture"}, True),
    ("model.pseudo_inputs", (3, 5), {"prior": "vamp"}, True),
    ("model.prior_levels", (1, 2), {"prior": "diffusion"}, True),
    ("model.prior_levels", (1, 2), {"prior": "flow"}, False),
    ("model.prior_log_snr", ((3.0, -3.0), (5.0, -3.0)), {"prior": "diffusion"}, True),
    ("model.posterior", ("gaussian", "full"), {}, True),
    ("model.flow_transforms", (1, 2), {"prior": "flow"}, True),
    ("model.flow_transforms", (1, 2), {"posterior": "iaf"}, True),
    ("model.flow_transforms", (1, 2), {"prior": "vamp", "posterior": "full"}, False),
    ("model.flow_hidden", ((3,), (5,)), {"prior": "flow"}, True),
    ("model.flow_hidden", ((3,), (5,)), {}, False),
    ("model.sigma", ("learned", 0.5), {"likelihood": "gaussian"}, True),
    ("model.sigma", ("learned", 0.5), {"likelihood": "continuous_bernoulli"}, False),
    ("model.grey_levels", (17, 256), {"likelihood": "discretized_logistic"}, True),
    ("model.grey_levels", (17, 256), {"likelihood": "gaussian"}, False),
    ("model.components", (1, 2), {"likelihood": "discretized_logistic"}, True),
    ("model.components", (1, 2), {"likelihood": "gaussian"}, False),
    ("model.blocks", (1, 2), {"network": "resnet", "hidden": ((3,),)}, True),
    ("model.blocks", (1, 2), {"network": "conv", "hidden": ((3,),)}, False),
    ("model.levels_per_size", (1, 2), {"network": "resnet", "latents": "maps", "hidden": ((3,),)}, True),
    ("model.levels_per_size", (1, 2), {"network": "resnet", "latents": "maps", "hidden": ((3,),), "depth": 1}, False),
    ("model.levels_per_size", (1, 2), {"hidden": ((3,), (5,))}, False),
    ("model.batch_norm", (False, True), {}, True),
    ("model.batch_norm", (False, True), {"network": "resnet", "latents": "maps", "hidden": ((3,),)}, False),
    ("model.z_dim", (4, 6), {"inference": "diffusion"}, False),
    ("model.z_ratio", (0.5, 1.0), {"inference": "diffusion"}, False),
    ("model.denoising", ("fixed", "mixture"), {"inference": "diffusion", "depth": 3}, True),
    ("model.denoising", ("fixed", "mixture"), {}, False),
    ("model.log_snr", ((4.0, -10.0), (3.0, -8.0)), {"inference": "diffusion"}, True),
    ("model.log_snr", ((4.0, -10.0), (3.0, -8.0)), {}, False),
    ("model.log_snr_ends", ("fixed", "learned"), {"inference": "diffusion"}, True),
    ("model.log_snr_ends", ("fixed", "learned"), {}, False),
    ("model.log_snr_grid", ("log_linear", "optimal"), {"inference": "diffusion"}, True),
    ("model.log_snr_grid", ("log_linear", "optimal"), {"inference": "diffusion", "depth": "continuous"}, False),
    ("model.log_snr_grid", ("log_linear", "optimal"), {}, False),
    ("model.blocks", (1, 2), {"inference": "diffusion", "network": "unet", "hidden": ((3,),)}, True),
    ("model.activation", ("tanh", "relu"), {}, True),
    ("model.activation", ("tanh", "relu"), {"hidden": ((),)}, False),
    ("train.beta", (1.0, 2.0), BETA, True),
    ("train.warmup", (1, 3), {"objective": "beta"}, True),
    ("train.warmup_stagger", (0, 1), BETA, True),
    ("train.warmup_stagger", (0, 1), BETA | {"depth": 1}, False),
    ("train.free_bits", (0.0, 1.0), {}, True),
    ("train.schedule_epochs", (None, 9), {"schedule": "cosine"}, True),
    ("train.schedule_epochs", (None, 9), {"schedule": "staged"}, True),
    ("train.schedule_epochs", (None, 9), {}, False),
    ("train.valid_draws", (1, 2), {}, True),
    ("train.valid_draws", (1, 2), {"objective": "stl"}, True),
    ("train.valid_draws", (1, 2), {"objective": "iwae", "draws": 3}, False),
    ("train.valid_draws", (1, 2), {"objective": "dreg", "draws": 3}, False),
]


def numbers(settings: dict[str, Any]) -> list[dict[str, float]]:
    """Return what three epochs give with some settings of model and training."""
    model = {name: value for name, value in settings.items() if name in MODEL}
    train = {name: value for name, value in settings.items() if name in TRAIN}
    data = splits("dynamic" if model.get("likelihood", "bernoulli") == "bernoulli" else "none")
    torch.manual_seed(0)
    built = build(model_params(**model), torch.as_tensor(data.mean, dtype=torch.float32), (1, 4, 4))
    return [record.metrics for record in fit(built, data, train_params(epochs=3, **train), seed=0)]


@pytest.mark.slow
@pytest.mark.parametrize(("path", "values", "beside", "used"), NUMBERS, ids=[f"{row[0]}-{row[2]}" for row in NUMBERS])
def test_the_table_agrees_with_the_numbers(
    path: str, values: tuple[Any, Any], beside: dict[str, Any], used: bool
) -> None:
    """Two values give equal numbers exactly where the table says that the parameter is not used."""
    name = path.split(".")[1]
    one, other = (numbers(beside | {name: value}) for value in values)
    assert (one != other) is used
    model, train = model_params(**{n: v for n, v in beside.items() if n in MODEL}), TRAIN | beside
    flat = {f"model.{n}": v for n, v in dict(model).items()} | {f"train.{n}": v for n, v in train.items()}
    assert (unused(path, flat, {}) == "") is used


@pytest.mark.parametrize("changes", [
    {}, {"inference": "top_down"}, {"prior": "vamp"}, {"network": "conv"}, {"batch_norm": True}, {"network": "resnet"},
    {"likelihood": "gaussian"}, {"likelihood": "gaussian", "sigma": 0.5}, {"likelihood": "continuous_bernoulli"},
    {"likelihood": "discretized_logistic"}, {"objective": "stl"}, {"objective": "iwae"}, {"objective": "dreg"}, BETA,
    {"free_bits": 1.0}, BETA | {"warmup_stagger": 1}, {"ema": 0.9}, {"depth": 1}, {"parents": "every"},
    {"parametrization": "residual"}, {"parametrization": "residual", "depth": 1},
], ids=str)  # fmt: skip
def test_a_step_is_compiled_where_the_table_says_so(changes: dict[str, Any]) -> None:
    """`train.compile` is used for the models and objectives that `CompiledStep` supports."""
    model = model_params(**{name: value for name, value in changes.items() if name in MODEL})
    train = train_params(**{name: value for name, value in changes.items() if name in TRAIN})
    built = build(model, torch.full((16,), 0.5), (1, 4, 4))
    compiled = CompiledStep.supports(built, train)
    flat = {f"model.{n}": v for n, v in dict(model).items()} | {f"train.{n}": v for n, v in dict(train).items()}
    assert (unused("train.compile", flat, {}) == "") is compiled


@pytest.mark.slow
@pytest.mark.parametrize("model", [{"depth": 1}, {}, {"parents": "every"}, {"inference": "top_down"}], ids=str)
def test_decompositions_use_what_the_table_says(model: dict[str, Any]) -> None:
    """Another number of these draws changes a decomposition exactly where the table says that they are used."""
    params, data = Params.read(ROOT / "params.yaml", QUICK | {"evaluate.decompose": DECOMPOSE}).evaluate, splits()
    names = ("inner_draws", "path_draws", "pair_queries")
    settings = params.decompose.model_copy(update=dict.fromkeys(names, 2))
    built = build(model_params(**model), torch.full((16,), 0.5))
    test = torch.as_tensor(data.test)

    def results(**changes: int) -> dict[str, Any]:
        some = settings.model_copy(update=changes)
        return {key: asdict(value) for key, value in decompose(built, test, 255, params, some).estimates.items()}

    flat, before = {f"model.{n}": v for n, v in dict(model_params(**model)).items()}, results()
    for name in names:
        assert (results(**{name: 5}) == before) is bool(unused(f"evaluate.decompose.{name}", flat, {})), name


@pytest.mark.parametrize(("at", "epochs", "used"), [((2,), 3, True), ((4,), 3, False), ((2, 9), 3, True)])
def test_a_milestone_beyond_the_epochs_is_not_reached(
    tmp_path: Path, at: tuple[int, ...], epochs: int, used: bool
) -> None:
    """Weights are kept at milestones that the training comes to, and its milestones are used where there is one."""
    data = splits()
    built = build(model_params(), torch.as_tensor(data.mean, dtype=torch.float32))
    list(fit(built, data, train_params(epochs=epochs, milestones=at), seed=0, folder=tmp_path))
    assert bool(milestones(tmp_path)) is used
    flat = {"train.milestones": at, "train.epochs": epochs}
    assert (unused("train.milestones", flat, {}) == "") is used


def test_what_depends_on_a_searched_path_may_be_used() -> None:
    """Where `model.prior` is searched a trial may need pseudo-inputs; else the reason names the prior."""
    assert unused("model.pseudo_inputs", FLAT, {}) == "model.prior is normal"
    assert unused("model.pseudo_inputs", FLAT, {"model.prior": None}) == ""
    reason = "model.widths is [8, 4], model.depth is 2, model.inference is bottom_up"
    assert unused("model.z_ratio", FLAT | {"model.widths": (8, 4)}, {}) == reason
    assert unused("sweep.startup_trials", FLAT | {"sweep.space": {}}, {}).startswith("sweep.space is {}")
    assert unused("data.seed", FLAT | {"data.name": "mnist", "data.binarization": "none"}, {})
    assert not unused("data.seed", FLAT | {"data.name": "mnist"}, {})
