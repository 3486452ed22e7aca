"""Which runs belong to the present results: the tags `current` and `superseded_by`, derived from the study's files.

`train/*/seed-*/mlflow.json` and `sweep/*/mlflow.json` name the runs of the present results. All other ended runs of
the same stage, variant and seed are earlier ones; so are those of variants and seeds that the study no longer has.
Where a study has no result yet (of a variant, say), nothing is changed. Marking twice changes nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pipeline.addresses import sqlite_file
from pipeline.errors import InputError
from pipeline.searches import entries
from pipeline.study import Study
from pipeline.tracking.connection import tracking_uri
from pipeline.tracking.experiment import update_experiment
from pipeline.tracking.registry import update_registry
from pipeline.tracking.tags import read_tags
from pipeline.tracking.tracker import Tracker

if TYPE_CHECKING:
    from mlflow.entities import Experiment, Run

__all__ = ["mark_current"]

CURRENT, SUPERSEDED = "current", "superseded_by"
PAGE = 1000  # runs in one request

Work = tuple[str, str, str]  # stage, variant, and the seed of a training or the number of a search


def mark_current(study: Study, tracker: Tracker | None = None) -> bool:
    """Bring the runs' tags, and the experiment's description, views and models, up to date with the study's files.

    Returns whether that succeeded; of description, views and models a line alone says where it did not.

    Where MLflow cannot be used, one line says so, and the work goes on. An experiment of DVC in a folder of its own
    (`dvc exp run --temp`) changes nothing: the present results are those of the project itself.
    """
    tracker = tracker or Tracker(study)
    results, store = _results(study), sqlite_file(tracking_uri(study), study.shared_root)
    if not results or study.root != study.shared_root or (store is not None and not store.exists()):
        return True
    done, reason = False, ""
    try:
        with tracker.server.request():
            shown = _mark(study, tracker, results)
            done = True
        if done and shown is not None:
            client, views = tracker.server.client, "the description and the views of its runs"
            update = partial(update_experiment, study, client, shown.experiment, shown.metrics, shown.report)
            register = partial(update_registry, study, client, shown.trainings)
            for part, update_part in ((views, update), ("its models", register)):
                with tracker.server.request():
                    update_part()
                if tracker.server.refusal:
                    line = f"{study.name}: MLflow refuses {part} ({tracker.server.refusal})"
                    print(line, file=sys.stderr, flush=True)
        reason = tracker.server.refusal or f"MLflow at {tracker.server.address} cannot be used"
    except InputError as error:
        reason = str(error)
    if not done:
        line = f"{study.name}: the tag `{CURRENT}` of its runs is not up to date ({reason}); run `cave sync` later"
        print(line, file=sys.stderr, flush=True)
    return done


def _results(study: Study) -> dict[Work, Mapping[str, Any]]:
    """Return what the present results say of their runs; the `run` of work that needed none is null."""
    folders: list[tuple[str, str, Path, int]] = []  # with the number of the first entry
    for variant in study.params.variants:
        folders.append(("sweep", variant, study.sweep(variant), 0))
        for seed in study.params.variant(variant).train.seeds:
            folders.append(("train", variant, study.train(variant) / f"seed-{seed}", seed))
    results: dict[Work, Mapping[str, Any]] = {}
    for stage, variant, folder, first in folders:
        with suppress(InputError):  # it is missing, or damaged, which the stage that reads it reports
            for number, entry in enumerate(entries(folder / "mlflow.json", "run"), start=first):
                results[stage, variant, str(number)] = entry
    return results


class _Present(NamedTuple):
    """What an experiment has of the present results."""

    experiment: Experiment
    metrics: set[str]
    report: str  # the id of the report's run, or nothing
    trainings: dict[tuple[str, str], Run]  # by variant and seed


def _mark(study: Study, tracker: Tracker, results: Mapping[Work, Mapping[str, Any]]) -> _Present | None:
    """Set the tags of all runs."""
    from mlflow.entities import RunTag

    client = tracker.server.client
    experiment = client.get_experiment_by_name(tracker.name)
    if experiment is None or experiment.lifecycle_stage != "active":
        return None
    runs = {str(run.info.run_id): run for run in _runs(client, experiment.experiment_id)}
    by_key: dict[str, str] = {}
    for run_id, run in runs.items():  # the latest first
        by_key.setdefault(read_tags(run.data.tags).get("key", ""), run_id)
    present = {  # the id of each result's run, as far as MLflow has it
        work: named["run"] if named["run"] in runs else by_key.get(str(named.get("key")))
        for work, named in results.items()
    }
    metrics: set[str] = set()
    for run_id, run in runs.items():
        tags = _tags(study, run, present)
        if tags is None:
            continue
        if tags[CURRENT] == "true":
            metrics |= set(run.data.metrics)
        new = [RunTag(key, value) for key, value in tags.items() if run.data.tags.get(key) != value]
        if new:
            client.log_batch(run_id, tags=new)
        if SUPERSEDED in run.data.tags and SUPERSEDED not in tags:
            client.delete_tag(run_id, SUPERSEDED)
    trainings = {work[1:]: runs[run_id] for work, run_id in present.items() if work[0] == "train" and run_id in runs}
    reports = [run_id for run_id, run in runs.items() if run.data.tags.get("stage") == "report"]
    return _Present(experiment, metrics, next(iter(reports), ""), trainings)


def _runs(client: Any, experiment: str) -> Iterator[Run]:
    token = None
    while True:
        page = client.search_runs([experiment], max_results=PAGE, page_token=token)
        yield from page
        if not (token := page.token):
            return


def _tags(study: Study, run: Run, present: Mapping[Work, str | None]) -> dict[str, str] | None:
    """Return the tags that a run should have, or None where that is not known."""
    if run.info.status == "RUNNING":
        return None
    tags, run_id = run.data.tags, str(run.info.run_id)
    stage, variant, seed = (tags.get(name, "") for name in ("stage", "variant", "seed"))
    if stage not in ("sweep", "train", "trial"):
        return None
    if stage == "trial":
        run_id, stage = tags.get("mlflow.parentRunId", ""), "sweep"
    work = (stage, variant, seed if stage == "train" else tags.get("search", "0"))
    if work not in present:
        gone = variant not in study.params.variants or (stage == "sweep" and (stage, variant, "0") in present)
        gone = gone or (stage == "train" and seed not in map(str, study.params.variant(variant).train.seeds))
        return {CURRENT: "false"} if gone else None
    if present[work] == run_id:
        return {CURRENT: "true"}
    by = present[work]
    return {CURRENT: "false"} | ({SUPERSEDED: by} if by is not None else {})
