"""The whole line, `dvc repro`, in two temporary repositories: what it makes, that it repeats, that it then rests.

In the second, which has one of the variants, it is killed in the middle of a sweep's trial and run again.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import sqlite3
import subprocess
import time
from contextlib import suppress
from itertools import chain
from pathlib import Path

import psutil
import pytest

import pipeline
from pipeline.files import read_csv, read_json
from pipeline.metric import SECTIONS, logged_key
from pipeline.params import Params, dump_yaml
from pipeline.tracking.tags import read_tags
from tests.browser import CHROMIUM
from tests.report_page import check_report
from tests.small import ROOT
from tests.workshop import DECOMPOSE, check_sweep, make_study, rows
from tests.zygote import Program, run

pytestmark = pytest.mark.slow

NIGHTLY = os.environ.get("CAVE_NIGHTLY") == "1"
VARIANTS = ("vae", "hvae", "mhvae") if NIGHTLY else ("vae", "mhvae")
OF = (VARIANTS, ("mhvae",))
"""The variants of either repository."""
ALL = {
    "vae": {"model.depth": 1, "model.z_ratio": 1.0},
    "hvae": {"model.parents": "every"},
    "mhvae": {"model.parents": "nearest"},
}
ONE = {"variants": {"mhvae": ALL["mhvae"]}}
SMALL = {
    "variants": {name: ALL[name] for name in VARIANTS},
    "model.hidden": [[16]],
    "train.epochs": 3,
    "train.milestones": [1, 2],
    "train.seeds": [0, 1],
    "train.batch_size": 200,
    "sweep.trials": 2,
    "sweep.epochs": 2,
    "evaluate.draws": 100,
    "evaluate.k": [1, 50, 100],
    "evaluate.active_draws": 20,
    "evaluate.milestone_draws": 50,
    "evaluate.decompose": DECOMPOSE,
    "evaluate.outliers": {"data": "shuffled", "images": 10, "draws": 4},
    "report.images": 3,
}


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return two repositories in which `dvc repro` has run: once, and, of one variant, killed and run again."""
    folders = [tmp_path_factory.mktemp(name) for name in ("one", "two")]
    for folder, own in zip(folders, ({}, ONE), strict=True):
        shutil.copytree(ROOT / "pipeline", folder / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("dvc.yaml", ".dvcignore", ".gitignore", "pyproject.toml"):
            shutil.copy(ROOT / name, folder / name)
        (folder / ".dvc").mkdir()
        shutil.copy(ROOT / ".dvc" / "config", folder / ".dvc" / "config")
        shutil.copytree(ROOT / ".dvc" / "plots", folder / ".dvc" / "plots")
        (folder / "params.yaml").write_text(dump_yaml(Params.read(ROOT / "params.yaml", SMALL | own)))
        for words in (
            ["init", "-q"],
            ["add", "-A"],
            ["-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "all"],
        ):
            subprocess.run(["git", *words], cwd=folder, check=True)
    whole, torn = (Program(folder, "dvc", "repro") for folder in folders)
    kill_in_a_trial(torn, folders[1])
    run(folders[1], "dvc", "repro")
    assert whole.wait() == 0, whole.stdout + whole.stderr
    return folders


def kill_in_a_trial(process: Program, folder: Path) -> None:
    """Kill `dvc repro` alone, with SIGKILL, when its sweep has reported an epoch; its stage ends by itself."""
    running = "select 1 from trials join trial_intermediate_values using (trial_id) where state = 'RUNNING'"
    deadline = time.monotonic() + 300
    while True:
        with suppress(sqlite3.OperationalError):  # no tables yet
            if (folder / "optuna.db").exists() and rows(folder / "optuna.db", running):
                break
        assert process.poll() is None, process.stdout + process.stderr
        assert time.monotonic() < deadline
        time.sleep(0.005)
    stages = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    assert psutil.wait_procs(stages, timeout=60)[1] == []
    assert rows(folder / "optuna.db", "select count(*) from trials")[0][0] < 2


def outputs(folder: Path) -> Path:
    return folder / "experiments" / "default"


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_reader_of_the_report_misses_nothing(repositories: list[Path]) -> None:
    """In a browser, light and dark, on a telephone and on paper, no section is missing, no figure empty or cut."""
    asyncio.run(check_report(outputs(repositories[0]) / "report" / "report.html"))


def test_every_promised_file_is_there(repositories: list[Path]) -> None:
    """Each variant has its trials, best settings, models, curves and decomposition; the study has its report."""
    out = outputs(repositories[0])
    for variant in VARIANTS:
        for name in (
            f"sweep/{variant}/trials.csv",
            f"sweep/{variant}/best.json",
            f"sweep/{variant}/figures/depth_width.png",
            f"train/{variant}/seed-1/model.safetensors",
            f"train/{variant}/seed-1/model.json",
            f"train/{variant}/seed-1/curves.csv",
            f"curves/{variant}.csv",
            f"metrics/{variant}.json",
            f"evaluate/{variant}/decomposition.json",
            f"evaluate/{variant}/levels.png",
            f"evaluate/{variant}/pictures.safetensors",
        ):
            assert (out / name).stat().st_size > 0, name
    assert {"report.html", "table.csv", "table.md"} <= {path.name for path in (out / "report").iterdir()}


def test_one_seed_gives_one_set_of_numbers(repositories: list[Path]) -> None:
    """Two runs in two places, one of them killed on the way, agree in every metric and every weight, bit for bit."""
    one, two = (outputs(folder) for folder in repositories)
    for variant in OF[1]:
        for name in (f"metrics/{variant}.json", f"evaluate/{variant}/decomposition.json"):
            assert (one / name).read_bytes() == (two / name).read_bytes()
        for seed in (0, 1):
            name = f"train/{variant}/seed-{seed}/model.safetensors"
            assert (one / name).read_bytes() == (two / name).read_bytes()


@pytest.mark.parametrize("which", [0, 1], ids=["whole", "killed"])
def test_mlflow_holds_every_run_with_its_place(repositories: list[Path], which: int) -> None:
    """There is one parent a sweep, one child a trial, one final run a seed, all ended well and tagged."""
    database = repositories[which] / "mlflow.db"
    counts = dict(rows(database, "select value, count(*) from tags where key = 'stage' group by value"))
    searched = len(OF[which])
    assert counts.pop("report", 1) == 1
    assert counts == {"sweep": searched, "trial": 2 * searched, "train": 2 * searched}
    assert rows(database, "select distinct status from runs") == [("FINISHED",)]
    parents = rows(database, "select run_uuid from tags where key = 'stage' and value = 'sweep'")
    children = rows(database, "select distinct value from tags where key = 'mlflow.parentRunId'")
    assert set(children) == set(parents)
    expected = {
        "study", "variant", "depth", "latent_dim", "seed", "stage", "git_commit", "git_dirty", "data_digest",
        "params_digest", "dvc/data", "mlflow.note.content", "code_digest", "patch", "version/torch", "cpu", "device",
        "threads",
    }  # fmt: skip
    trained = "join tags t using (run_uuid) where t.key = 'stage' and t.value != 'report'"
    for (run_id,) in rows(database, f"select run_uuid from runs {trained}"):
        tags = {key for (key,) in rows(database, "select key from tags where run_uuid = ?", run_id)}
        assert expected <= set(read_tags(dict.fromkeys(tags, "")))
        assert rows(database, "select count(*) from inputs where destination_id = ?", run_id) == [(1,)]
    for uri, stage in rows(database, f"select r.artifact_uri, t.value from runs r {trained}"):
        files = {path.name for path in (Path(uri.removeprefix("file://")) / "provenance").iterdir()}
        assert files == {"spec.json"} | ({"params.yaml", "dvc.yaml", "dvc.lock"} if stage != "trial" else set())


def test_final_runs_hold_curves_results_models_and_figures(repositories: list[Path]) -> None:
    """A final run has the rows of every epoch, the test results with their errors, and its files."""
    database = repositories[0] / "mlflow.db"
    query = "select r.run_uuid, r.artifact_uri from runs r join tags t using (run_uuid) where t.key = 'stage'"
    for run_id, uri in rows(database, query + " and t.value = 'train'"):
        steps = rows(
            database, "select step from metrics where run_uuid = ? and key = 'valid/elbo' order by step", run_id
        )
        assert steps == [(1,), (2,), (3,)]
        keys = {key for (key,) in rows(database, "select distinct key from metrics where run_uuid = ?", run_id)}
        assert {"test/elbo", "test_se/elbo", "test/nll", "test/rate/z1", "test_levels/active/z1"} <= keys
        assert {"training/seconds", "training/weights", "training/best_epoch", "train/gradient_norm"} <= keys
        assert {key.split("/")[1] for key in keys if key.startswith("test/")} <= set(SECTIONS[""])
        files = {path.name for path in Path(uri.removeprefix("file://")).rglob("*")}
        assert {"model.safetensors", "model.json", "curves.csv"} <= files


def test_milestones_are_tested_as_models_of_their_own(repositories: list[Path]) -> None:
    """The table has every bound at every milestone; MLflow has them at that step; the weights can be loaded."""
    out, database = outputs(repositories[0]), repositories[0] / "mlflow.db"
    for variant in VARIANTS:
        table = read_csv(out / "evaluate" / variant / "milestones.csv")
        assert {(row["seed"], row["epoch"]) for row in table} == {(s, e) for s in "01" for e in "12"}
        assert {"elbo", "nll", "rate/z1", "iwae/50"} <= {row["metric"] for row in table}
        model = pipeline.load(out / "train" / variant / "seed-0" / "epoch-1")
        assert model.depth >= 1
    run_id = read_json(out / "train" / "vae" / "seed-1" / "mlflow.json")["run"]
    query = "select step, value from metrics where run_uuid = ? and key = 'milestone/nll' order by step"
    expected = [float(row["value"]) for row in read_csv(out / "evaluate" / "vae" / "milestones.csv")
              if row["seed"] == "1" and row["metric"] == "nll"]  # fmt: skip
    assert rows(database, query, run_id) == list(zip((1, 2), expected, strict=True))
    assert "Milestones and published numbers" in (out / "report" / "report.html").read_text()


@pytest.mark.parametrize("which", [0, 1], ids=["whole", "killed"])
def test_the_sweeps_keep_their_promises(repositories: list[Path], which: int) -> None:
    """Each variant's sweep has exactly its trials, a run each, and steps without gap or double."""
    from pipeline.study import Study

    for variant in OF[which]:
        check_sweep(Study.at(repositories[which]), variant, 2)


def test_the_docs_explain_every_logged_metric(repositories: list[Path], tmp_path: Path) -> None:
    """Every metric key in MLflow is a row in docs/metrics.md, and every row is logged, some of data with factors."""
    one = {"train.seeds": [0], "train.epochs": 1, "model.z_dim": 2, "sweep.space": {}}
    made = make_study(tmp_path, **one, **{"evaluate.decompose": DECOMPOSE})
    for words in (["fetch"], ["prepare"], ["train", "vae"], ["evaluate", "vae"]):
        run(made.folder, "pipeline.stages", *words)
    table = (ROOT / "docs" / "metrics.md").read_text().split("<!-- metrics -->")[1]
    explained = dict(line.split("`")[1:4:2] for line in table.splitlines() if line.startswith("| `"))
    logged = set()
    databases = [repositories[0] / "mlflow.db", tmp_path / "mlflow.db"]
    for (key,) in chain(*(rows(path, "select distinct key from metrics") for path in databases)):
        section, _, name = key.partition("/")
        if section.startswith(("test_", "milestone_")) and not section.endswith("_se"):
            family = section.partition("_")[2]
            name = name if logged_key(name, section.split("_")[0]) == key else f"{family}/{name}"
        name = re.sub(r"/z\d+|/x$", "/z1", re.sub(r"^iwae/\d+$", "iwae/k", name))  # x is level 0
        name = re.sub(r"^generalization/.*", "generalization/elbo", name)
        name = re.sub(r"^probe/[a-z]+/", "probe/x/", name)
        logged.add(name)
        if not section.endswith("_se") and section not in ("train", "valid"):
            assert explained[name] == section.replace("milestone", "test")
    assert logged == set(explained)


@pytest.mark.parametrize("which", [0, 1], ids=["whole", "killed"])
def test_a_repro_of_what_is_done_does_nothing(repositories: list[Path], which: int) -> None:
    """Run again, after a kill a third time, `dvc repro` runs no stage, and leaves every run and trial as it was."""
    queries = {"mlflow.db": "select run_uuid, end_time from runs", "optuna.db": "select * from trials"}
    before = {name: rows(repositories[which] / name, query) for name, query in queries.items()}
    out = run(repositories[which], "dvc", "repro").stdout
    assert "up to date" in out
    assert "Running stage" not in out
    assert {name: rows(repositories[which] / name, query) for name, query in queries.items()} == before


def test_a_cached_stage_still_leads_to_its_runs(repositories: list[Path]) -> None:
    """Outs that DVC restores from its run cache name runs that MLflow has, and restoring them starts none."""
    folder = repositories[0]
    before = rows(folder / "mlflow.db", "select run_uuid from runs order by 1")
    names = ["sweep/vae/mlflow.json", "train/vae/seed-0/mlflow.json", "train/vae/seed-1/mlflow.json"]
    addresses = [read_json(outputs(folder) / name) for name in names]
    for name in ("sweep/vae", "train/vae", "curves/vae.csv"):
        path = outputs(folder) / name
        path.unlink() if path.is_file() else shutil.rmtree(path)
    lock = folder / "dvc.lock"
    content = lock.read_bytes()
    lock.unlink()
    out = run(folder, "dvc", "repro", "train@vae").stdout
    lock.write_bytes(content)
    assert {f"Stage '{stage}@vae' is cached" in out for stage in ("sweep", "train")} == {True}
    assert [read_json(outputs(folder) / name) for name in names] == addresses
    assert rows(folder / "mlflow.db", "select run_uuid from runs order by 1") == before
    active = {
        run_id for (run_id,) in rows(folder / "mlflow.db", "select run_uuid from runs where lifecycle_stage = 'active'")
    }
    (searched,), trained = addresses[0]["searches"], addresses[1:]
    assert {searched["run"], *searched["trials"].values(), *(entry["run"] for entry in trained)} <= active


def test_dvc_shows_metrics_plots_and_params(repositories: list[Path]) -> None:
    """`dvc metrics show`, `metrics diff`, `plots show` and `params diff` work on the outputs."""
    folder = repositories[0]
    shown = json.loads(run(folder, "dvc", "metrics", "show", "--json").stdout)[""]["data"]
    assert set(shown) == {f"experiments/default/metrics/{variant}.json" for variant in VARIANTS}
    run(folder, "dvc", "metrics", "diff", "--json")
    run(folder, "dvc", "plots", "show", "-o", "shown")
    page = (folder / "shown" / "index.html").read_text()
    for variant in VARIANTS:
        assert f'"variant": "{variant}"' in page
    run(folder, "dvc", "params", "diff", "--json")


def test_evaluation_settings_leave_training_alone(repositories: list[Path]) -> None:
    """After a change of evaluate.draws, DVC finds evaluate and the report stale, and no other stage."""
    path = repositories[1] / "params.yaml"
    text = path.read_text()
    path.write_text(dump_yaml(Params.read(path, {"evaluate.draws": 120, "evaluate.k": [1, 120]})))
    stale = set(json.loads(run(repositories[1], "dvc", "status", "--json").stdout))
    path.write_text(text)
    assert stale == {"report", *(f"evaluate@{variant}" for variant in OF[1])}


@pytest.mark.nightly
def test_a_study_of_its_own_runs_beside_the_default_one(repositories: list[Path]) -> None:
    """`cave study new` makes a folder whose pipeline runs there, with its own lock and its own experiment."""
    folder = repositories[1]
    before = (folder / "dvc.lock").read_bytes()
    own = ["variants={vae: {model.depth: 1}}", "evaluate.decompose=null", "train.seeds=[0]", "train.milestones=[]"]
    run(folder, "pipeline", "study", "new", "wide", *(word for text in own for word in ("--set", text)))
    out = run(folder, "dvc", "repro", "experiments/wide/dvc.yaml:report").stdout
    assert "study wide" in out
    assert (folder / "experiments" / "wide" / "report" / "report.html").exists()
    assert (folder / "dvc.lock").read_bytes() == before
    names = {name for (name,) in rows(folder / "mlflow.db", "select name from experiments")}
    assert {"platos-cave/default", "platos-cave/wide"} <= names
