"""When a parameter is used: what must hold of others, and which commands by hand leave it out.

A parameter that is not in `CONDITIONS` is always used; tests compare the table with the numbers that come out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.params.sections import published_binary
from pipeline.params.text import format_value

__all__ = ["CONDITIONS", "is_unused_by", "unused"]


@dataclass(frozen=True)
class Condition:
    """A parameter is used where `holds` is true of the values at the paths `reads`."""

    reads: tuple[str, ...]
    holds: Callable[..., bool]


def _is(path: str, *values: Any) -> Condition:
    return Condition((path,), lambda value: value in values)


def _uses_seed(name: str, binarization: str, grey: bool) -> bool:
    """Return whether splits, binarized pixels or rendered images depend on the seed of the data."""
    split = name in ("digits", "cave", "omniglot", "frey_face", "files")
    return split or (binarization != "none" and not published_binary(name, grey))


def _is_compiled(*values: Any) -> bool:
    """Return whether the training step can be compiled."""
    inference, prior, posterior, network, batch_norm, likelihood, sigma, objective, free_bits, warmup_stagger, ema = (
        values
    )
    model = (inference, prior, posterior, network, batch_norm) == ("bottom_up", "normal", "gaussian", "mlp", False)
    family = likelihood == "bernoulli" or (likelihood == "gaussian" and sigma == "learned")
    return (
        model
        and family
        and objective in ("elbo", "beta", "iwae")
        and not free_bits
        and not warmup_stagger
        and ema is None
    )


RENDERED = _is("data.name", "cave")
OWN = _is("data.name", "files")
SEARCHED = Condition(("sweep.space",), bool)
FLOWS = Condition(("model.prior", "model.posterior"), lambda prior, posterior: prior == "flow" or posterior == "iaf")
DEEP = Condition(("model.depth",), lambda depth: depth != 1)
DIFFUSION = _is("model.inference", "diffusion")
SEVERAL = Condition(("model.depth", "model.prior"), lambda depth, prior: depth != 1 or prior == "diffusion")
CONDITIONS: dict[str, Condition] = {
    "data.binarization": Condition(
        ("data.name", "data.cave.grey"), lambda name, grey: not published_binary(name, grey)
    ),
    "data.seed": Condition(("data.name", "data.binarization", "data.cave.grey"), _uses_seed),
    "data.path": OWN,
    "data.layout": OWN,
    "data.channels": OWN,
    "data.size": OWN,
    "data.fit": OWN,
    "data.labels": OWN,
    "data.fractions": Condition(
        ("data.name", "data.protocol"), lambda name, protocol: name == "files" and protocol != "folders"
    ),
    "data.limit": OWN,
    "data.skip": OWN,
    "data.cave.images": RENDERED,
    "data.cave.size": RENDERED,
    "data.cave.grey": RENDERED,
    "model.z_dim": Condition(
        ("model.widths", "model.inference"), lambda widths, way: widths is None and way != "diffusion"
    ),
    "model.z_ratio": Condition(
        ("model.widths", "model.depth", "model.inference"),
        lambda widths, depth, way: widths is None and depth != 1 and way != "diffusion",
    ),
    "model.denoising": DIFFUSION,
    "model.log_snr": DIFFUSION,
    "model.log_snr_ends": DIFFUSION,
    "model.log_snr_grid": Condition(
        ("model.inference", "model.depth"), lambda way, depth: way == "diffusion" and depth != "continuous"
    ),
    "model.parents": DEEP,
    "model.parametrization": DEEP,
    "model.pseudo_inputs": _is("model.prior", "vamp", "mixture"),
    "model.prior_levels": _is("model.prior", "diffusion"),
    "model.prior_log_snr": _is("model.prior", "diffusion"),
    "model.posterior": _is("model.inference", "bottom_up"),
    "model.flow_transforms": FLOWS,
    "model.flow_hidden": FLOWS,
    "model.sigma": _is("model.likelihood", "gaussian"),
    "model.grey_levels": _is("model.likelihood", "discretized_logistic"),
    "model.blocks": _is("model.network", "resnet", "unet"),
    "model.levels_per_size": Condition(
        ("model.latents", "model.depth"), lambda latents, depth: latents == "maps" and depth != 1
    ),
    "model.batch_norm": _is("model.latents", "vectors"),
    "model.components": _is("model.likelihood", "discretized_logistic"),
    "model.activation": Condition(
        ("model.hidden", "model.inference"), lambda hidden, way: any(hidden[:1] if way == "diffusion" else hidden)
    ),
    "train.beta": _is("train.objective", "beta"),
    "train.warmup": _is("train.objective", "beta"),
    "train.warmup_stagger": Condition(
        ("train.warmup", "model.depth", "model.prior"),
        lambda warmup, depth, prior: warmup > 0 and (depth != 1 or prior == "diffusion"),
    ),
    "train.free_bits": _is("train.objective", "elbo", "beta"),
    "train.epochs": _is("compare.match", "none", "parameters"),
    "train.schedule_epochs": _is("train.schedule", "cosine", "staged"),
    "train.compile": Condition(
        (
            "model.parametrization",
            "model.depth",
            "model.inference",
            "model.prior",
            "model.posterior",
            "model.network",
            "model.batch_norm",
            "model.likelihood",
            "model.sigma",
            "train.objective",
            "train.free_bits",
            "train.warmup_stagger",
            "train.ema",
        ),
        lambda form, depth, *others: (form == "plain" or depth == 1) and _is_compiled(*others),
    ),
    "train.milestones": Condition(("train.milestones", "train.epochs"), lambda at, epochs: not at or at[0] <= epochs),
    "train.valid_draws": _is("train.objective", "elbo", "beta", "stl"),
    "sweep.metric": SEARCHED,
    "sweep.searches": SEARCHED,
    "sweep.trials": Condition(
        ("sweep.space", "sweep.sampler"), lambda space, sampler: bool(space) and sampler != "grid"
    ),
    "sweep.epochs": SEARCHED,
    "sweep.sampler": SEARCHED,
    "sweep.pruner": SEARCHED,
    "sweep.startup_trials": Condition(
        ("sweep.space", "sweep.sampler", "sweep.pruner"),
        lambda space, sampler, pruner: bool(space) and (sampler == "tpe" or pruner != "none"),
    ),
    "sweep.max_failures": SEARCHED,
    "sweep.seed": SEARCHED,
    "compare.parameters": _is("compare.match", "parameters"),
    "compare.seconds": _is("compare.match", "time"),
    "evaluate.levels": DIFFUSION,
    "evaluate.decompose.inner_draws": SEVERAL,
    "evaluate.decompose.path_draws": SEVERAL,
    "evaluate.decompose.pair_queries": Condition(
        ("model.depth", "model.inference", "model.parents"),
        lambda depth, way, parents: depth != 1 and (way, parents) != ("bottom_up", "nearest"),
    ),
    "evaluate.decompose.factor_images": RENDERED,
    "evaluate.decompose.factor_draws": RENDERED,
}
UNUSED_BY = {  # by command by hand, or stage: the first parts of paths
    "train": ("sweep",),
    "sweep": ("evaluate", "report", "train.epochs", "train.seeds", "train.milestones", "compare.seconds"),
    "evaluate": ("data", "model", "train", "sweep", "compare"),
}


def is_unused_by(path: str, command: str) -> bool:
    """Return whether `cave train`, `cave sweep` or the stage `evaluate` does not use a parameter."""
    return any(path == start or path.startswith(f"{start}.") for start in UNUSED_BY.get(command, ()))


def unused(path: str, values: Mapping[str, Any], searched: Mapping[str, Any]) -> str:
    """Return why a parameter is not used at these values of all parameters; nothing where it is.

    `searched` has the paths that trials draw: what depends on one of them may be used.
    """
    condition = CONDITIONS.get(path)
    if condition is None or set(condition.reads) & set(searched):
        return ""
    values_read = [values.get(read) for read in condition.reads]
    if condition.holds(*values_read):
        return ""
    return ", ".join(
        f"{read} is {format_value(value)}" for read, value in zip(condition.reads, values_read, strict=True)
    )
