"""What `cave compare` sets side by side: a run, a study, a variant of one, or a study as a git revision has it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from posixpath import normpath
from tempfile import TemporaryDirectory
from typing import Any

from pipeline.cli.run_list import Run, runs
from pipeline.errors import InputError
from pipeline.evaluations import Evaluation, Numbers, changed_settings, retrained, retrained_line
from pipeline.files import read_csv, read_json
from pipeline.params import Params, measure_of, read_yaml
from pipeline.report.search import value_of
from pipeline.run_folders.git import git
from pipeline.searches import settings
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
    tables: tuple[Path, ...] = ()  # the values of all test images, a Parquet file a seed
    note: str = ""  # what has changed since


def find_sides(root: Path, word: str, left_out: list[str]) -> dict[str, Side]:
    """Return by variant what a word of the command line stands for.

    Lines on variants of which models were trained again since their evaluation are added to `left_out`.

    Raises:
        InputError: it is no run, study, variant or revision, or it has no results.
    """
    studies = existing_studies(root)
    name, _, variant = word.partition(":")
    for study in studies:
        if name == study.name or {(root / name).resolve(), Path(name).resolve()} & {study.folder, study.out}:
            return _of_study(study, [variant] if variant else list(study.params.variants), left_out)
    default = studies[0] if studies else Study.at(root)
    if word in default.params.variants:
        return _of_study(default, [word], left_out)
    if re.fullmatch(r"[0-9a-f]{4,32}", word):
        matching = [(study, run) for study in studies for run in runs(study) if run.run.startswith(word)]
        if len(matching) > 1:
            raise InputError(f"{word}: {plural(len(matching), 'run')} begin with it; give more of its letters")
        if matching:
            return _of_run(*matching[0])
    revision, _, folder = word.partition(":")
    if (commit := git(root, "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}")) is not None:
        return _of_revision(root, word, commit.decode().strip(), folder)
    for path in (root / name, root / "experiments" / name):
        if name and (path / "params.yaml").is_file():  # of parameters that cannot be read, which is an `InputError`
            study = Study.at(path)
            return _of_study(study, [variant] if variant else list(study.params.variants), left_out)
    raise InputError(
        f"{word}: no run, study, variant or revision of this name; `cave runs` and `cave study list` show those that"
        " are there"
    )


def _of_study(study: Study, variants: list[str], left_out: list[str]) -> dict[str, Side]:
    sides, lines = {}, []
    for variant in variants:
        own = study.params.variant(variant)
        if line := retrained_line(study, variant):
            lines.append(line)
        elif evaluation := Evaluation.of(study, variant):
            first = own.train.seeds[0]
            present = (
                own.flat()
                if evaluation.trainings.get(first, {}).get("settings")
                else settings(study, variant, first).flat()
            )
            actual = {**present, **evaluation.recorded()}
            sides[variant] = Side(
                f"study {study.name}, variant {variant}",
                actual,
                _protocol(evaluation, actual),
                evaluation.numbers,
                own.report.confidence,
                tuple(study.evaluate(variant) / f"seed-{seed}.parquet" for seed in evaluation.seeds),
                changed_settings(study, variant),
            )
    if not sides:
        missing = f"study {study.name} has no test results yet; run `{study.command('report')}`"
        raise InputError(lines[0] if lines else missing)
    left_out += lines
    return sides


def _of_run(study: Study, run: Run) -> dict[str, Side]:
    kind = "seed" if run.stage == "train" else "trial"
    label = f"run {run.run[:8]}: {run.variant} {kind} {run.number} of study {study.name}"
    confidence = study.params.report.confidence
    if run.stage == "train":
        evaluation = Evaluation.of(study, run.variant)
        if run.number in retrained(study, run.variant):
            raise InputError(retrained_line(study, run.variant))
        if evaluation is None:
            raise InputError(f"{label} was not evaluated yet; run `{study.command(f'evaluate@{run.variant}')}`")
        recorded = evaluation.trainings.get(run.number, {}).get("settings")
        present = study.params.variant(run.variant) if recorded else settings(study, run.variant, run.number)
        own = present.flat() | evaluation.recorded(run.number)
        numbers = {
            metric: {run.number: values[run.number]}
            for metric, values in evaluation.numbers.items()
            if run.number in values
        }
        note = changed_settings(study, run.variant, run.number)
        return {run.variant: Side(label, own, _protocol(evaluation, own), numbers, confidence, note=note)}
    row = next(row for row in read_csv(study.sweep(run.variant) / "trials.csv") if row["run_id"] == run.run)
    space = study.params.space(run.variant)
    values = {path: value_of(row[path]) if row.get(path) else None for path in space}
    swept = study.params.variant(run.variant).flat() | {"train.epochs": study.params.sweep.epochs} | values
    metrics: Numbers = {key: {0: (float(cell), None)} for key, cell in row.items() if key.startswith("valid/") and cell}
    metrics[run.metric] = {0: (float(row["value"]), None)} if row["value"] else {}
    return {run.variant: Side(label, swept, {"measure": study.params.measure}, metrics, confidence)}


def _protocol(evaluation: Evaluation, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return how a variant was measured, with what its likelihood gives to an image."""
    measure = measure_of(settings["model.likelihood"], settings["data.dequantization"])
    return {**evaluation.protocol, "measure": measure}


