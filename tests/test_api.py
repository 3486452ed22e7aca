"""The package in Python: a model is trained, loaded and measured in a line each, as the stages and commands do it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import pipeline as cave
from pipeline.environment import Resources
from pipeline.errors import InputError
from pipeline.files import read_json
from pipeline.stages import evaluate, fetch, prepare, train
from pipeline.study import Study
from tests.small import ROOT
from tests.test_docs import CODE
from tests.workshop import make_study, registries_restored, rows

SETTINGS = {"depth": 2, "z_dim": 4, "hidden": [[8]], "epochs": 2, "batch_size": 64}
ONE = Resources(workers=1, threads=1)
EVALUATION = {"draws": 20, "active_draws": 20, "milestone_draws": 20}
BLOCKS = [code for kind, code in CODE.findall((ROOT / "README.md").read_text()) if kind == "python"][1:]
GUIDE = [code for kind, code in CODE.findall((ROOT / "docs" / "python.md").read_text()) if kind == "python"]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Study]:
    """Return the default study of a project, with one variant that its stages have trained and evaluated."""
    overrides = {
        f"{'train' if name in ('epochs', 'batch_size') else 'model'}.{name}": v for name, v in SETTINGS.items()
    }
    overrides |= {f"evaluate.{name}": value for name, value in EVALUATION.items()} | {"evaluate.k": [1, 20]}
    overrides |= {"data.name": "digits", "train.seeds": [0], "sweep.space": {}, "variants": {"mhvae": {}}}
    folder, before = tmp_path_factory.mktemp("project"), Path.cwd()
    made = make_study(folder, **overrides)
    (folder / "pyproject.toml").touch()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_TRACKING_URI", "DVC_ROOT"):
            patch.delenv(name, raising=False)
        patch.chdir(folder)
        fetch.run(made)
        prepare.run(made)
        train.run(made, "mhvae", ONE)
        evaluate.run(made, "mhvae", ONE)
        yield made
    os.chdir(before)


@pytest.fixture(scope="module")
def model() -> cave.Model:
    """Return a model of grey images of 8 x 8 pixels, trained for an epoch."""
    return cave.fit("digits", **SETTINGS | {"epochs": 1}, progress=False)


@pytest.mark.slow
def test_a_fit_is_the_training_of_a_stage(study: Study, tmp_path: Path) -> None:
    """The weights, the records and the numbers of the evaluation are bit for bit those of the stages."""
    fitted = cave.fit("digits", **SETTINGS, progress=False)
    fitted.save(tmp_path)
    stage = study.train("mhvae") / "seed-0"
    assert (tmp_path / "model.safetensors").read_bytes() == (stage / "model.safetensors").read_bytes()
    loaded = cave.load(stage)
    columns = [name for name in loaded.history if "/" in name]
    assert fitted.history[columns].equals(loaded.history[columns])
    assert len(columns) > 8
    assert fitted.splits is not None
    x = fitted.splits.test.reshape(-1, 8, 8) / fitted.splits.scale
    assert np.array_equal(fitted.elbo(x), loaded.elbo(x))
    measured = read_json(study.evaluate("mhvae") / "decomposition.json")["seeds"]["0"]
    assert abs(fitted.elbo(x).mean() - measured["test/elbo"]["value"]) < 5 * measured["test/elbo"]["se"]
    names = {name.removeprefix("test/") for name in measured if not name.startswith("test/generalization/")}
    assert names == set(cave.evaluate(loaded, x[:20], **EVALUATION).index)


@pytest.mark.slow
def test_models_are_loaded_from_a_folder_a_run_and_the_registry(study: Study) -> None:
    """All three have the same weights, and the first the history of its training."""
    folder = study.train("mhvae") / "seed-0"
    run = read_json(folder / "mlflow.json")["run"]
    first, *others = [cave.load(source) for source in (folder, run, "models:/default.mhvae@champion")]
    x = first.sample(3, seed=0)
    assert [np.array_equal(first.elbo(x), other.elbo(x)) for other in others] == [True, True]
    assert (len(first.history), others[0].run_id) == (2, run)


@pytest.mark.slow
def test_runs_and_results_are_typed_tables(study: Study) -> None:
    """`runs` has the final model with its nll, `results` every number; counts are integers, values floats."""
    runs, results = cave.runs("default"), cave.results()
    assert runs[["variant", "number", "epoch"]].values.tolist()[0][:2] == ["mhvae", 0]
    assert [str(runs.dtypes[name]) for name in ("number", "value", "run")] == ["Int64", "float64", "str"]
    nll = results.query("metric == 'nll'").value.item()
    assert nll == runs.value.item()
    assert [str(results.dtypes[name]) for name in ("seed", "value", "se")] == ["int64", "float64", "float64"]


@pytest.mark.slow
def test_a_logged_fit_is_a_run_of_its_own_experiment(study: Study) -> None:
    """One that was broken off goes on: one finished run, a row an epoch, with the weights of one that was not."""
    begun = cave.steps("digits", **SETTINGS, log="trial")
    next(begun)
    begun.close()
    fitted = cave.fit("digits", **SETTINGS, log="trial", progress=False)
    logged = rows(
        study.shared_root / "mlflow.db",
        "select r.run_uuid, r.status,"
        " (select count(*) from metrics m where m.run_uuid = r.run_uuid and m.key = 'valid/elbo')"
        " from runs r join experiments e using (experiment_id) where e.name = 'platos-cave/trial'",
    )
    assert logged == [(fitted.run_id, "FINISHED", 2)]
    whole = cave.fit("digits", **SETTINGS, progress=False)
    loaded = cave.load(str(fitted.run_id))
    for model in (fitted, loaded):
        assert all(map(torch.equal, model.module.parameters(), whole.module.parameters()))
    assert len(fitted.history) == 2
    assert not [path for path in study.runs.glob("*") if "fit" in path.name]


@pytest.mark.slow
def test_the_python_of_the_documents_runs(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of the README and of docs/python.md run as printed, in their order, in a project."""
    monkeypatch.chdir(study.root)
    for blocks in (BLOCKS, GUIDE):
        values: dict[str, object] = {}
        with registries_restored():
            for code in blocks:
                exec(compile(code, "block", "exec"), values)


