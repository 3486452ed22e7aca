"""Which runs belong to the present results: the tags `current` and `superseded_by`, derived from the study's files.

`train/*/seed-*/mlflow.json` and `sweep/*/mlflow.json` name the runs of the present results. All other finished runs of
the same stage, variant and seed are earlier ones; so are those of variants and seeds that the study no longer has.
Where a study has no result yet (of a variant, say), nothing is changed. Marking twice changes nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import InputError
from pipeline.searches import entries
from pipeline.study import Study
from pipeline.tracking.tracker import Tracker

if TYPE_CHECKING:
    from mlflow.entities import Run

__all__ = ["CURRENT", "SUPERSEDED", "mark_current"]

CURRENT, SUPERSEDED = "current", "superseded_by"
NOTE = "mlflow.note.content"
PAGE = 1000  # runs in one request

Work = tuple[str, str, str]  # stage, variant, and the seed of a training or the number of a search


@dataclass
class _Results:
    """The runs of the present results, by their ids or else by their keys; None for work that needed no run."""

    runs: dict[Work, Mapping[str, Any]] = field(default_factory=dict)

    @classmethod
    def of(cls, study: Study) -> _Results:
        found = cls()
        for variant in study.params.variants:
            found._add("sweep", variant, study.sweep(variant))
            for seed in study.params.variant(variant).train.seeds:
                found._add("train", variant, study.train(variant) / f"seed-{seed}", seed)
        return found

    def _add(self, stage: str, variant: str, folder: Path, first: int = 0) -> None:
        with suppress(InputError):  # it is not there, or damaged, which the stage that reads it says
            for number, entry in enumerate(entries(folder / "mlflow.json", "run"), start=first):
                self.runs[stage, variant, str(number)] = entry

    def present(self, runs: Mapping[str, Run]) -> dict[Work, str | None]:
        """Return the id of each result's run in this store; None where there is none."""
        by_key: dict[str, str] = {}
        for run_id, run in runs.items():  # the latest first
            by_key.setdefault(run.data.tags.get("key", ""), run_id)
        return {
            work: named["run"] if named["run"] in runs else by_key.get(str(named.get("key")))
            for work, named in self.runs.items()
        }


def mark_current(study: Study, tracker: Tracker | None = None) -> bool:
    """Bring the runs' tags, and the experiment's description, up to date with the study's files; tell if it succeeded.

    Where MLflow cannot be used, one line says so, and the work goes on. An experiment of DVC in a folder of its own
    (`dvc exp run --temp`) changes nothing: the present results are those of the project itself.
    """
    tracker = tracker or Tracker(study)
    results = _Results.of(study)
    if not results.runs or study.root != study.shared_root:
        return True
    done, reason = False, ""
    try:
        with tracker.store.exchange():
            _mark(study, tracker, results)
            done = True
        reason = tracker.store.refused or f"MLflow at {tracker.store.address} cannot be used"
    except InputError as error:
        reason = str(error)
    if not done:
        line = f"{study.name}: the tag `{CURRENT}` of its runs is not up to date ({reason}); run `cave sync` later"
        print(line, file=sys.stderr, flush=True)
    return done


def _mark(study: Study, tracker: Tracker, results: _Results) -> None:
    from mlflow.entities import RunTag

    client, name = tracker.store.client, str(tracker.experiment["name"])
    experiment = client.get_experiment_by_name(name)
    if experiment is None or experiment.lifecycle_stage != "active":
        return
    if experiment.tags.get(NOTE) != tracker.experiment["note"]:
        client.set_experiment_tag(experiment.experiment_id, NOTE, tracker.experiment["note"])
    runs = {str(run.info.run_id): run for run in _runs(client, experiment.experiment_id)}
    present = results.present(runs)
    for run_id, run in runs.items():
        wanted = _tags(study, run, runs, present)
        if wanted is None:
            continue
        new = [RunTag(key, value) for key, value in wanted.items() if run.data.tags.get(key) != value]
        if new:
            client.log_batch(run_id, tags=new)
        if SUPERSEDED in run.data.tags and SUPERSEDED not in wanted:
            client.delete_tag(run_id, SUPERSEDED)


def _runs(client: Any, experiment: str) -> Iterator[Run]:
    token = None
    while True:
        page = client.search_runs([experiment], max_results=PAGE, page_token=token)
        yield from page
        if not (token := page.token):
            return


def _tags(study: Study, run: Run, runs: Mapping[str, Run], present: Mapping[Work, str | None]) -> dict[str, str] | None:
    """Return the tags that a run is to have; None where nothing is known of it."""
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