def _of_revision(root: Path, word: str, commit: str, name: str) -> dict[str, Side]:
    """Return a study's results in a commit, from DVC's cache; `name` is the study's, its folder's, or empty.

    A name that the commit has no study of is a variant of the default one.
    """
    folders = [folder for folder in (name, f"experiments/{name}") if name]
    folder = next((f for f in folders if git(root, "cat-file", "-e", f"{commit}:./{f}/params.yaml") is not None), ".")
    with TemporaryDirectory() as temporary:
        for file in ("params.yaml", "dvc.lock"):
            (Path(temporary) / file).write_bytes(git(root, "show", f"{commit}:./{folder}/{file}") or b"{}")
        try:
            params = Params.read(Path(temporary) / "params.yaml")
        except InputError as error:
            raise InputError(f"{word}: settings of another version of the project: {error}") from None
        outs = _outs(read_yaml(Path(temporary) / "dvc.lock"))
    variants = list(params.variants)
    if name and folder == ".":
        params.variant(name)
        variants = [name]
    sides = {}
    for variant in variants:
        files = _files(root, outs, f"{params.out}/evaluate/{variant}")
        if not (source := files.get("decomposition.json")):
            continue
        evaluation = Evaluation.parse(read_json(source), f"{word}: decomposition.json")
        best = _object(root, outs.get(normpath(f"{params.out}/sweep/{variant}/best.json"), ""))
        searches = (read_json(best) if best else {}).get("searches") or [{}]
        own = params.with_settings(variant, searches[0].get("params") or {}, f"{word}:best.json")
        actual = own.flat() | evaluation.recorded()
        tables = [files.get(f"seed-{seed}.parquet") for seed in evaluation.seeds]
        sides[variant] = Side(
            f"revision {word}, variant {variant}",
            actual,
            _protocol(evaluation, actual),
            evaluation.numbers,
            params.report.confidence,
            tuple(table for table in tables if table) if all(tables) else (),
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
    return {
        normpath(out["path"]): str(out.get("md5", "")) for stage in stages.values() for out in stage.get("outs", [])
    }


def _files(root: Path, outs: Mapping[str, str], path: str) -> dict[str, Path]:
    """Return where DVC's cache has each file of an output that is a folder; what it lacks is left out."""
    listing = _object(root, outs.get(normpath(path), ""))
    files = {file["relpath"]: _object(root, file["md5"]) for file in (read_json(listing) if listing else ())}
    return {name: file for name, file in files.items() if file}


def _object(root: Path, digest: str) -> Path | None:
    """Return where DVC's cache has what a hash stands for; None where it has not."""
    path = root / ".dvc" / "cache" / "files" / "md5" / digest[:2] / digest[2:]
    return path if digest and path.is_file() else None
