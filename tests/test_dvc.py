"""What DVC shows of a project: between two commits, in a clone, with studies that nobody has run.

One small study is run once with `dvc repro` and once with `dvc exp run -S`, each in a commit; DVC's own commands then
read the two.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli.app import app
from pipeline.cli.new_study import copy_pipeline, create_study
from pipeline.doctor import CHECKS, find_target
from pipeline.environment import Resources
from pipeline.errors import InputError
from pipeline.files import read_csv, read_json, write_text
from pipeline.params import Params, dump_yaml, read_yaml
from pipeline.study import Study, activate, active
from tests.small import ROOT
from tests.workshop import QUICK, make_study, rows
from tests.zygote import run

SHIPPED = ("depth_width", "iwae_table1", "one_bound", "rate_distortion", "rate_distortion_mnist")
NUMBERS = {"elbo", "reconstruction", "kl", "gap", "nll", "bpd"}
METRICS = "experiments/default/metrics/vae.json"
IDENTITY = ("-c", "user.name=t", "-c", "user.email=t@t")
SMALL = {key: value for key, value in QUICK.items() if not key.startswith("data.")} | {
    "variants": {"vae": {"model.depth": 1, "model.z_ratio": 1.0}},
    "train.seeds": [0],
    "train.batch_size": 200,
    "sweep.trials": 2,
    "sweep.epochs": 1,
}


def git(folder: Path, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True).stdout


def dvc(folder: Path, *words: str) -> str:
    return run(folder, "dvc", *words, COLUMNS="200").stdout


def commit(folder: Path, tag: str) -> None:
    git(folder, "add", "-A")
    git(folder, *IDENTITY, "commit", "-qm", tag)
    git(folder, "tag", tag)


def cave(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str) -> str:
    """Run the command line in this process; return what it prints."""
    monkeypatch.chdir(folder)
    capsys.readouterr()
    app(list(words), standalone_mode=False)
    return capsys.readouterr().out


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a project with the commits `before` and `after`, between which one setting and its results changed."""
    folder = tmp_path_factory.mktemp("dvc") / "project"
    make_study(folder)  # for its MLflow store
    shutil.copytree(ROOT / "pipeline", folder / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / ".dvc" / "plots", folder / ".dvc" / "plots")
    for name in SHIPPED:
        (folder / "experiments" / name).mkdir(parents=True)
        for file in ("dvc.yaml", "params.yaml", ".dvcignore"):
            shutil.copy(ROOT / "experiments" / name / file, folder / "experiments" / name)
    for name in ("dvc.yaml", ".dvcignore", ".gitignore", "pyproject.toml", ".dvc/config"):
        shutil.copy(ROOT / name, folder / name)
    (folder / "params.yaml").write_text(dump_yaml(Params.read(ROOT / "params.yaml", SMALL)))
    git(folder, "init", "-q", "-b", "main")
    for key in ("user.name", "user.email"):
        git(folder, "config", key, "t@t")
    dvc(folder, "remote", "add", "--quiet", "--default", "store", str(folder.parent / "remote"))
    commit(folder, "made")
    dvc(folder, "repro")
    commit(folder, "before")
    dvc(folder, "exp", "run", "--name", "faster", "-S", "train.learning_rate=0.01")
    commit(folder, "after")
    return folder


def number(folder: Path, revision: str, name: str) -> float:
    """Return a number of the committed metrics, read without DVC."""
    value: float = json.loads(git(folder, "show", f"{revision}:{METRICS}"))[name]
    return value