@pytest.mark.parametrize("shape", [(3, 8, 8), (3, 1, 8, 8)], ids=str)
@pytest.mark.parametrize("make", [np.zeros, torch.zeros], ids=["array", "tensor"])
def test_images_in_images_out(
    model: cave.Model, make: Callable[[tuple[int, ...]], Any], shape: tuple[int, ...]
) -> None:
    """Reconstructions have the form of the images, latents their kind; both are those of the level's means."""
    x = make(shape)
    again, z = model.reconstruct(x), model.encode(x)
    assert (type(again), tuple(again.shape)) == (type(x), shape)
    assert [(type(level), tuple(level.shape)) for level in z] == [(type(x), (3, 4)), (type(x), (3, 2))]
    assert np.array_equal(np.asarray(model.decode(z)).reshape(shape), np.asarray(again))
    assert np.array_equal(np.asarray(model.decode(z[0])), np.asarray(model.decode(z)))


def test_levels_may_be_maps() -> None:
    """Latents are as wide as their maps have pixels, and are decoded as they were encoded."""
    images = np.random.default_rng(0).random((20, 8, 8)) < 0.5
    resnet = {"network": "resnet", "latents": "maps", "hidden": [[4], [4]], "widths": [2, 3], "epochs": 1}
    model = cave.fit(images, **resnet, progress=False)
    z = model.encode(images[:3])
    assert [level.shape for level in z] == [(3, 2 * 16), (3, 3 * 4)]
    assert np.array_equal(model.decode(z), model.reconstruct(images[:3]))


def test_dequantized_images_have_noise(tmp_path: Path) -> None:
    """A density is measured where it was trained, between the grey levels; a saved model knows that."""
    images = np.random.default_rng(0).integers(0, 256, (20, 4, 4), dtype=np.uint8)
    grey = {"binarization": "none", "dequantization": "uniform", "likelihood": "gaussian"}
    model = cave.fit(images, **SETTINGS, **grey, progress=False)
    levels = model.rows(images) * 256
    assert torch.equal(levels.floor(), torch.as_tensor(images).reshape(20, 16).float())
    assert (levels != levels.floor()).any()
    terms = cave.evaluate(model, images, draws=20)
    assert terms.value["bpd"] == pytest.approx(terms.value["nll"] / 16 / np.log(2) + 8)
    model.save(tmp_path)
    assert np.array_equal(cave.load(tmp_path).elbo(images), model.elbo(images))


