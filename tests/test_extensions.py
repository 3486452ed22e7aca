"""Parts that are written outside of the package: registered by name, they keep the contracts and train as others do."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

import pipeline as cave
from pipeline.errors import InputError
from pipeline.evaluation.latents import latents
from pipeline.extensions import register
from pipeline.models import checkpoint
from pipeline.params import DENSITY, Params, own, read_yaml
from pipeline.params.derived import differences
from pipeline.run_folders.source import code_digest
from pipeline.study import pipeline_text
from pipeline.testing import check_likelihood, check_network, check_posterior, check_prior, interval
from pipeline.training.manual.gradient import ManualGradient
from tests.small import ROOT, model_params
from tests.workshop import make_study, registries_restored

PARTS = '''
import torch
from torch import nn
from torch.distributions import Independent, Laplace, MultivariateNormal
from torch.nn.functional import softplus

from pipeline.distributions import DiagGaussian, Family
from pipeline.extensions import register
from pipeline.models import mlp
from pipeline.params import DENSITY


def laplace(raw):
    middle, scale = raw.chunk(2, dim=-1)
    return Independent(Laplace(middle, softplus(scale) + 1e-3, validate_args=False), 1, validate_args=False)


def ridge(raw):
    """A normal of covariance diag(s^2) + u u^T."""
    mean, scale, u = raw.chunk(3, dim=-1)
    covariance = torch.diag_embed((softplus(scale) + 1e-2).square()) + u[..., None] * u[..., None, :]
    return MultivariateNormal(mean, scale_tril=torch.linalg.cholesky(covariance), validate_args=False)


def deep(inputs, outputs, hidden, activation, batch_norm=False, image=None):
    return mlp(inputs, outputs, [*hidden, *hidden], activation, batch_norm, image)


class Wide(nn.Module):
    """A normal prior of one learned deviation."""

    def __init__(self, units):
        super().__init__()
        self.units, self.log_deviation = units, nn.Parameter(torch.zeros(()))

    def forward(self):
        deviation = self.log_deviation.exp().expand(self.units)
        return DiagGaussian(torch.zeros_like(deviation), deviation)


LAPLACE = Family(2, laplace, lambda mean: torch.cat([mean, torch.full_like(mean, -2.0)]))
RIDGE = Family(3, ridge, lambda mean: torch.cat([mean, torch.full_like(mean, 0.54), torch.full_like(mean, 0.1)]))
register("likelihood", "laplace", LAPLACE, measure=DENSITY)
register("posterior", "ridge", RIDGE)
register("network", "deep", deep)
register("prior", "wide", lambda params, units, mean, inference: Wide(units[-1]))
'''
VALUES = {"likelihood": "laplace", "network": "deep", "prior": "wide", "inference": "ridge"}
PATHS = {f"model.{name}": value for name, value in VALUES.items()} | {
    "data.binarization": "none",
    "data.cave.grey": True,
}


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """Return a project's own module, imported; afterwards nothing of it is registered."""
    (tmp_path / "my_parts.py").write_text(PARTS)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(own, "_roots", [])
    monkeypatch.setattr(own, "_imported", set())
    with registries_restored():
        own.import_extensions(["my_parts"], tmp_path)
        yield sys.modules["my_parts"]
    del sys.modules["my_parts"]


def test_parts_from_elsewhere_keep_the_contracts(parts: ModuleType) -> None:
    """The published contracts check them as they check the project's own, and see what breaks one."""
    check_likelihood(parts.LAPLACE, interval(-60.0, 60.0, 4000), tolerance=1e-4)
    check_posterior(parts.RIDGE)
    check_network(parts.deep)
    check_prior(lambda: parts.Wide(2))
    with pytest.raises(AssertionError, match="the mean at `bias` of 0"):
        check_posterior(parts.Family(3, parts.ridge, lambda mean: torch.cat([mean + 1, mean, mean])))


def test_a_model_of_such_parts_is_trained_saved_and_loaded(parts: ModuleType, tmp_path: Path) -> None:
    """All four in one model: `fit` takes their names, autograd trains them, and a loaded model has the same bound."""
    images = np.random.default_rng(0).random((30, 4, 4))
    settings = VALUES | {"binarization": "none", "depth": 2, "z_dim": 3, "hidden": [[6]], "epochs": 1}
    model = cave.fit(images, **settings, progress=False)
    assert not ManualGradient.supports(model.module)
    assert np.isfinite(model.history["valid/elbo"]).all()
    model.save(tmp_path)
    assert np.array_equal(cave.load(tmp_path).elbo(images), model.elbo(images))
    terms = cave.evaluate(model, images[:4], draws=20, active_draws=20)
    assert terms.value["elbo"] == pytest.approx(terms.value["reconstruction"] - terms.value["kl"], abs=1e-4)
    assert "bpd" not in terms.index  # of a density
    few = {"level_images": 2, "level_draws": 2, "inner_draws": 3, "simulated": 2}
    assert {"chain_kl/z1", "levels/gap"} <= set(cave.decompose(model, images[:4], draws=20, **few).index)
    assert latents(model.module, model.rows(images)).nats[1].isfinite().all()  # as the pictures of a stage need them