@pytest.mark.slow
def test_dvc_shows_between_two_commits_what_has_changed(project: Path) -> None:
    """`params diff`, `metrics diff`, `plots diff`, `exp show` and `exp diff` have both commits' values."""
    elbo = {revision: number(project, revision, "elbo") for revision in ("before", "after")}
    assert elbo["before"] != elbo["after"]
    params = json.loads(dvc(project, "params", "diff", "--json", "before", "after"))
    assert list(params["params.yaml"]) == ["train.learning_rate"]
    assert [params["params.yaml"]["train.learning_rate"][key] for key in ("old", "new")] == [0.003, 0.01]
    metrics = json.loads(dvc(project, "metrics", "diff", "--json", "before", "after"))
    assert [metrics[METRICS]["elbo"][key] for key in ("old", "new")] == [elbo["before"], elbo["after"]]
    assert set(json.loads(dvc(project, "metrics", "show", "--json"))[""]["data"][METRICS]["data"]) == NUMBERS
    assert max(map(len, dvc(project, "metrics", "show").splitlines())) <= 120
    compared = json.loads(dvc(project, "exp", "diff", "--json", "before", "after"))
    assert compared["params"]["params.yaml"]["train.learning_rate"]["new"] == 0.01
    assert compared["metrics"][METRICS]["elbo"]["old"] == elbo["before"]
    shown = dvc(project, "exp", "show", "--csv", "--rev", "before", "--rev", "after", "--only-changed")
    header, *table = [line.split(",") for line in shown.splitlines()]
    by_rev = {row[header.index("rev")]: dict(zip(header, row, strict=True)) for row in table}
    for name, revision, rate in (("before", "before", 0.003), ("main", "after", 0.01)):
        row = by_rev[name]  # the commit that is checked out stands under its branch
        assert (float(row["train.learning_rate"]), float(row["elbo"])) == (rate, elbo[revision])
    assert "faster" in shown
    dvc(project, "plots", "diff", "before", "after", "--out", "shown")
    page = (project / "shown" / "index.html").read_text()
    for revision in ("before", "after"):
        csv = dvc_file(project, revision)
        assert f'"valid/elbo": "{csv}", "rev": "{revision}"' in page
        assert f"{revision}_experiments_default_report_figures_bounds.png" in page
        assert f"{revision}_experiments_default_sweep_vae_figures_history.png" in page
    assert "nats per example" in page


def dvc_file(folder: Path, revision: str) -> str:
    """Return the last validation bound of the plotted curve as a revision has it."""
    dvc(
        folder, "get", "--quiet", "--rev", revision, ".", "experiments/default/report/curves.csv", "-f", "-o", "got.csv"
    )
    return read_csv(folder / "got.csv")[-1]["valid/elbo"]


@pytest.mark.slow
def test_an_experiment_uses_the_setting_it_is_given(project: Path) -> None:
    """`dvc exp run -S` trains with the changed value, which `exp show` lists under the experiment's name."""
    model = read_json(project / "experiments" / "default" / "train" / "vae" / "seed-0" / "mlflow.json")
    query = "select value from params where run_uuid = ? and key = 'train.learning_rate'"
    assert rows(project / "mlflow.db", query, model["run"]) == [("0.01",)]
    assert read_yaml(project / "params.yaml")["train"]["learning_rate"] == 0.01
    assert "faster" in dvc(project, "exp", "list", "--name-only", "--rev", "before")


@pytest.mark.nightly
def test_studies_that_nobody_has_run_do_not_disturb(project: Path, tmp_path: Path) -> None:
    """Status, dag, push, checkout and pull work, also in a clone, though the shipped studies have no outputs."""
    dvc(project, "push")
    clone = tmp_path / "clone"
    git(project, "clone", "-q", str(project), str(clone))
    dvc(clone, "pull")
    for folder in (project, clone):
        dvc(folder, "checkout")
        assert "up to date" in dvc(folder, "status")
        assert "No changes" in dvc(folder, "data", "status")
        assert max(map(len, dvc(folder, "dag").splitlines())) <= 120
        assert json.loads(dvc(folder, "metrics", "show", "--json"))[""]["data"][METRICS]["data"]["elbo"]
    assert (clone / "experiments" / "default" / "report" / "report.html").exists()
    run(clone, "pipeline", "study", "activate", "iwae_table1")
    planned = dvc(clone, "repro", "--dry", "experiments/iwae_table1/dvc.yaml:fetch")
    assert "exec python -m pipeline.stages fetch" in planned


