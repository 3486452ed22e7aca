"""The named views of a study's runs, as MLflow's UI shows them in a browser that has never seen it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag

from pipeline.addresses import BOUND, FINAL, PICTURES, SEARCH, VIEW_TAG, run_page, runs_page
from pipeline.files import sha256, write_json, write_text
from pipeline.metric import BEST, VALUE, logged_key
from pipeline.study import Study
from pipeline.tracking.experiment import update_experiment
from pipeline.tracking.registry import FOLDER, MODEL, registered_name, update_registry
from pipeline.tracking.server import NOTE
from pipeline.tracking.views import LARGEST, decode, encode, study_views
from tests.browser import CHROMIUM, Browser
from tests.tracking_server import Server
from tests.workshop import make_study

SPACE = ("model.depth", "model.z_dim", "model.z_ratio")
DRAWN = """(charts => charts.length > 2 && charts.every(chart => (chart.data || []).length))(
  [...document.querySelectorAll('.js-plotly-plot')])"""  # no chart is empty
SEEN = "[...document.images].filter(image => image.naturalWidth >= 120).length >= 3"
FINALS = ("nll", "elbo", "reconstruction", "kl", "gap", "rate/z1", "ais", "nll/bias")


def test_a_view_is_the_same_whenever_it_is_made() -> None:
    """A tag holds the state that it was made of, in MLflow's form; the same study gives the same tags."""
    metrics = [logged_key(name) for name in FINALS] + [VALUE]
    views = study_views(("vae", "mhvae"), metrics, SPACE, "valid/elbo", 60)
    assert [(view.key, view.name) for view in views] == [
        (FINAL, "Final models"),
        (BOUND, "The bound taken apart"),
        (PICTURES, "Pictures"),
        (SEARCH, "The search"),
    ]
    for view, again in zip(views, study_views(("vae", "mhvae"), metrics, SPACE, "valid/elbo", 60), strict=True):
        assert encode(view, 5) == encode(again, 5)
        assert decode(encode(view, 5)) == view.state
    assert study_views(("vae",), ["valid/elbo"], SPACE, "valid/elbo", 60) == []


def test_sections_without_a_chart_of_the_view_are_closed_and_those_of_other_runs_left_out() -> None:
    """MLflow's own section of system metrics is among them, by the name that the UI gives it."""
    metrics = [logged_key("nll"), logged_key("ais"), "train/elbo", VALUE, "system/node/cpu_utilization_percentage"]
    _, bound, _, search = study_views(("vae",), metrics, SPACE, "valid/elbo", 60)
    closed = [
        [section["name"] for section in view.state["compareRunSections"] if not section["display"]]
        for view in (bound, search)
    ]
    assert closed == [["System metrics", "test", "test_annealing", "train"], ["System metrics", "search", "train"]]


def test_a_view_of_any_study_fits_into_a_tag() -> None:
    """Twenty levels, whose sections and charts would make a longer tag than MLflow takes, and thirty variants."""
    names = [f"{term}/z{t}" for term in ("rate", "gap", "chain_kl", "active", "mig") for t in range(1, 21)]
    metrics = [logged_key(name, error=error) for name in [*FINALS, *names] for error in (False, True)] + [VALUE]
    metrics += [f"{number}/{number**9}/a" for number in range(300)]
    for view in study_views([f"v{number}" for number in range(30)], metrics, SPACE, "valid/elbo", 60):
        assert len(encode(view, 1)) <= LARGEST


def log_runs(study: Study, client: MlflowClient) -> str:
    """Log final models of two variants and their trials, and what the page shows of them."""
    experiment = client.create_experiment(f"platos-cave/{study.name}", str(study.shared_root / "mlartifacts"))
    metrics: set[str] = set()

    def log(name: str, tags: dict[str, str], values: dict[str, list[float]], params: dict[str, Any]) -> None:
        tags |= {"current": "true", "study": study.name, NOTE: f"About {name}.", MODEL: registered_name(study, "vae")}
        run = client.create_run(experiment, run_name=name, tags=tags).info.run_id
        rows = [Metric(key, v, 1, step) for key, many in values.items() for step, v in enumerate(many, 1)]
        some = [Param(key, str(value)) for key, value in params.items()]
        client.log_batch(run, rows, some, [RunTag("widths", "4-2")])
        client.set_terminated(run)
        metrics.update(values)

    for number, variant in enumerate(("vae", "mhvae")):
        for seed in range(2):
            finals = {logged_key(name): [float(-seed - len(name))] for name in FINALS}
            curves = {f"valid/{name}": [1.0, 2.0, 2.5 + seed] for name in FINALS[1:4]}
            log(
                f"{variant} seed {seed}", {"stage": "train", "variant": variant, "seed": str(seed)}, finals | curves, {}
            )
            log(
                f"{variant} trial {seed}",
                {"stage": "trial", "variant": variant, "state": "complete"},
                {VALUE: [-seed - number]} | {f"valid/{term}": [1.0, 2.0] for term in ("objective", *FINALS[2:4])},
                dict.fromkeys(SPACE, seed + number + 1),
            )  # fmt: skip
    log("sweep vae", {"stage": "sweep", "variant": "vae"}, {BEST: [1.0, 2.0]}, {})
    update_experiment(study, client, client.get_experiment(experiment), metrics)
    return str(experiment)


