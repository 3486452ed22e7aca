"""Named views of a study's runs, in the form in which MLflow's UI keeps the views that its users share.

A view is the experiment's tag `mlflow.sharedViewState.<key>`: a JSON object whose `state` is compressed JSON again.
The UI adds a chart for every metric that no chart of a view shows; `_folded` names the sections that these belong to,
so that they stand at the end and closed. The format is MLflow 3.17's own and is not documented: `tests/test_views.py`
opens the views in a browser.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.addresses import BOUND, FINAL, PICTURES, SEARCH
from pipeline.metric import VALUE, levels_of
from pipeline.tracking.media import IMAGES

__all__ = ["View", "decode", "encode", "study_views"]

NLL = "test/nll"
DEPTH, WIDTH = "model.depth", "model.z_dim"
TERMS = ("nll", "elbo", "reconstruction", "kl", "gap")
FINALS, TRIALS = (f"tags.stage = '{stage}' and tags.current = 'true'" for stage in ("train", "trial"))
OF_TRIALS, OF_FINALS = "search/", ("test", "milestone", "training/")  # what metrics begin with that the others lack
SYSTEM = "System metrics"  # what the UI calls the section of `system/`
GREATEST = 12  # levels that a view shows
GROUPINGS = (("variant",), ("variant", "stage"), ("variant", "current"), ("variant", "stage", "current"))
COLOURS = 29  # of the UI's groups
LEADING = ["attributes.`Run Name`", "runDateAndNestInfo"]  # columns that every table begins with
LETTER, MARGIN = 7, 28  # pixels of a column of the table
LARGEST = 5000  # letters of a tag


@dataclass(frozen=True)
class View:
    """A view's key, the name by which the UI lists it, and the state of the page that it stands for."""

    key: str
    name: str
    state: Mapping[str, Any]


def study_views(
    variants: Sequence[str], metrics: Collection[str], space: Sequence[str], metric: str, epochs: int
) -> list[View]:
    """Return a study's views.

    `metrics` are the keys that its runs have, `space` the paths that are searched, `metric` is what a search
    maximizes, and `epochs` those of a final model. A view of what is not there yet is left out.
    """
    levels = levels_of((name.removeprefix("test/") for name in metrics if name.startswith("test/")), "rate")
    levels = levels[:GREATEST]
    finals = [_final(levels), _bound(variants, metrics, levels), _pictures(metrics, epochs)] if NLL in metrics else []
    return finals + ([_search(metrics, space, metric)] if VALUE in metrics else [])


def encode(view: View, time: int) -> str:
    """Return the value of a view's tag; `time`, in milliseconds since 1970, is shown as the time of its creation.

    Where it would be longer than MLflow takes, the names of the closed sections are left out.
    """
    state = dict(view.state)
    tag = _packed(view.name, state, time)
    if len(tag) > LARGEST:
        state["compareRunSections"] = [section for section in state["compareRunSections"] if section["display"]]
        tag = _packed(view.name, state, time)
    return tag


def _packed(name: str, state: Mapping[str, Any], time: int) -> str:
    packed = base64.b64encode(zlib.compress(json.dumps(state).encode(), 9)).decode()
    return json.dumps({"name": name, "createdAt": time, "updatedAt": time, "state": f"deflate;{packed}"})


def decode(tag: str) -> Any:
    """Return the state of a view's tag."""
    return json.loads(zlib.decompress(base64.b64decode(json.loads(tag)["state"].removeprefix("deflate;"))))


def _final(levels: Sequence[int]) -> View:
    """Return the table of the final models, a row a seed, those of the lowest nll first."""
    names = [f"test/{term}" for term in TERMS] + [f"test/rate/z{level}" for level in levels]
    columns = ["tags.`variant`", "tags.`widths`", *(f"metrics.`{name}`" for name in names)]
    return View(FINAL, "Final models", _page(FINALS, f"metrics.`{NLL}`", True, columns))


def _bound(variants: Sequence[str], metrics: Collection[str], levels: Sequence[int]) -> View:
    """Return the charts of the bound's terms by variant: means over seeds, and their spread in curves."""
    parts, rates = (
        _Section("elbo = reconstruction - kl; a lower nll is better", BOUND),
        _Section("kl = sum of the rates", BOUND),
    )
    plane, curves = _Section("Rate against distortion", BOUND), _Section("Through the training", BOUND)
    for term in TERMS:
        parts.bar(f"test/{term}")
    for level in levels:
        rates.bar(f"test/rate/z{level}")
    plane.scatter(("test/kl", "METRIC"), ("test/reconstruction", "METRIC"))
    plane.scatter(("test/kl", "METRIC"), (NLL, "METRIC"))
    for name in ("valid/elbo", "valid/kl", "valid/reconstruction", *(f"valid/rate/z{level}" for level in levels)):
        curves.line(name)
    # The list of groups cuts their names, and leaves the charts too narrow for a legend with all of them.
    page = _page(FINALS, f"metrics.`{NLL}`", True, ["tags.`variant`"]) | {"runListHidden": True}
    page |= {"groupBy": _grouped(variants)}
    shown = [name for name in metrics if not name.startswith(OF_TRIALS)]
    return View(BOUND, "The bound taken apart", page | _charts([parts, rates, plane, curves], shown))


def _pictures(metrics: Collection[str], epochs: int) -> View:
    """Return the pictures of a model of each variant, side by side, first those of the last power of two of epochs."""
    shown = _Section("One model of each variant; the slider goes through its training", PICTURES, 1)
    for name in ("samples", "reconstructions", "levels"):
        shown.image(f"pictures/{name}", 1 << (epochs.bit_length() - 1))
    page = _page(f"{FINALS} and tags.`{IMAGES}` = 'True'", "tags.`variant`", True, ["tags.`variant`"])
    closed = [name for name in metrics if not name.startswith(OF_TRIALS)]
    return View(PICTURES, "Pictures", page | _charts([shown], closed))


