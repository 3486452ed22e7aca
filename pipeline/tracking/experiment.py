"""What the page of a study's experiment shows first: its description, and the named views of its runs."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from pipeline.addresses import VIEW_TAG, run_page, runs_page
from pipeline.study import Study
from pipeline.tracking.server import NOTE
from pipeline.tracking.views import View, encode, study_views

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment

__all__ = ["about", "update_experiment"]


def about(study: Study) -> str:
    """Return what is true of a study's experiment from its first run on."""
    return (
        f"Study **{study.name}** of platos-cave on `{study.params.data.name}`.\n\n"
        "Runs with `stage = train` are the final models, one a seed, with their test results; a run with"
        " `stage = sweep` shows what its search found and has the trials as children. Runs of the present results"
        " have the tag `current = true`, earlier ones `superseded_by`, the run in their where. To compare variants in a"
        " view of your own, search for `tags.current = 'true'` and group by the tag `variant`. All bounds are in nats"
        " per example; `rate/z*` are the log-ratio rates of each level, whose sum is `kl`; one may be negative."
    )


def update_experiment(
    study: Study, client: MlflowClient, experiment: Experiment, metrics: Collection[str], report: str = ""
) -> None:
    """Set the description and the views of an experiment whose runs have these metrics, as far as they have changed.

    `report` is the id of the run whose artifact the report is, if there is one. A view that a user has changed and
    saved in the UI stays as it is.
    """
    space = dict.fromkeys(path for variant in study.params.variants for path in study.params.space(variant))
    epochs = min(study.params.variant(variant).train.epochs for variant in study.params.variants)
    views = study_views(tuple(study.params.variants), metrics, tuple(space), study.params.sweep.metric, epochs)
    tags = {NOTE: _description(study, experiment.experiment_id, views, report)}
    for view in views:
        if not _is_edited(experiment.tags.get(VIEW_TAG + view.key)):
            tags[VIEW_TAG + view.key] = encode(view, experiment.creation_time)
    for name, value in tags.items():
        if experiment.tags.get(name) != value:
            client.set_experiment_tag(experiment.experiment_id, name, value)


def _description(study: Study, experiment_id: str, views: Sequence[View], report: str) -> str:
    """Return the verdict, then the views and the report; the UI shows the first line alone until a reader opens it."""
    pages = {view.name: runs_page(experiment_id, view.key) for view in views}
    if report:
        pages["Report"] = run_page(experiment_id, report, "report.html")
    links = ", ".join(f"[{name}]({page.removeprefix('/')})" for name, page in pages.items())
    first, end, rest = study.verdict.partition("nats. ")  # what is lowest, and then what that decides
    meaning = "A lower nll is better. " if "nll" in first else ""
    verdict = f"**{first}{end.strip()}** {meaning}{rest}".strip() if first else ""
    file = study.report / "report.html"
    where = f"The report is `{os.path.relpath(file, study.root)}`." if file.is_file() else ""
    lines = [verdict, f"Open {links}. {where}".strip() if links else where, about(study)]
    return "\n\n".join(line for line in lines if line)


def _is_edited(tag: str | None) -> bool:
    """Return whether a view's tag was written by the UI, which gives it another time than that of its creation."""
    try:
        content = json.loads(tag or "{}")
        return bool(content.get("updatedAt") != content.get("createdAt"))
    except (ValueError, AttributeError):
        return False
