"""What `cave compare` sets side by side: a run, a study, a variant of one, or a git revision of the default study."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pipeline.cli.run_list import Numbers, Run, measured, read_numbers, runs
from pipeline.errors import InputError
from pipeline.files import read_csv, read_json
from pipeline.jobs.final_models import settings
from pipeline.params import Params, read_yaml
from pipeline.report.search import value_of
from pipeline.run_folders.git import git
from pipeline.study import Study, existing_studies
from pipeline.text import plural

__all__ = ["Side", "find_sides"]


@dataclass(frozen=True)
class Side:
    """A variant as it was trained and measured."""

    label: str
    settings: Mapping[str, Any]  # by dotted path
    protocol: Mapping[str, Any]  # by which it was measured
    numbers: Numbers
    confidence: float


def find_sides(root: Path, word: str) -> dict[str, Side]:
    """Return by variant what a word of the command line stands for.

    Raises:
        InputError: it is no run, study, variant or revision, or it has no results.
    """
    studies = existing_studies(root)
    name, _, variant = word.partition(":")
    for study in studies:
        if study.name == name:
            return _of_study(study, [variant] if variant else list(study.params.variants))
    default = studies[0] if studies else Study.at(root)
    if word in default.params.variants:
        return _of_study(default, [word])
    if re.fullmatch(r"[0-9a-f]{4,32}", word):
        matching = [(study, run) for study in studies for run in runs(study) if run.run.startswith(word)]
        if len(matching) > 1:
            raise InputError(f"{word}: {plural(len(matching), 'run')} begin with it; give more of its letters")
        if matching:
            return _of_run(*matching[0])
    if (commit := git(root, "rev-parse", "--verify", "--quiet", f"{word}^{{commit}}")) is not None:
        return _of_revision(root, word, commit.decode().strip())
    raise InputError(
        f"{word}: no run, study, variant or revision of this name; `cave runs` and `cave study list` show those that"
        " are there"
    )


def _of_study(study: Study, variants: list[str]) -> dict[str, Side]:
    sides = {}
    for variant in variants:
        study.params.variant(variant)
        if numbers := measured(study, variant):
            label = f"study {study.name}, variant {variant}"
            params = settings(study, variant, study.params.train.seeds[0])
            protocol = _protocol(study, variant, params)
            sides[variant] = Side(label, params.flat(), protocol, numbers, study.params.report.confidence)
    if not sides:
        raise InputError(f"study {study.name} has no test results yet; run `{study.command('report')}`")
    return sides


def _of_run(study: Study, run: Run) -> dict[str, Side]:
    kind = "seed" if run.stage == "train" else "trial"
    label = f"run {run.run[:8]}: {run.variant} {kind} {run.number} of study {study.name}"
    confidence = study.params.report.confidence
    if run.stage == "train":
        numbers = {
            metric: {run.number: values[run.number]}
            for metric, values in measured(study, run.variant).items()
            if run.number in values
        }
        params = settings(study, run.variant, run.number)
        protocol = _protocol(study, run.variant, params)
        return {run.variant: Side(label, params.flat(), protocol, numbers, confidence)}
    row = next(row for row in read_csv(study.sweep(run.variant) / "trials.csv") if row["run_id"] == run.run)
    space = study.params.space(run.variant)
    values = {path: value_of(row[path]) if row.get(path) else None for path in space}
    own = study.params.variant(run.variant).flat() | {"train.epochs": study.params.sweep.epochs} | values
    metrics: Numbers = {key: {0: (float(cell), None)} for key, cell in row.items() if key.startswith("valid/") and cell}
    metrics[run.metric] = {0: (float(row["value"]), None)} if row["value"] else {}
    return {run.variant: Side(label, own, {"measure": study.params.measure}, metrics, confidence)}


def _protocol(study: Study, variant: str, params: Params) -> dict[str, Any]:
    path = study.evaluate(variant) / "decomposition.json"
    content = read_json(path, "protocol")["protocol"] if path.is_file() else {}
    return {**content, "measure": params.measure}


def _of_revision(root: Path, word: str, commit: str) -> dict[str, Side]:
    """Return the default study's results in a commit, from DVC's cache."""
    with TemporaryDirectory() as folder:
        for name in ("params.yaml", "dvc.lock"):
            (Path(folder) / name).write_bytes(git(root, "show", f"{commit}:./{name}") or b"{}")
        try:
            params = Params.read(Path(folder) / "params.yaml")
        except InputError as error:
            raise InputError(f"{word}: settings of another version of the project: {error}") from None
        outs = _outs(read_yaml(Path(folder) / "dvc.lock"))
    sides = {}
    for variant in params.variants:
        results = _cached(root, outs, f"{params.out}/evaluate/{variant}", "decomposition.json")
        if results is None:
            continue
        best = _cached(root, outs, f"{params.out}/sweep/{variant}/best.json", "")
        searches = (best or {}).get("searches") or [{}]
        trial = searches[0].get("params") or {}
        own = params.with_settings(variant, trial, f"{word}:best.json")
        label = f"revision {word}, variant {variant}"
        protocol = {**results.get("protocol", {}), "measure": own.measure}
        sides[variant] = Side(
            label, own.flat(), protocol, read_numbers(results, f"{word}: decomposition.json"), params.report.confidence
        )
    if not sides:
        raise InputError(
            f"{word}: DVC's cache here has no test results of this revision; `dvc fetch --all-commits` brings those"
            " that a remote has"
        )
    return sides


def _outs(lock: Any) -> dict[str, str]:
    """Return by path the hashes of the outputs that a `dvc.lock` names."""
    stages = (lock or {}).get("stages", {})
    return {out["path"]: str(out.get("md5", "")) for stage in stages.values() for out in stage.get("outs", [])}


def _cached(root: Path, outs: Mapping[str, str], path: str, name: str) -> Any:
    """Return the JSON of an output, or of the file `name` in an output that is a folder; None if it is not there."""
    digest = outs.get(str(Path(path)), "")
    if name:
        listing = _object(root, digest)
        digest = next((file["md5"] for file in listing or [] if file["relpath"] == name), "")
    return _object(root, digest)


def _object(root: Path, digest: str) -> Any:
    path = root / ".dvc" / "cache" / "files" / "md5" / digest[:2] / digest[2:]
    return read_json(path) if digest and path.is_file() else None