def _search(metrics: Collection[str], space: Sequence[str], metric: str) -> View:
    """Return the charts of the trials; `VALUE` is what a trial has reached of `metric`."""
    lines = _Section(f"A line is a trial; higher {metric} is better", SEARCH, 1)
    points = _Section("A point is a trial", SEARCH)
    curves, plane = _Section("Through the trials' training", SEARCH, 1), _Section("Rate against distortion", SEARCH)
    lines.parallel(space, [VALUE])
    for path in space:
        points.scatter((path, "PARAM"), (VALUE, "METRIC"))
    if {DEPTH, WIDTH} <= set(space):
        points.contour((DEPTH, "PARAM"), (WIDTH, "PARAM"), (VALUE, "METRIC"))
    curves.line(metric)
    plane.scatter(("valid/kl", "METRIC"), ("valid/reconstruction", "METRIC"))
    columns = [f"metrics.`{VALUE}`", "tags.`variant`", "tags.`state`", *(f"params.`{path}`" for path in space)]
    page = _page(TRIALS, f"metrics.`{VALUE}`", False, columns)
    shown = [name for name in metrics if not name.startswith(OF_FINALS)]
    return View(SEARCH, "The search", page | _charts([lines, points, curves, plane], shown))


def _grouped(variants: Sequence[str]) -> dict[str, Any]:
    """Return by which tags runs are grouped: `variant`, with another that they share where colours would be equal."""
    tags = next((tags for tags in GROUPINGS if len({_colour(tags, name) for name in variants}) == len(variants)), ())
    keys = [{"groupByData": tag, "mode": "tag"} for tag in tags or GROUPINGS[0]]
    return {"aggregateFunction": "average", "groupByKeys": keys}


def _colour(tags: Sequence[str], variant: str) -> int:
    """Return the place in the UI's list of colours that it gives to a group, by a checksum of the group's name."""
    values = {"variant": variant, "stage": "train", "current": "true"}
    low = high = 0
    for byte in ",".join(f"tag.{tag}.{values[tag]}" for tag in tags).encode():
        low = (low + byte) % 255
        high = (high + low) % 255
    return (high << 8 | low) % COLOURS


class _Section:
    """A section of charts, whose ids are the same whenever it is made."""

    def __init__(self, name: str, view: str, columns: int = 2) -> None:
        self.name, self.id, self.columns = name, f"{view}/{name}", columns
        self.charts: list[dict[str, Any]] = []

    def _add(self, kind: str, **more: Any) -> None:
        chart = {"type": kind, "uuid": f"{self.id}/{len(self.charts)}", "metricSectionId": self.id}
        self.charts.append(chart | {"runsCountToCompare": 100, "deleted": False, "isGenerated": False} | more)

    def bar(self, metric: str) -> None:
        self._add("BAR", metricKey=metric)

    def image(self, key: str, step: int) -> None:
        self._add("IMAGE", imageKeys=[key], step=step, showRunParams=False)

    def line(self, metric: str) -> None:
        fixed = {"lineSmoothness": 0, "scaleType": "linear", "xAxisScaleType": "linear", "yAxisKey": "metric"}
        axis = {"xAxisKey": "step", "selectedXAxisMetricKey": "", "yAxisExpressions": [], "range": {}}
        self._add("LINE", metricKey=metric, selectedMetricKeys=[metric], **fixed, **axis)

    def scatter(self, x: tuple[str, str], y: tuple[str, str]) -> None:
        self._add("SCATTER", xaxis={"key": x[0], "type": x[1]}, yaxis={"key": y[0], "type": y[1]})

    def contour(self, x: tuple[str, str], y: tuple[str, str], z: tuple[str, str]) -> None:
        axes = {f"{name}axis": {"key": key, "type": kind} for name, (key, kind) in zip("xyz", (x, y, z), strict=True)}
        self._add("CONTOUR", **axes)

    def parallel(self, params: Sequence[str], metrics: Sequence[str]) -> None:
        self._add("PARALLEL", selectedParams=list(params), selectedMetrics=list(metrics), showAllRuns=True)


def _page(search: str, order: str, ascending: bool, columns: Sequence[str]) -> dict[str, Any]:
    """Return the state of a page without its charts: which runs in which order, and the table's columns."""
    return {
        "searchFilter": search,
        "orderByKey": order,
        "orderByAsc": ascending,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": list(columns),
        "columnOrder": [*LEADING, *columns],
        "columnWidths": {name: LETTER * len(name.partition("`")[2]) + MARGIN for name in columns},
        "runsHiddenMode": "SHOW_ALL",
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
    }


def _charts(sections: Sequence[_Section], metrics: Collection[str]) -> dict[str, Any]:
    """Return the part of a page's state that holds its charts."""
    shown = [_section(part.id, part.name, display=True) | {"columns": part.columns} for part in sections]
    return {
        "compareRunCharts": [chart for section in sections for chart in section.charts],
        "compareRunSections": shown + _folded(metrics),
        "isAccordionReordered": True,  # otherwise the UI sorts them by name
    }


def _folded(metrics: Collection[str]) -> list[dict[str, Any]]:
    """Return the sections that the UI makes of the names of metrics, closed."""
    names = sorted({SYSTEM if name.startswith("system/") else name.rpartition("/")[0] for name in metrics})
    return [_section(f"all/{name}", name or "Model metrics", display=False) for name in names]


def _section(uuid: str, name: str, *, display: bool) -> dict[str, Any]:
    return {"uuid": uuid, "name": name, "display": display, "isReordered": True, "deleted": False, "isGenerated": False}