def test_noise_is_decoded_from_the_top(model: cave.Model) -> None:
    """Noise of 0 gives the image at the mean of every level given the mean above; a latent of 0 gives another."""
    zero = [np.zeros((1, 4)), np.zeros((1, 2))]
    with torch.no_grad():
        z1 = model.module.generative[1](torch.zeros(1, 2)).mean
    assert np.allclose(model.decode_noise(zero), model.decode([z1.numpy(), zero[1]]))
    assert not np.allclose(model.decode_noise(zero), model.decode(zero))


def test_pixels_of_every_type_are_the_same_images(model: cave.Model) -> None:
    """Bool, bytes from 0 to 255 and floats of the same images have the same bound; grey ones are drawn by the seed."""
    x = model.sample(4, seed=0) > 0.5
    bounds = [
        model.elbo(each) for each in (x, x * np.uint8(255), x * np.uint8(1), x / 1.0, torch.as_tensor(x)[:, None])
    ]
    assert all(np.array_equal(bounds[0], other) for other in bounds)
    grey = np.full((2, 8, 8), 0.5)
    assert np.array_equal(model.elbo(grey), model.elbo(grey))
    assert not np.array_equal(model.elbo(grey), model.elbo(grey, seed=1))


def test_the_bound_is_that_of_more_draws(model: cave.Model) -> None:
    """L_500 lies above the elbo, and the mean of both is what `evaluate` measures, within its errors."""
    x = model.sample(20, seed=0)
    terms = cave.evaluate(model, x, draws=500)
    assert (model.log_prob(x) > model.elbo(x, draws=500)).mean() > 0.9
    assert abs(terms.value["elbo"] - model.elbo(x, draws=500).mean()) < 5 * terms.se["elbo"]
    assert abs(terms.value["nll"] + model.log_prob(x).mean()) < 5 * terms.se["nll"]
    assert (terms.unit["elbo"], str(terms.dtypes["se"])) == ("nats", "float64")


def test_a_training_can_be_left_after_an_epoch() -> None:
    """`steps` yields the model after every epoch; the loop ends it, and the whole loop is `fit`."""
    model = next(cave.steps("digits", **SETTINGS))
    assert len(model.history) == 1
    *_, model = cave.steps("digits", **SETTINGS)
    fitted = cave.fit("digits", **SETTINGS, progress=False)
    assert all(map(torch.equal, model.module.parameters(), fitted.module.parameters()))


def test_an_array_is_the_same_images_as_its_file(tmp_path: Path) -> None:
    """Splits and weights are the same; a path and a mapping of splits are taken, too."""
    images = np.random.default_rng(0).random((40, 6, 5))
    np.save(tmp_path / "images.npy", images)
    np.savez(tmp_path / "splits.npz", train=images[:20], valid=images[20:30], test=images[30:])
    parts = {"train": images[:20], "valid": images[20:30], "test": torch.as_tensor(images[30:])}
    for array, file in ((images, "images.npy"), (parts, "splits.npz")):
        first, second = (cave.fit(source, **SETTINGS, progress=False) for source in (array, tmp_path / file))
        assert first.splits is not None
        assert second.splits is not None
        assert first.splits.digest == second.splits.digest
        assert all(map(torch.equal, first.module.parameters(), second.module.parameters()))
    assert [len(first.splits.train), len(first.splits.valid), len(first.splits.test)] == [20, 10, 10]


