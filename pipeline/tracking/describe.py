"""What MLflow gets of a run at its beginning: tags, parameters, data, and what leads to its numbers again."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import processes
from pipeline.colours import variant_colour
from pipeline.data import Splits
from pipeline.environment import Resources
from pipeline.params import digest
from pipeline.redaction import redacted
from pipeline.run_folders import PATCH, SPEC, RunSpec, provenance
from pipeline.study import Study
from pipeline.text import by_level
from pipeline.tracking.server import NOTE

__all__ = ["as_param", "describe"]


@dataclass(frozen=True)
class Description:
    """What is known of a run before its first epoch."""

    tags: dict[str, str]  # with those of its origin
    origin: dict[str, str]  # what its numbers depend on beside parameters, as it is in this process
    params: dict[str, str]
    dataset: dict[str, str]
    files: dict[str, bytes | Path]  # by artifact


def describe(
    study: Study,
    spec: RunSpec,
    splits: Splits,
    about: str,
    inputs: Sequence[Path],
    parent: str | None,
    resources: Resources,
) -> Description:
    """Return what is known of a run; `about` is its description, `inputs` the DVC outs whose hashes become tags."""
    code = provenance.code(study.root)
    machine = provenance.machine(processes.device(resources.device))
    origin = code.tags | machine | {"data_digest": splits.digest}
    tags = _tags(study, spec, splits, about, inputs, parent) | origin
    searched = study.params.space(spec.variant) if spec.stage == "sweep" else {}  # which it is to find
    return Description(
        tags={tag: redacted(value) for tag, value in tags.items()},
        origin=origin,
        params={path: as_param(value) for path, value in spec.flat.items() if path not in searched},
        dataset=_dataset(splits),
        files=_files(study, spec, splits, code),
    )


def as_param(value: Any) -> str:
    """Write a parameter's value as MLflow gets it."""
    return value if isinstance(value, str) else json.dumps(value)


def _tags(
    study: Study, spec: RunSpec, splits: Splits, about: str, inputs: Sequence[Path], parent: str | None
) -> dict[str, str]:
    widths = spec.params.model.level_units(splits.shape)
    tags = {
        "stage": spec.stage,
        "study": study.name,
        "variant": spec.variant,
        "depth": str(spec.params.model.depth),
        "latent_dim": str(sum(widths)),
        "widths": by_level(widths, "-"),
        "seed": str(spec.seed),
        "params_digest": digest(spec.flat),
        NOTE: about,
        "mlflow.source.name": f"cave: {spec.stage} {spec.variant}",
        "mlflow.source.type": "LOCAL",
        "mlflow.runColor": variant_colour(spec.variant, study.params.variants),
        **provenance.dvc_hashes(study.folder, *inputs),
    }
    return tags if parent is None else tags | {"mlflow.parentRunId": parent}


def _files(study: Study, spec: RunSpec, splits: Splits, code: provenance.Code) -> dict[str, bytes | Path]:
    """Return what leads to the same numbers again: of a trial, less than of other runs."""
    out = {"study": study.name, "out": os.path.relpath(study.out, study.root)}
    content = spec.describe(splits.digest, code.commit) | out
    files: dict[str, bytes | Path] = {SPEC: (json.dumps(content, indent=1, default=list) + "\n").encode()}
    if code.patch:
        files[PATCH] = code.patch
    if spec.stage != "trial":
        named = {name: study.folder / name for name in ("params.yaml", "dvc.yaml", "dvc.lock")}
        files |= {f"provenance/{name}": path for name, path in named.items() if path.is_file()}
    return files


def _dataset(splits: Splits) -> dict[str, str]:
    counts = {name: len(getattr(splits, name)) for name in ("train", "valid", "test")}
    profile = {
        "images": counts,
        "shape": splits.array_shape,
        "protocol": splits.protocol,
        "binarization": splits.binarization,
    }
    return {
        "name": splits.name,
        "digest": splits.digest[:36],
        "source_type": "local",
        "source": json.dumps({"stage": "prepare"}),
        "profile": json.dumps(profile),
    }
