"""Final models that DVC has removed although they would come out the same, brought back from its cache.

Before DVC runs a stage again it removes the outputs, and it does so after any change of a file that the stage depends
on: also of a comment, a docstring or the description of a parameter, and of the list of seeds. Models that were trained
with the present settings, data and code are copied from DVC's cache, where `dvc.lock` leads to them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from pipeline import data
from pipeline.files import write_bytes
from pipeline.jobs.final_models import state_digest
from pipeline.run_folders.provenance import dvc_hashes
from pipeline.run_folders.source import code_digest
from pipeline.searches import settings
from pipeline.study import Study
from pipeline.training.matching import match_weights

__all__ = ["restore_models", "stage_digest"]

CACHE = Path(".dvc") / "cache" / "files" / "md5"


def stage_digest() -> str:
    """Return the digest of all code that the files of a final model depend on."""
    return code_digest("pipeline.stages.train")


def restore_models(study: Study, variant: str) -> list[int]:
    """Copy models of the present settings, data and code from DVC's cache to where they are missing.

    Returns the seeds of the models that were copied. Where epochs are as many as fit into a time (`compare.match`),
    either all models of the variant are copied or none, since a new training is timed anew.

    Raises:
        InputError: the data or the settings cannot be read, or a file cannot be written.
    """
    cached = _cached_files(study, variant)
    missing = [seed for seed in study.params.train.seeds if not (study.train(variant) / f"seed-{seed}").exists()]
    same = [seed for seed in missing if _is_same(study, variant, seed, cached)]
    files = {seed: [path for path in cached if path.startswith(f"seed-{seed}/")] for seed in same}
    whole = [seed for seed, paths in files.items() if all(_read(cached[path]) is not None for path in paths)]
    if study.params.compare.match == "time" and len(whole) < len(study.params.train.seeds):
        return []
    for seed in whole:
        # The file that names the run comes last: it stands for a complete model.
        for path in sorted(files[seed], key=lambda path: path.endswith("mlflow.json")):
            write_bytes(study.train(variant) / path, _read(cached[path]) or b"")
        print(f"{variant} seed {seed}: the model in DVC's cache has the same settings, data and code", flush=True)
    return whole


def _cached_files(study: Study, variant: str) -> Mapping[str, Path]:
    """Return where DVC's cache has each file of the variant's models, by its path in their folder; none, no files."""
    digest = dvc_hashes(study.folder, study.train(variant)).get(f"dvc/{variant}", "")
    cache = study.shared_root / CACHE
    try:
        entries = json.loads(_read(cache / digest[:2] / digest[2:]) or b"[]")
        files = {str(entry["relpath"]): str(entry["md5"]) for entry in entries}
    except (KeyError, TypeError, ValueError):
        return {}
    return {path: cache / md5[:2] / md5[2:] for path, md5 in files.items() if ".." not in Path(path).parts}


def _is_same(study: Study, variant: str, seed: int, cached: Mapping[str, Path]) -> bool:
    """Return whether the cached model of a seed was trained with the present settings, data and code."""
    source = cached.get(f"seed-{seed}/mlflow.json")
    try:
        named = json.loads((source and _read(source)) or b"{}")
        key, code = str(named["key"]), named["code"]
    except (KeyError, TypeError, ValueError):
        return False
    splits = data.load(study.data)
    state = state_digest(match_weights(settings(study, variant, seed), splits), splits)
    libraries = all(named.get(f"version/{name}") == version(name) for name in ("torch", "numpy"))
    return libraries and key.endswith(f"/{state}") and code == stage_digest()


def _read(path: Path) -> bytes | None:
    """Return the content of a file in DVC's cache, None where it is missing or is not what its name says."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    name = (path.parent.name + path.name).removesuffix(".dir")
    return content if hashlib.md5(content, usedforsecurity=False).hexdigest() == name else None