def test_a_folder_of_photographs_needs_no_settings(tmp_path: Path) -> None:
    """Colour and mixed sizes get the settings that suit them; images go in and come out in either order of axes."""
    for number in range(16):
        pixels = np.random.default_rng(number).integers(0, 256, (8 + number % 2, 9, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    model = cave.fit(tmp_path, **SETTINGS, progress=False)
    assert (model.shape, model.params.likelihood) == ((3, 8, 8), "discretized_logistic")
    last = np.random.default_rng(0).random((3, 8, 8, 3))
    again = model.reconstruct(last)
    assert again.shape == last.shape
    assert np.array_equal(again, np.moveaxis(model.reconstruct(np.moveaxis(last, -1, 1)), 1, -1))
    assert model.sample(2).shape == (2, 3, 8, 8)


def test_progress_is_printed_unless_it_is_not_wanted(capsys: pytest.CaptureFixture[str]) -> None:
    """Where output is no terminal, some epochs get a line."""
    images = np.zeros((20, 4, 4))
    cave.fit(images, **SETTINGS)
    assert capsys.readouterr().out.count("images seed 0: epoch") == 2
    cave.fit(images, **SETTINGS, progress=False)
    assert capsys.readouterr().out == ""


X = np.zeros((20, 8, 8))
BAD: dict[str, tuple[Callable[[cave.Model], object], str]] = {
    "setting": (lambda _: cave.fit(X, depht=2), "depht: no such parameter (did you mean 'depth'?)"),
    "value": (lambda _: cave.fit(X, depth=0), "fit: model.depth: 0 given; allowed: "),
    "pair": (lambda _: cave.fit(X, likelihood="gaussian"), "fit: model.likelihood: 'gaussian' needs grey pixels"),
    "name": (
        lambda _: cave.fit("mnits"),
        "images: 'mnits' given (did you mean 'mnist'?); allowed: a folder or a file, or digits",
    ),
    "one image": (lambda _: cave.fit(X[:1]), "data: 1 image, of which train gets 1"),
    "parts": (lambda _: cave.fit({"train": X}), "images: arrays train given; allowed: train, valid, test"),
    "flat": (lambda _: cave.fit(X.reshape(20, 64)), "images: images of the shape [20, 64]; allowed: [n, h, w]"),
    "ragged": (lambda _: cave.fit([[[1.0]], [[1.0, 2.0]]]), "images: not an array"),
    "text": (lambda m: m.elbo(np.full((2, 8, 8), "a")), "images: <U1 given; allowed: uint8"),
    "integers": (
        lambda m: m.elbo(np.zeros((2, 8, 8), int)),
        "images: int64 given; allowed: uint8 from 0 to 255, float",
    ),
    "range": (lambda m: m.elbo(X + 16), "images: float from 16 to 16 given; allowed: "),
    "nan": (lambda m: m.elbo(X * np.nan), "images: values that are not finite given; allowed: "),
    "size": (
        lambda m: m.elbo(np.zeros((2, 9, 8))),
        "images: shape [2, 9, 8] given; allowed: [n, 1, 8, 8] or [n, 8, 8] or [n, 8, 8, 1]",
    ),
    "none": (lambda m: m.reconstruct(X[:0]), "images: shape [0, 8, 8] given"),
    "latents": (lambda m: m.decode(np.zeros((3, 5))), "z: shapes [[3, 5]] given; allowed: a list of [n, 4], [n, 2]"),
    "noise": (lambda m: m.decode_noise([np.zeros((3, 4))]), "noise: shapes [[3, 4]] given; allowed: a list of [n, 4]"),
    "draws": (lambda m: m.log_prob(X, draws=0), "draws: 0 given; allowed: a whole number from 1"),
    "fraction": (lambda m: m.elbo(X, draws=1.5), "draws: 1.5 given; allowed: a whole number from 1"),
    "no levels": (lambda m: m.decode(3), "z: 3 given; allowed: a list of one array"),
    "log": (lambda _: next(cave.steps(X, log="a/b")), "log: 'a/b' given; allowed: a name of lower-case letters"),
    "study": (lambda _: next(cave.steps(X, log="default")), "log: 'default' is a study; allowed: another name"),
    "cave's size": (lambda _: cave.fit(X, size=3), "fit: data.size: 3 given; allowed: "),
    "count": (lambda m: m.sample(0), "count: 0 given; allowed: a whole number from 1"),
    "term": (lambda m: cave.evaluate(m, X, drawz=2), "drawz: no such parameter (did you mean 'draws'?)"),
    "folder": (
        lambda _: cave.load("nowhere"),
        "nowhere: no such folder; allowed: the folder of a trained model, models:/",
    ),
}


@pytest.mark.parametrize(("call", "message"), BAD.values(), ids=list(BAD))
def test_a_mistake_is_one_line(model: cave.Model, call: Callable[[cave.Model], object], message: str) -> None:
    """It says what was given and what is allowed."""
    with pytest.raises(InputError) as error:
        call(model)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_a_name_that_is_not_offered_is_an_attribute_error() -> None:
    """The package offers what `__all__` lists, and nothing that it lists is missing."""
    assert all(getattr(cave, name) is not None for name in cave.__all__)
    assert set(cave.__all__) <= set(dir(cave))
    with pytest.raises(AttributeError, match="module 'pipeline' has no attribute 'fti'"):
        _ = cave.fti
