"""Rules between the values of a model, and between a model and the data."""

from __future__ import annotations

from typing import Any

from pipeline.errors import InputError
from pipeline.params.sections import MEASURES, MOST_UNITS, PROBABILITY, DataParams, ModelParams, TrainParams
from pipeline.params.text import format_value

__all__ = ["check_model", "check_objective", "check_outliers"]

MOST_LEVELS = 64  # of a chain that is drawn as a whole


def check_model(model: ModelParams, data: DataParams, where: str = "") -> None:
    """Raise `InputError`, which begins with `where`, if the model does not fit the data or itself."""
    if model.inference == "diffusion":
        _check_diffusion(model, where)
    elif model.network == "unet":
        raise InputError(
            f"{where}model.network: 'unet' given, which only inference diffusion has; allowed: mlp, conv, resnet"
        )
    elif model.depth == "continuous" or model.depth > MOST_LEVELS:
        raise InputError(
            f"{where}model.depth: {model.depth} given with inference {model.inference}; allowed: 1 to {MOST_LEVELS}, or"
            " inference diffusion"
        )
    if model.widths is not None and len(model.widths) != model.depth:
        raise InputError(
            f"{where}model.widths: {len(model.widths)} widths given for model.depth {model.depth};"
            " allowed: null or one width per level"
        )
    if model.likelihood == "bernoulli" and not data.binary:
        raise InputError(
            f"{where}model.likelihood: 'bernoulli' needs binary pixels, but data.binarization is 'none' and"
            f" {data.name} is grey; allowed: data.binarization dynamic or static, or model.likelihood"
            " gaussian, continuous_bernoulli or discretized_logistic"
        )
    if model.likelihood != "bernoulli" and data.binary:
        raise InputError(
            f"{where}model.likelihood: '{model.likelihood}' needs grey pixels, but those of {data.name} are"
            " binary here; allowed: model.likelihood bernoulli, or data.binarization none where the data are grey"
        )
    if data.dequantization == "uniform" and data.binary:
        raise InputError(
            f"{where}data.dequantization: 'uniform' needs grey pixels, but those of {data.name} are binary here;"
            " allowed: none, or data.binarization none where the data are grey"
        )
    if data.dequantization == "uniform" and MEASURES[model.likelihood] == PROBABILITY:
        raise InputError(
            f"{where}data.dequantization: 'uniform' given, but likelihood {model.likelihood} is a probability of"
            " the grey levels themselves; allowed: none, or model.likelihood gaussian or continuous_bernoulli"
        )
    if model.likelihood == "discretized_logistic" and model.grey_levels != data.grey_levels:
        raise InputError(
            f"{where}model.grey_levels: {model.grey_levels} given; allowed: {data.grey_levels}, the grey levels of"
            f" {data.name}"
        )
    if model.sigma != "learned" and model.likelihood != "gaussian":
        raise InputError(
            f"{where}model.sigma: {model.sigma} given, which only likelihood gaussian uses; allowed: learned"
        )
    if model.network != "mlp" and not model.hidden[0]:
        raise InputError(f"{where}model.hidden: network {model.network} needs channels in the first rung")
    if model.latents == "maps" and model.network != "resnet":
        raise InputError(
            f"{where}model.latents: 'maps' given with network {model.network}; allowed: vectors, or network resnet"
        )
    if model.parametrization == "residual" and model.inference not in ("bottom_up", "top_down"):
        raise InputError(
            f"{where}model.parametrization: 'residual' given with inference {model.inference}; allowed: plain, or"
            " inference bottom_up or top_down"
        )
    if model.parametrization == "residual" and model.posterior != "gaussian" and model.depth != 1:
        raise InputError(
            f"{where}model.posterior: '{model.posterior}' given with parametrization residual, whose steps have"
            " independent units; allowed: gaussian, or parametrization plain"
        )
    if model.batch_norm and model.prior == "vamp":
        raise InputError(
            f"{where}model.batch_norm: true given with prior vamp, whose pseudo-inputs would be normalized apart"
            " from the images; allowed: false, or another model.prior"
        )
    _check_flows(model, where)
    _check_prior_diffusion(model, where)
    if model.inference == "top_down" and not all(model.hidden):
        raise InputError(f"{where}model.hidden: inference top_down needs a hidden layer in every rung")


