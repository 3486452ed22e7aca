"""Evaluated models are models of MLflow: loaded by study, variant and alias, registered once, without pickles."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline import data
from pipeline.evaluation.application import apply_model
from pipeline.evaluation.saved_model import test_pixels as pixels_of
from pipeline.files import read_json, sha256, write_csv, write_json, write_parquet, write_text
from pipeline.jobs.epoch_pictures import log_pictures
from pipeline.jobs.evaluation_files import write_evaluation
from pipeline.jobs.mlflow_model import mlflow_model_files
from pipeline.jobs.mlflow_tables import IMAGE_TABLE, TERM_TABLE, model_tables
from pipeline.models import build, checkpoint
from pipeline.models.mosaics import mosaics
from pipeline.objectives import elbo
from pipeline.randomness import seeded
from pipeline.run_folders import RunSpec
from pipeline.stages import fetch, prepare
from pipeline.study import Study
from pipeline.tracking import Tracker, log_report, mark_current, registered_name, remove_experiments
from pipeline.tracking.media import TABLES, tables_tag
from tests.command import call
from tests.small import model_params
from tests.workshop import make_study, rows

pytestmark = pytest.mark.slow

VERSIONS = "select version, run_id, source from model_versions where current_stage != 'Deleted_Internal'"
ALIASES = "select name, alias, version from registered_model_aliases"
BOUNDS = {0: -9.0, 1: -7.0}  # on the validation set, by seed


def image_rows(count: int = 5) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 2, (count, 4, 4)).astype("float32")


@pytest.mark.parametrize("inference", ["bottom_up", "top_down"])
def test_a_model_applied_to_images_has_the_numbers_of_the_bound(inference: str) -> None:
    """Bounds are those of `elbo` at the same draws; latents and reconstructions do not depend on them."""
    model = build(model_params(inference=inference), torch.zeros(16), (1, 4, 4)).eval()
    images = image_rows()
    results = apply_model(model, images, draws=7, seed=3)
    x = torch.tensor(images).flatten(1)
    with seeded(3, "application"), torch.no_grad():
        model.posterior(x)
        bound = elbo(model, x, 7)
    assert np.array_equal(results["elbo"], bound.elbo.numpy())
    assert np.array_equal(results["nll"], -bound.iwae.numpy())
    assert np.array_equal(results["rate/z2"], bound.rate[1].mean(0).numpy())
    others = apply_model(model, images.reshape(5, 16), draws=2)
    assert np.array_equal(results["z2"], others["z2"])
    assert np.array_equal(results["reconstructions"].reshape(5, 16), others["reconstructions"])
    assert results["reconstructions"].shape == images.shape
    assert results["z1"].shape == (5, 4)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Return a study with two models of a variant, evaluated and logged as the stages do it."""
    for name in ("MLFLOW_TRACKING_URI", "DVC_ROOT"):
        os.environ.pop(name, None)
    return evaluated(make_study(tmp_path_factory.mktemp("study")))


def evaluated(made: Study) -> Study:
    """Train and evaluate nothing, but write and log what stages do."""
    params = model_params()
    fetch.run(made)
    prepare.run(made)
    images = data.load(made.data)
    for seed, bound in BOUNDS.items():
        folder = made.train("vae") / f"seed-{seed}"
        torch.manual_seed(seed)
        checkpoint.save_model(folder, build(params, torch.zeros(784), images.shape), params, images, best_epoch=2)
        write_csv(folder / "curves.csv", [{"epoch": e, "valid/objective": bound + 5 * (e == 1)} for e in (1, 2)])
        spec = RunSpec(stage="train", variant="vae", seed=seed, params=made.params, rng_seed=seed)
        run = Tracker(made).start(spec, key=f"vae/{seed}", name=f"vae {seed}", splits=images, about="a run")
        run.log_result("weights_digest", "1", {}, {"model": [folder / "model.safetensors", folder / "model.json"]})
        log_pictures(run, checkpoint.load(folder), images, 0, 1)
        run.finish()
        write_json(folder / "mlflow.json", {"experiment": None, "run": run.run_id, "key": run.key})
        write_json(made.evaluate("vae") / f"seed-{seed}.json", {"final": {}, "milestones": {}})
        run = Tracker(made).reopen(run.key, run.run_id)
        test, values = pixels_of(images, torch.device("cpu")), made.evaluate("vae") / f"seed-{seed}.parquet"
        write_parquet(values, {"image": range(len(test)), "elbo": np.arange(len(test)) / 4})
        tables = model_tables(folder, values, images, test, {"elbo": {"value": -7.12345678, "se": 0.5}})
        run.log_result(TABLES, tables_tag([IMAGE_TABLE, TERM_TABLE]), {}, {}, tables)
        with mlflow_model_files(folder, images, test) as files:
            run.log_result("model", registered_name(made, "vae"), {}, {"model": files})
        run.finish(None)
    write_evaluation(made, "vae")
    return made