def test_a_study_names_the_module(parts: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`extensions` in params.yaml brings the module from the project's root; the digest of the code covers it."""
    path = make_study(tmp_path, **PATHS, extensions=["my_parts"]).folder / "params.yaml"
    digest = code_digest("pipeline.training")
    (tmp_path / "my_parts.py").write_text(PARTS.replace("1e-3", "1e-2"))
    from pipeline.run_folders import source

    source._read.cache_clear()
    assert code_digest("pipeline.training") != digest
    digest = code_digest("pipeline.training")  # of a part that a library makes, too
    (tmp_path / "my_parts.py").write_text(
        f"{PARTS}\nimport functools\nregister('network', 'wide', functools.partial(int, 3))\n"
    )
    del sys.modules["my_parts"]
    Params.read(path)
    source._read.cache_clear()
    assert tmp_path / "my_parts.py" in own.extension_files()
    assert code_digest("pipeline.training") != digest
    params = Params.read(path)
    assert (params.model.likelihood, params.measure) == ("laplace", DENSITY)
    names = [name for name in ("my_parts",) if sys.modules.pop(name)]  # as in another process
    sys.path.remove(str(tmp_path))
    assert params.override({"extensions": names}).extensions == ("my_parts",)
    path.write_text(path.read_text().replace("[my_parts]", "[no_parts]"))
    with pytest.raises(InputError, match="extensions: module 'no_parts' cannot be imported: No module"):
        Params.read(path)


def test_dvc_sees_the_module(parts: ModuleType, tmp_path: Path) -> None:
    """The stages that have a model depend on the file of a study's extension, and no others do."""
    study = make_study(tmp_path, **PATHS, extensions=["my_parts", "json"])
    defaults = Params.read_values(ROOT / "params.yaml")
    assert differences(study.params, defaults)["extensions"] == ("my_parts", "json")
    (tmp_path / "dvc.yaml").write_bytes((ROOT / "dvc.yaml").read_bytes())
    (tmp_path / "own.yaml").write_bytes(pipeline_text(tmp_path, study.folder))
    stages = read_yaml(tmp_path / "own.yaml")["stages"]
    depending = {name for name, stage in stages.items() if "${root}/my_parts.py" in stage.get("do", stage)["deps"]}
    assert depending == {"sweep", "train", "evaluate"}


def test_what_is_not_registered_is_refused(tmp_path: Path) -> None:
    """A name without its module is a mistake like any other, and a saved model imports nothing by itself."""
    with pytest.raises(InputError, match=r"fit: model.likelihood: 'laplace' given; allowed: bernoulli,"):
        cave.fit("digits", likelihood="laplace")
    cave.fit("digits", epochs=1, hidden=[[4]], progress=False).save(tmp_path)
    described = (tmp_path / "model.json").read_text()
    (tmp_path / "model.json").write_text(described.replace('"bernoulli"', '"laplace"'))
    with pytest.raises(InputError, match=r"'laplace'.*import the module that registers it"):
        checkpoint.load(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("likelihod", "x", None), "register: kind 'likelihod' given; allowed: likelihood, network, prior, posterior"),
        (("prior", "Wide", None), "register: name 'Wide' given; allowed: lower-case letters, digits and _"),
        (("prior", "vamp", None), "register: name 'vamp' given; allowed: "),
        (("posterior", "top_down", None), "register: name 'top_down' given; allowed: "),
        (("likelihood", "x", None), "register: measure '' given for likelihood x; allowed: probability or density of"),
    ],
)
def test_a_wrong_registration_is_one_line(arguments: tuple[str, str, None], message: str) -> None:
    """It says what is allowed, and registers nothing."""
    with pytest.raises(InputError, match="likelihood x is a function; allowed: a Family"):
        register("likelihood", "x", lambda raw: raw, measure=DENSITY)
    with pytest.raises(InputError) as error:
        register(*arguments)
    assert str(error.value).startswith(message)
    assert model_params().likelihood == "bernoulli"
