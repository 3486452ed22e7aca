"""Parameters, tags and metrics in as few requests as MLflow's limits allow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pipeline import faults
from pipeline.redaction import redacted
from pipeline.tracking.tags import mlflow_name

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

__all__ = ["log_in_batches", "metric_rows", "shortened"]

TAGS, ROWS = 100, 800  # MLflow takes 100 tags, as many parameters, and 1000 of all with rows, at once
LENGTH = 5000  # letters of a tag


def metric_rows(metrics: Mapping[str, Any], timestamp: int, step: int) -> list[Metric]:
    """Return metrics of one step as MLflow's rows."""
    from mlflow.entities import Metric

    return [Metric(key, value, timestamp, step) for key, value in metrics.items()]


def shortened(tags: Mapping[str, str]) -> dict[str, str]:
    """Return the values of tags as MLflow takes them: without passwords, and cut at its limit."""
    return {key: redacted(value)[:LENGTH] for key, value in tags.items()}


def log_in_batches(
    client: MlflowClient,
    run_id: str,
    params: Mapping[str, str],
    tags: Mapping[str, str],
    rows: list[list[Metric]],
    marks: Mapping[str, str],
) -> None:
    """Send parameters, tags and lists of rows in as few requests as hold them.

    A list of rows (an epoch's) goes in one request, so that MLflow has all or none of it. `marks` are tags that say
    that rows are there, and go in the last request.
    """
    from mlflow.entities import Param, RunTag

    some_params = [Param(name, value) for name, value in params.items()]
    some_tags = [RunTag(mlflow_name(name), value) for name, value in tags.items()]
    last = [RunTag(mlflow_name(name), value) for name, value in marks.items()]
    rows = list(rows)
    while some_params or some_tags or rows or last:
        metrics: list[Metric] = []
        while rows and (not metrics or len(metrics) + len(rows[0]) <= ROWS):
            metrics += rows.pop(0)
        sent = some_tags[:TAGS]
        if not rows and len(some_tags) <= TAGS and len(sent) + len(last) <= TAGS:
            sent, last = sent + last, []
        client.log_batch(run_id, metrics=metrics, params=some_params[:TAGS], tags=sent)
        some_params, some_tags = some_params[TAGS:], some_tags[TAGS:]
        if metrics:
            faults.crash_point("rows-sent")