def registry(study: Study) -> tuple[list[Any], list[Any]]:
    """Return the versions and the aliases in the registry."""
    database = study.shared_root / "mlflow.db"
    return rows(database, VERSIONS), rows(database, ALIASES)


def run_of(study: Study, seed: int) -> str:
    return str(read_json(study.train("vae") / f"seed-{seed}" / "mlflow.json", "run")["run"])


def test_killed_after_a_version_was_made_none_is_made_twice(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process dies between a version and its alias; the next one does the rest, and makes no second version."""
    import mlflow

    create = mlflow.MlflowClient.create_model_version

    def killed(*arguments: Any, **options: Any) -> None:
        create(*arguments, **options)
        os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        monkeypatch.setattr(mlflow.MlflowClient, "create_model_version", killed)
        mark_current(study)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert [len(part) for part in registry(study)] == [1, 0]
    assert mark_current(study)
    versions, aliases = registry(study)
    assert sorted(run for _, run, _ in versions) == sorted(run_of(study, seed) for seed in BOUNDS)
    champion = next(version for version, run, _ in versions if run == run_of(study, 1))  # of the best last epoch
    assert aliases == [("default.vae", "champion", champion)]
    before = (study.shared_root / "mlflow.db").read_bytes()
    assert mark_current(study)
    assert (study.shared_root / "mlflow.db").read_bytes() == before


def test_a_model_that_was_made_off_line_is_registered_by_cave_sync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing was sent while MLflow was away; the command publishes the runs and registers their models, once."""
    monkeypatch.chdir(tmp_path)
    write_text(tmp_path / "pyproject.toml", "")
    with monkeypatch.context() as away:
        away.setattr("pipeline.tracking.server.Server.can_send", lambda *_, **__: False)
        made = evaluated(make_study(tmp_path))
    assert [run_of(made, seed) for seed in BOUNDS] == ["None", "None"]
    assert registry(made) == ([], [])
    for _ in range(2):
        code, out, err = call("sync")
        assert (code, err) == (0, "")
        versions, aliases = registry(made)
        assert len(versions) == 2
        assert [alias[:2] for alias in aliases] == [("default.vae", "champion")]
    assert out == f"sent to MLflow at {Tracker(made).server.address}: 0; left: 0\n"


def test_a_model_is_loaded_by_its_alias_with_equal_numbers(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """`mlflow.pyfunc.load_model` gives the numbers of the saved model bit for bit, and no file is a pickle."""
    import mlflow

    mark_current(study)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{study.shared_root}/mlflow.db")
    loaded = mlflow.pyfunc.load_model("models:/default.vae@champion")
    images = np.random.default_rng(0).integers(0, 2, (3, 28, 28)).astype("float32")
    results = loaded.predict(images, params={"draws": 4, "seed": 1})
    expected = apply_model(checkpoint.load(study.train("vae") / "seed-1"), images, 4, 1)
    assert results.keys() == expected.keys()
    assert all(np.array_equal(results[name], expected[name]) for name in expected)
    assert [spec.name for spec in loaded.metadata.signature.outputs] == list(expected)
    assert np.asarray(loaded.input_example).shape == (2, 28, 28)
    names = {path.name for path in (study.shared_root / "mlartifacts").rglob("model/*")}
    assert names >= {"MLmodel", "model.py", "model.safetensors", "model.json", "requirements.txt"}
    assert not [name for name in names if name.endswith(("pkl", "pickle", "pth", "pt", "bin"))]


def test_the_card_describes_the_model_once_it_is_of_this_evaluation(study: Study) -> None:
    """A card of another evaluation is not shown; the present one is the description of the registered model."""
    path = study.report / "models" / "vae.md"
    query = "select description from registered_models"
    write_text(path, "numbers of another evaluation")
    mark_current(study)
    assert rows(study.shared_root / "mlflow.db", query) == [
        ("The final models of vae. Reproduce with `dvc repro report`.",)
    ]
    card = f"numbers of {sha256([(study.evaluate('vae') / 'decomposition.json').read_bytes()])[:12]}"
    write_text(path, card)
    mark_current(study)
    assert rows(study.shared_root / "mlflow.db", query) == [(card,)]


@pytest.mark.parametrize("code", ["ENDPOINT_NOT_FOUND", "PERMISSION_DENIED", "FEATURE_DISABLED"])
def test_a_server_without_a_registry_costs_one_line(
    study: Study, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], code: str
) -> None:
    """Runs are marked as current all the same."""
    import mlflow
    from mlflow.exceptions import MlflowException

    def refused(*_: Any) -> None:
        raise MlflowException("no such thing here", getattr(mlflow.protos.databricks_pb2, code))

    monkeypatch.setattr(mlflow.MlflowClient, "get_registered_model", refused)
    assert mark_current(study)
    assert capsys.readouterr().err == (
        "default: MLflow registers no models (no such thing here); they remain in their runs\n"
    )


def test_tables_and_pictures_are_what_mlflow_reads(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables are read back by MLflow, their images and the pictures of an epoch lie where its pages look for them."""
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{study.shared_root}/mlflow.db")
    client, run_id = mlflow.MlflowClient(), run_of(study, 0)
    run = client.get_run(run_id)
    assert run.data.tags["mlflow.loggedImages"] == "True"
    terms = client.load_table(run.info.experiment_id, "terms.json", [run_id])
    assert terms.to_dict("records") == [{"term": "elbo", "value": -7.12346, "standard error": 0.5, "unit": "nats"}]
    images = client.load_table(run.info.experiment_id, "test_images.json", [run_id])
    assert images["elbo (nats)"].tolist() == [number / 4 for number in range(16)]
    folder = study.shared_root / "mlartifacts" / study.name / run_id / "artifacts"
    assert all((folder / cell["filepath"]).is_file() for cell in images["reconstruction"])
    names = sorted(path.name for path in (folder / "images").iterdir())
    assert [name.partition("+time")[0] for name in names[::2]] == [
        f"pictures~{kind}+step+0" for kind in ("levels", "reconstructions", "samples")
    ]
    assert {name.rpartition(".")[2] for name in names} == {"png", "webp"}


def test_pictures_leave_the_training_as_it_is() -> None:
    """Mode and random numbers stay; equal weights have equal pictures."""
    model = build(model_params(batch_norm=True), torch.zeros(16), (1, 4, 4)).train()
    before = torch.get_rng_state()
    first, second = (mosaics(model, torch.zeros(8, 16), (1, 4, 4)) for _ in range(2))
    assert model.training
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert {name: tuple(picture.shape) for name, picture in first.items()} == {
        "samples": (1, 20, 40), "reconstructions": (1, 10, 40), "levels": (1, 10, 40),
    }  # fmt: skip


def test_the_report_is_an_artifact_of_one_run(study: Study) -> None:
    """A report that is made again replaces the files of its run."""
    for text in ("first", "second"):
        for name in ("report.html", "table.md", "results.csv"):
            write_text(study.report / name, text)
        log_report(study)
    query = (
        "select run_uuid, status from runs join tags t using (run_uuid) where t.key = 'stage' and t.value = 'report'"
    )
    [(run, status)] = rows(study.shared_root / "mlflow.db", query)
    assert status == "FINISHED"
    page = study.shared_root / "mlartifacts" / study.name / run / "artifacts" / "report.html"
    assert page.read_text() == "second"


def test_a_removed_study_leaves_its_name_to_a_later_one(study: Study) -> None:
    """Its models get other names, once, as its experiment does."""
    mark_current(study)
    assert remove_experiments(study) == 1
    assert remove_experiments(study) == 0
    [(name,)] = rows(study.shared_root / "mlflow.db", "select name from registered_models")
    assert name.startswith("default.vae (removed ")
    assert name.count("(") == 1