# --- Copies of dvc.yaml


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a project's root with settings and a pipeline, and no study."""
    folder = tmp_path / "root"
    folder.mkdir()
    for name in ("params.yaml", "dvc.yaml", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    return folder


def test_a_new_study_has_a_file_and_no_link(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`cave study new` copies the root's dvc.yaml, and replaces a link that an earlier version has made."""
    cave(root, capsys, monkeypatch, "study", "new", "wide")
    copy, content = root / "experiments" / "wide" / "dvc.yaml", (root / "dvc.yaml").read_bytes()
    assert not copy.is_symlink()
    assert copy.read_bytes() == content
    copy.unlink()
    copy.symlink_to("../../dvc.yaml")
    output = cave(root, capsys, monkeypatch, "study", "new", "wide")
    assert "experiments/wide/dvc.yaml was a link and is now a copy" in output
    assert not copy.is_symlink()
    assert (copy.read_bytes(), (root / "dvc.yaml").read_bytes()) == (content, content)


def test_copies_are_refreshed_and_nothing_is_lost(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`cave study refresh` replaces links and old copies, one line each, and saves what is in no commit."""
    folders = [create_study(root, name, {}).folder for name in ("link", "own", "same")]
    (folders[0] / "dvc.yaml").unlink()
    (folders[0] / "dvc.yaml").symlink_to("../../dvc.yaml")
    (folders[1] / "dvc.yaml").write_text("stages: {}\n")
    findings = {finding.level: finding for finding in CHECKS["dvc.yaml"](find_target(root, root))}
    assert (set(findings), "link" in findings["fault"].message, "own" in findings["warning"].message) == (
        {"fault", "warning"}, True, True,
    )  # fmt: skip
    assert findings["fault"].fix.endswith("cave study refresh")
    output = cave(root, capsys, monkeypatch, "study", "refresh").splitlines()
    assert [line.split(" ")[0] for line in output] == ["experiments/link/dvc.yaml", "experiments/own/dvc.yaml"]
    assert (folders[1] / "dvc.yaml.before").read_text() == "stages: {}\n"
    for folder in folders:
        assert not (folder / "dvc.yaml").is_symlink()
        assert (folder / "dvc.yaml").read_bytes() == (root / "dvc.yaml").read_bytes()
    assert [finding.level for finding in CHECKS["dvc.yaml"](find_target(root, root))] == ["ok"]
    assert cave(root, capsys, monkeypatch, "study", "refresh") == ""


def test_a_copy_without_an_original_is_one_line(root: Path) -> None:
    """Where the root has no dvc.yaml, a copy of it is refused in one line."""
    (root / "dvc.yaml").unlink()
    with pytest.raises(InputError, match=r"dvc\.yaml: cannot be read"):
        copy_pipeline(root, root / "experiments" / "wide")


@pytest.mark.parametrize("own", ["", "big/\n"])
def test_a_study_is_activated_once(
    root: Path, own: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`cave study activate` takes the line away that hides a study from DVC, and no other line of a user's."""
    study = create_study(root, "table", {})
    text = (ROOT / "experiments" / "iwae_table1" / ".dvcignore").read_text()
    (study.folder / ".dvcignore").write_text(text + own)
    assert not active(study.folder)
    listed = cave(root, capsys, monkeypatch, "study", "list")
    assert "dvc repro, inactive" in listed
    assert "cave study activate table" in listed
    assert study.how("report") == (
        "Reproduce with `cave study activate table && dvc repro experiments/table/dvc.yaml:report`."
    )
    cave(root, capsys, monkeypatch, "study", "activate", "table")
    assert active(study.folder)
    assert (study.folder / ".dvcignore").exists() == bool(own)
    assert study.how("report") == "Reproduce with `dvc repro experiments/table/dvc.yaml:report`."
    activate(study.folder)
    with pytest.raises(InputError, match=r"no dvc\.yaml of its own"):
        cave(root, capsys, monkeypatch, "study", "activate", "default")


def test_the_metrics_file_has_the_numbers_that_people_compare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """metrics/<variant>.json holds means over seeds under plain names; a term that was not measured is left out."""
    from pipeline import data
    from pipeline.files import write_json
    from pipeline.stages import evaluate, fetch, prepare

    study = make_study(tmp_path, variants={"vae": {"model.depth": 1}})
    fetch.run(study)
    prepare.run(study)
    results: dict[int, dict[str, Any]] = {
        seed: {f"test/{name}": {"value": float(seed + 1), "se": 0.1} for name in [*NUMBERS - {"bpd"}, "rate/z1"]}
        for seed in (0, 1)
    }

    def measured(*_: Any) -> None:
        for seed, findings in results.items():
            write_json(study.evaluate("vae") / f"seed-{seed}.json", {"final": findings, "milestones": {}})
            write_json(study.train("vae") / f"seed-{seed}" / "model.json", {"best_epoch": 1})
            write_json(study.train("vae") / f"seed-{seed}" / "mlflow.json", {"run": None, "key": f"vae/{seed}"})
            write_text(study.train("vae") / f"seed-{seed}" / "curves.csv", "epoch,valid/objective\n1,-2.0\n")

    monkeypatch.setattr(evaluate.processes, "map_in_workers", measured)
    assert data.load(study.data).binary
    evaluate.run(study, "vae")
    assert read_json(study.metrics("vae")) == dict.fromkeys(NUMBERS - {"bpd"}, 1.5)


def test_models_that_dvc_has_removed_come_back_from_its_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where settings, data and code are the same, texts apart, a seed is not trained again; else it is."""
    from pipeline import data
    from pipeline.jobs.cached_models import restore_models, stage_digest
    from pipeline.jobs.final_models import state_digest
    from pipeline.stages import fetch, prepare, train

    overrides = {"variants": {"vae": {"model.depth": 1}}, "sweep.space": {}, "train.seeds": [0, 1]}
    study = make_study(tmp_path, **overrides)
    fetch.run(study)
    prepare.run(study)
    state = state_digest(study.params.variant("vae"), data.load(study.data))
    curve = "epoch,valid/elbo\n1,-2.0\n"

    def cache(content: str, ending: str = "") -> str:
        md5 = hashlib.md5(content.encode(), usedforsecurity=False).hexdigest()
        path = tmp_path / ".dvc" / "cache" / "files" / "md5" / md5[:2] / f"{md5[2:]}{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        return md5 + ending

    def keep(key: str, code: str, torch: str = version("torch")) -> None:
        named = {"run": "a", "key": key, "code": code, "version/torch": torch, "version/numpy": version("numpy")}
        files = {"curves.csv": curve, "mlflow.json": json.dumps(named)}
        entries = [{"md5": cache(text), "relpath": f"seed-0/{name}"} for name, text in files.items()]
        out = {"path": os.path.relpath(study.train("vae"), tmp_path), "md5": cache(json.dumps(entries), ".dir")}
        (tmp_path / "dvc.lock").write_text(json.dumps({"schema": "2.0", "stages": {"train@vae": {"outs": [out]}}}))

    def trained(study: Study, variant: str, seed: int, resources: Resources) -> None:
        write_text(study.train(variant) / f"seed-{seed}" / "curves.csv", curve.replace("2.0", "4.0"))

    monkeypatch.setattr(train, "train_seed", trained)
    for key, code in (("a/0/other", stage_digest()), (f"a/0/{state}", "other")):
        keep(key, code)
        assert restore_models(study, "vae") == []
    keep(f"a/0/{state}", stage_digest(), torch="1.0")
    assert restore_models(study, "vae") == []
    keep(f"a/0/{state}", stage_digest())
    assert restore_models(make_study(tmp_path, **overrides, **{"train.learning_rate": 0.5}), "vae") == []
    train.run(make_study(tmp_path, **overrides), "vae", Resources(workers=1))
    assert [row["valid/elbo"] for row in read_csv(study.curves("vae"))] == ["-3.0"]
    shutil.rmtree(study.train("vae"))
    for path in (tmp_path / ".dvc" / "cache").rglob("*"):
        if path.is_file() and path.read_text() == curve:
            path.write_text("damaged")
    assert restore_models(study, "vae") == []