def register(study: Study, client: MlflowClient, experiment: str) -> str:
    """Register the models of vae with a card, and return the run of the champion."""
    write_json(study.evaluate("vae") / "champion.json", {"seed": 1})
    write_json(study.decomposition("vae"), {"seeds": {}})
    digest = sha256([study.decomposition("vae").read_bytes()])[:12]
    write_text(
        study.report / "models" / "vae.md", f"# The card\n\n| term | champion |\n|---|---|\n| nll | 7.5 |\n\n{digest}"
    )
    trained = client.search_runs([experiment], "tags.stage = 'train' and tags.variant = 'vae'")
    runs = {("vae", run.data.tags["seed"]): run for run in trained}
    for run in runs.values():
        client.log_text(run.info.run_id, "flavors: {}\n", f"{FOLDER}/MLmodel")
    update_registry(study, client, runs)
    champion = str(runs["vae", "1"].info.run_id)
    for name in ("samples", "reconstructions", "levels"):
        client.log_image(champion, np.eye(120), key=f"pictures/{name}", step=2)  # of the three epochs
    return champion


def test_a_changed_view_stays_as_its_user_saved_it(tmp_path: Path) -> None:
    """What the UI has saved over a view is kept; a description begins with the verdict and leads to the views."""
    study = make_study(tmp_path)
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    (study.report).mkdir(parents=True)
    (study.report / "table.md").write_text("|a|\n\nThe lowest mean nll is that of vae, 1 nats. More of it.\n\nrest\n")
    experiment = log_runs(study, client)
    tags = client.get_experiment(experiment).tags
    assert tags[NOTE].startswith(
        "**The lowest mean nll is that of vae, 1 nats.** A lower nll is better. More of it.\n\nOpen [Final models](#/ex"
    )
    own = json.dumps(json.loads(tags[VIEW_TAG + BOUND]) | {"updatedAt": 7})
    client.set_experiment_tag(experiment, VIEW_TAG + BOUND, own)
    client.set_experiment_tag(experiment, VIEW_TAG + FINAL, "no view")
    update_experiment(study, client, client.get_experiment(experiment), [logged_key(name) for name in FINALS])
    assert client.get_experiment(experiment).tags[VIEW_TAG + BOUND] == own
    assert decode(client.get_experiment(experiment).tags[VIEW_TAG + FINAL])["orderByKey"] == "metrics.`test/nll`"


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_mlflow_shows_the_views_a_run_and_a_model(tmp_path: Path) -> None:
    """Each page opens by its link in a fresh browser, with its runs, columns, charts and texts, and no error."""
    server, study = Server(tmp_path), make_study(tmp_path / "study")
    client = MlflowClient(f"sqlite:///{server.database}")
    experiment = log_runs(study, client)
    run = register(study, client, experiment)
    server.start()

    async def look() -> None:
        async with Browser(2600) as browser:  # the table has no text of columns beyond the edge
            address = f"http://127.0.0.1:{server.port}"
            await browser.open(address + runs_page(experiment, FINAL))
            for text in ("Final models", "vae seed 0", "mhvae seed 1", "test/nll", "test/rate/z1", "widths"):
                await browser.wait(f"document.body.innerText.includes({text!r})")
            for view, titles in (
                (BOUND, ("elbo = reconstruction - kl", "Rate against distortion", "Through the training")),
                (SEARCH, ("A line is a trial", "valid/objective", "vae trial 1")),
                (PICTURES, ("the slider goes through its training", "pictures/samples", "vae seed 1")),
            ):
                await browser.open(address + runs_page(experiment, view))
                for title in titles:
                    await browser.wait(f"document.body.innerText.includes({title!r})")
                await browser.wait(SEEN if view == PICTURES else DRAWN)
                assert not await browser.evaluate("document.body.innerText.includes('No charts in this section')")
            page, tail = run_page(experiment, run).split("?")
            name = registered_name(study, "vae")
            for path, texts in (
                (page, ("About vae seed 1.", "test/nll", "test/rate/z1", "Finished", name)),
                (f"{page}/model-metrics", ("test/rate", "vae seed 1 (test/nll)")),
                (f"/#/models/{name}", ("The card", "7.5", "champion", "Version 2")),
                (f"/#/models/{name}/versions/1", ("Seed", "vae seed")),
            ):
                await browser.open(f"{address}{path}?{tail}")
                for text in texts:
                    await browser.wait(f"document.body.innerText.includes({text!r})")
                if path.endswith("metrics"):
                    await browser.wait(DRAWN)
            assert not browser.errors

    try:
        asyncio.run(look())
    finally:
        server.stop()