def _check_flows(model: ModelParams, where: str) -> None:
    """Refuse what the posteriors full and iaf and the prior flow do not have."""
    if model.posterior != "gaussian" and model.inference != "bottom_up":
        raise InputError(
            f"{where}model.posterior: '{model.posterior}' given with inference {model.inference}; allowed: gaussian, or"
            " inference bottom_up"
        )
    if model.posterior == "iaf" and model.prior == "vamp":
        raise InputError(
            f"{where}model.posterior: 'iaf' given with prior vamp, which would invert it at each pseudo-input; allowed:"
            " gaussian, full, or another prior"
        )
    for name, used, widths in (
        ("posterior", model.posterior != "gaussian", model.level_widths),
        ("prior", model.prior == "flow", model.level_widths[-1:]),
    ):
        start = f"{where}model.{name}: '{getattr(model, name)}' given with"
        if used and model.latents == "maps":
            raise InputError(f"{start} latents maps; allowed: latents vectors, or another {name}")
        if used and max(widths) > MOST_UNITS:
            raise InputError(f"{start} a level of {max(widths)} units; allowed: at most {MOST_UNITS}")


def _check_prior_diffusion(model: ModelParams, where: str) -> None:
    """Refuse what a chain with a diffusion on top does not have."""
    if model.prior != "diffusion":
        return
    if model.prior_log_snr[0] <= model.prior_log_snr[1]:
        raise InputError(
            f"{where}model.prior_log_snr: {list(model.prior_log_snr)} given; allowed: a larger and a smaller one"
        )
    for name, value in (("inference", "top_down"), ("parents", "every"), ("latents", "maps")):
        if getattr(model, name) == value:
            raise InputError(
                f"{where}model.prior: 'diffusion' given with {name} {value}; allowed: another prior, or {name}"
                f" {'bottom_up' if name == 'inference' else 'nearest' if name == 'parents' else 'vectors'}"
            )


def _check_diffusion(model: ModelParams, where: str) -> None:
    """Raise `InputError` for what a diffusion does not have."""
    allowed: dict[str, tuple[Any, ...]] = {
        "widths": (None,),
        "parents": ("nearest",),
        "parametrization": ("plain",),
        "prior": ("normal",),
        "posterior": ("gaussian",),
        "likelihood": ("bernoulli", "discretized_logistic"),
        "network": ("mlp", "unet"),
        "latents": ("vectors",),
        "batch_norm": (False,),
    }
    for name, values in allowed.items():
        if (value := getattr(model, name)) not in values:
            raise InputError(
                f"{where}model.{name}: {format_value(value)} given with inference diffusion; allowed:"
                f" {' or '.join(map(format_value, values))}"
            )
    if model.log_snr_grid == "optimal" and model.depth != "continuous" and model.depth > MOST_LEVELS:
        raise InputError(
            f"{where}model.log_snr_grid: optimal given with model.depth {model.depth}; allowed: log_linear, or at most"
            f" {MOST_LEVELS} levels"
        )
    if model.log_snr[0] <= model.log_snr[1]:
        raise InputError(
            f"{where}model.log_snr: {format_value(model.log_snr)} given; allowed: a larger and a smaller one"
        )


def check_objective(model: ModelParams, train: TrainParams, where: str = "") -> None:
    """Raise `InputError`, which begins with `where`, if the objective does not fit the model."""
    negative = model.prior == "diffusion" or (
        model.parametrization == "residual" and model.inference == "bottom_up" and model.depth != 1
    )
    if train.free_bits and negative:
        what = "prior diffusion" if model.prior == "diffusion" else "parametrization residual and inference bottom_up"
        raise InputError(
            f"{where}train.free_bits: {train.free_bits:g} given with {what}, where lower levels have negative rates"
            " that upper ones pay for; allowed: 0"
        )
    if model.inference != "diffusion":
        return
    whole = train.objective == "iwae" and model.depth != "continuous" and model.depth <= MOST_LEVELS
    if train.objective not in ("elbo", "beta") and not whole:
        raise InputError(
            f"{where}train.objective: '{train.objective}' given with inference diffusion and model.depth {model.depth};"
            f" allowed: elbo or beta, and with at most {MOST_LEVELS} levels iwae"
        )
    for name in ("free_bits", "warmup_stagger"):
        if value := getattr(train, name):
            raise InputError(
                f"{where}train.{name}: {value:g} given with inference diffusion, of which a level is drawn; allowed: 0"
            )


def check_outliers(outliers: DataParams | None, data: DataParams) -> None:
    """Raise `InputError` if the outliers are the study's own data, or have other pixels."""
    if outliers is None:
        return
    if outliers.name == data.name:
        raise InputError(
            f"evaluate.outliers.data: '{outliers.name}' given, which is data.name; allowed: shuffled or another set"
        )
    if (outliers.binary, outliers.grey_levels) != (data.binary, data.grey_levels):
        kinds = [f"{each.grey_levels} grey levels" for each in (outliers, data)]
        raise InputError(
            f"evaluate.outliers.data: '{outliers.name}' has {kinds[0]} here, {data.name} has {kinds[1]}; allowed:"
            " shuffled or a data set of as many"
        )
