"""Models and training states on disk: tensors in safetensors, everything else in JSON; loading runs no code.

A model is a folder with `model.safetensors` (the weights) and `model.json` (format version, `model` parameters,
data set and its digest, and what else the writer adds). A training state is one safetensors file whose
header carries the counters, so that weights and counters can never be of two different moments.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as save_arrays
from safetensors.torch import save
from torch import Tensor

from pipeline.data import Splits, image_shape
from pipeline.errors import InputError
from pipeline.files import read_json, sha256, write_bytes, write_json
from pipeline.models import HierarchicalVAE, build
from pipeline.params import ModelParams

__all__ = ["FORMAT", "load", "read_state", "save_model", "write_state"]

FORMAT = 1
ADDED = {
    "components": 1,
    "blocks": 1,
    "latents": "vectors",
    "parametrization": "plain",
    "levels_per_size": 1,
    "posterior": "gaussian",
    "flow_transforms": 2,
    "flow_hidden": (64,),
    "prior_levels": 8,
    "prior_log_snr": (1.0, -3.0),
    "denoising": "mixture",
    "log_snr": [4.0, -10.0],
    "log_snr_ends": "fixed",
    "log_snr_grid": "log_linear",
}
"""Parameters that models of earlier versions lack, with the values that they were built with."""


def save_model(folder: Path, model: HierarchicalVAE, params: ModelParams, splits: Splits, **about: Any) -> str:
    """Write a model into `folder`; `about` goes into `model.json` beside what loading needs.

    Return the sha256 of `model.safetensors`, by which weights are compared.
    """
    weights = save({name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()})
    write_bytes(folder / "model.safetensors", weights)
    description: dict[str, Any] = {
        "format": FORMAT,
        "model": params.model_dump(),
        "units": splits.train.shape[1],
        "data": {
            "name": splits.name,
            "protocol": splits.protocol,
            "digest": splits.digest,
            "shape": splits.array_shape,
        },
    }
    if splits.dequantized:
        description["data"]["dequantized_levels"] = splits.scale + 1
    write_json(folder / "model.json", description | about)
    return sha256([weights])


def load(path: str | Path) -> HierarchicalVAE:
    """Return the model in folder `path`, on the CPU, in evaluation mode.

    Raises:
        InputError: a file is missing or damaged, or of another format than this version's.
    """
    folder = Path(path)
    description = read_json(folder / "model.json")
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        version = description.get("format") if isinstance(description, dict) else description
        raise InputError(f"{folder / 'model.json'}: format {version!r} given; allowed: {FORMAT}")
    try:
        params = ModelParams.model_validate_json(json.dumps(ADDED | description["model"]))
        shape = image_shape(description["data"]["shape"])
        weights, _ = read_state(folder / "model.safetensors")
        # First without memory: a description may claim a model of any size.
        with torch.device("meta"):
            claimed = build(params, torch.zeros(description["units"]), shape).state_dict()
        if {name: value.shape for name, value in claimed.items()} != {n: value.shape for n, value in weights.items()}:
            raise ValueError("other names or shapes")
        model = build(params, torch.zeros(description["units"]), shape)
        model.load_state_dict(weights)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        own = "; for a part of one's own, import the module that registers it" if "literal_error" in reason else ""
        raise InputError(f"{folder}: weights and model.json do not fit: {reason}{own}") from None
    return model.eval()


def write_state(path: Path, tensors: Mapping[str, Tensor], counters: Any) -> None:
    """Write tensors and JSON-able counters as one file."""
    # By way of NumPy: the same bytes in a quarter of the time, which is that of a short epoch.
    stored = {name: value.detach().cpu().contiguous().numpy() for name, value in tensors.items()}
    write_bytes(path, save_arrays(stored, {"counters": json.dumps(counters)}))


def read_state(path: Path) -> tuple[dict[str, Tensor], Any]:
    """Read what `write_state` wrote."""
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            return tensors, json.loads((file.metadata() or {}).get("counters", "null"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (SafetensorError, ValueError, RecursionError, OSError) as error:
        raise InputError(f"{path}: not a safetensors file: {error}") from None
