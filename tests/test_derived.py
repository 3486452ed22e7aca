"""No default stands in two places: a study's own values, the file derived from them, and the parameters' reference."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.cli.new_study import create_study
from pipeline.cli.parameters import parameter_rows, parameter_table, reference_texts
from pipeline.cli.refresh import refresh_params
from pipeline.errors import InputError
from pipeline.params import Params, read_yaml
from pipeline.params.derived import derive, derived_text, differences, outdated, write_settings
from pipeline.params.reference import entries
from pipeline.study import Study
from tests.command import assert_one_line, call
from tests.small import ROOT
from tests.zygote import run

DEFAULTS = Params.read_values(ROOT / "params.yaml")
STUDIES = sorted(path.parent for path in (ROOT / "experiments").glob("*/params.yaml"))


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a project's root with the default parameters, which becomes the working folder."""
    for name in ("params.yaml", "dvc.yaml", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def change_default(root: Path, old: str, new: str) -> None:
    """Replace a line's beginning in the root's params.yaml."""
    text = (root / "params.yaml").read_text()
    assert text.count(f"\n{old}") == 1
    (root / "params.yaml").write_text(text.replace(f"\n{old}", f"\n{new}"))


# --- The reference


def test_comments_and_reference_are_those_of_the_parameters() -> None:
    """`params.yaml` and `docs/parameters.md` are as `cave params --write` writes them."""
    for path, text in reference_texts(ROOT).items():
        assert path.read_text(encoding="utf-8") == text, "run `cave params --write`"


def test_every_parameter_is_explained() -> None:
    """Each section and parameter has a sentence, and what it takes."""
    paths = {entry.path for entry in entries(Params)}
    assert set(DEFAULTS.flat()) <= paths
    assert len(paths) == len(entries(Params))
    for entry in entries(Params):
        assert entry.meaning.endswith("."), entry
        assert len(entry.meaning) > 8, entry
        assert "\n" not in entry.meaning, entry


@pytest.mark.parametrize(
    ("path", "lines", "words"),
    [
        ("model.depth", 2, ["model.depth", "2", "integer >= 1, <= 1000, or continuous", "Number of latent levels, T."]),
        ("data.cave", 5, ["data.cave.size", "28", "Whether shadows have soft edges"]),
        ("train.clip", 3, ["10.0", "number > 0, or null", "null: no limit."]),
    ],
)
def test_the_table_has_value_and_meaning(path: str, lines: int, words: list[str]) -> None:
    """`cave params PATH` shows a parameter, or the parameters of a section, with their values here."""
    table = parameter_table(parameter_rows(DEFAULTS, DEFAULTS, path))
    assert len(table.splitlines()) >= lines
    for word in words:
        assert word in " ".join(table.split())


def test_params_are_shown_for_a_study_or_refused_in_a_line(root: Path) -> None:
    """`cave params --study` has the study's value; a path that is none gets the nearest."""
    create_study(root, "wide", {"model.z_dim": 64})
    assert "64" in call("params", "model.z_dim", "--study", "wide")[1].splitlines()[1].split()
    assert "16" in call("params", "model.z_dim")[1].splitlines()[1].split()
    line = assert_one_line(*call("params", "model.dept"))
    assert "model.dept: no such parameter (did you mean 'model.depth'?)" in line
    assert "train.horizon: renamed to train.schedule_epochs" in assert_one_line(*call("params", "train.horizon"))


def test_writing_the_reference_keeps_the_values(root: Path) -> None:
    """`cave params --write` leaves every value as it is, and saves what no commit has."""
    text = (root / "params.yaml").read_text().replace("learning_rate: 0.003", "learning_rate: 3.0e-3  # mine\n  ")
    (root / "params.yaml").write_text(text)
    assert call("params", "--write")[1].splitlines() == [
        "params.yaml is written anew; what it was is in params.yaml.before",
        "docs/parameters.md is written anew",
    ]
    assert Params.read_values(root / "params.yaml") == DEFAULTS
    assert (root / "params.yaml.before").read_text() == text
    assert call("params", "--write")[1] == "params.yaml and docs/parameters.md are up to date\n"


# --- A study's own values


@pytest.mark.parametrize("folder", STUDIES, ids=lambda folder: folder.name)
def test_the_studies_that_come_with_the_project_are_derived(folder: Path) -> None:
    """A committed study's params.yaml is what its study.yaml and the defaults give; it repeats no default."""
    params = derive(DEFAULTS, folder)
    assert params is not None
    assert (folder / "params.yaml").read_text() == derived_text(params), "run `cave study refresh`"
    assert set(read_yaml(folder / "study.yaml")) == set(differences(params, DEFAULTS))


FLAT = DEFAULTS.flat()
OTHER: dict[str, list[Any]] = {  # values besides the default ones, each sound by itself
    "data.name": ["cave", "mnist"],
    "data.cave.size": [28, 40],
    "model.depth": [1, 3],
    "model.z_dim": [4, 16],
    "model.widths": [None, (8, 4)],
    "model.sigma": [0.5, "learned"],
    "train.clip": [None, 1.5, 1e-08],
    "train.epochs": [7, 60],
    "train.seeds": [(5,)],
    "sweep.space": [{}, {"train.clip": {"low": 1.0, "high": 10.0, "log": True}}, {"model.z_dim": {"choices": (4, 8)}}],
    "evaluate.decompose": [None],
    "evaluate.decompose.queries": [20],
    "evaluate.outliers": [None, {"data": "shuffled", "images": 50, "draws": 10}],
    "report.published": [{}, {"vae": {'a "paper": 5,\n000 \U0001f5ff': 86.76, "null": -1.0}}],
    "variants": [{"a": {}}, {"null": {"model.hidden": ((3,),)}, "b": {"train.keep": "last"}}],
    "budgets": [
        {"default": {}},
        {"long": {f"train.{name}": 0.123456 for name in ("beta", "clip", "ema", "free_bits")}},
    ],
    "budget": ["long"],
}


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    own=st.fixed_dictionaries({}, optional={path: st.sampled_from(values) for path, values in OTHER.items()}),
    root=st.fixed_dictionaries({}, optional={path: st.sampled_from(values) for path, values in OTHER.items()}),
)
def test_differences_lead_back_to_the_study(
    tmp_path_factory: pytest.TempPathFactory, own: dict[str, Any], root: dict[str, Any]
) -> None:
    """Whatever root and study have, study.yaml holds the differences alone, and with the defaults gives the study."""
    if own.get("evaluate.decompose", 0) is None:
        own.pop("evaluate.decompose.queries", None)
    if root.get("evaluate.decompose", 0) is None:
        root.pop("evaluate.decompose.queries", None)
    defaults = DEFAULTS.override(root)
    params = DEFAULTS.override(own).override({"root": "../..", "out": "."})
    folder = tmp_path_factory.mktemp("study")
    write_settings(folder, params, defaults)
    assert derive(defaults, folder) == params
    assert outdated(defaults, folder) == ""
    for path in read_yaml(folder / "study.yaml") or {}:
        at = defaults.flat() | {name: getattr(defaults, name) for name in ("variants", "budgets", "budget")}
        assert path == "model.depth" or at.get(path, "none") != differences(params, defaults)[path]


def test_a_new_study_holds_what_differs(root: Path) -> None:
    """`cave study new` writes the values that are set and the file derived from them; none of the root's is copied."""
    call("study", "new", "wide", "--set", "model.z_dim=64", "--set", "budget=quick")
    folder = root / "experiments" / "wide"
    values = read_yaml(folder / "study.yaml")
    assert (values["model.z_dim"], values["train.epochs"], values["budgets"]) == (64, 4, {"default": {}})
    assert "train.batch_size" not in values
    assert read_yaml(folder / "params.yaml")["train"]["batch_size"] == 64
    assert Study.at(folder).params.model.z_dim == 64
    assert (folder / "params.yaml").read_text().startswith("# Written by `cave study refresh` from study.yaml")


def test_a_changed_default_is_said_and_reaches_a_study_by_a_refresh(root: Path) -> None:
    """Until the refresh a study is used as it is, and `cave check` and its stages say so; its own values stay."""
    study = create_study(root, "wide", {"model.z_dim": 64, "train.epochs": 60})
    change_default(root, "  batch_size: 64", "  batch_size: 32")
    change_default(root, "  z_dim: 16", "  z_dim: 20")
    line = (
        "experiments/wide/params.yaml differs from study.yaml and the root's defaults in train.batch_size, and is used"
        " as it is; to write it anew: cave study refresh"
    )
    assert line in call("check")[1].splitlines()
    assert Study.at(study.folder).notices("vae")[0] == line
    assert Study.at(study.folder).params.train.batch_size == 64
    code, out, _ = call("study", "refresh")
    assert (code, out.splitlines()) == (
        0,
        [
            "experiments/wide/params.yaml is written anew, with other values of train.batch_size; what it was is in"
            " experiments/wide/params.yaml.before"
        ],
    )
    params = Study.at(study.folder).params
    assert (params.train.batch_size, params.model.z_dim) == (32, 64)
    assert call("study", "refresh")[1] == ""
    assert "differs from study.yaml" not in call("check")[1]
    assert Study.at(study.folder).notices("vae") == Study.at(study.folder).notes("vae")
    assert Study.at(root).notices("vae") == Study.at(root).notes("vae")


def test_a_derived_file_that_was_edited_is_used_and_saved(root: Path) -> None:
    """What `dvc exp run -S` or an editor writes counts until a refresh, which saves it unless a commit has it."""
    study = create_study(root, "wide", {})
    path = study.folder / "params.yaml"
    edited = path.read_text().replace("learning_rate: 0.003", "learning_rate: 0.01")
    path.write_text(edited)
    assert "in train.learning_rate, and is used" in Study.at(study.folder).notices("vae")[0]
    for words in (["init", "-q"], ["add", "-A"], ["-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "a"]):
        subprocess.run(["git", *words], cwd=root, check=True)
    assert call("study", "refresh")[1].endswith("with other values of train.learning_rate\n")
    assert not path.with_name("params.yaml.before").exists()
    path.write_text(edited + "# mine\n")
    assert call("study", "refresh")[1].endswith("what it was is in experiments/wide/params.yaml.before\n")
    assert path.with_name("params.yaml.before").read_text() == edited + "# mine\n"
    path.write_text(path.read_text().replace("seed: 0", "seed:   0"))  # as DVC may lay it out anew
    assert call("study", "refresh")[1] == ""


def test_a_damaged_derived_file_is_written_anew(root: Path) -> None:
    """A params.yaml that cannot be read, or is gone, is derived anew, also after a kill between the two files."""
    study = create_study(root, "wide", {"model.z_dim": 64})
    path, text = study.folder / "params.yaml", (study.folder / "params.yaml").read_text()
    for damage in (b"model: [", b"\xff", text.replace("startup_trials", "startup").encode()):
        path.write_bytes(damage)
        assert "could not be compared with study.yaml" in call("check")[1]
        assert "is written anew, which could not be read; what it was is in" in call("study", "refresh")[1]
        assert (path.read_text(), path.with_name("params.yaml.before").read_bytes()) == (text, damage)
    own = (study.folder / "study.yaml").read_text().replace("model.z_dim: 64", "model.z_dim: 32")
    (study.folder / "study.yaml").write_text(own)  # and the process was killed before the second file
    assert call("study", "refresh")[1].startswith(
        "experiments/wide/params.yaml is written anew, with other values of mod"
    )


def test_a_study_of_an_earlier_version_gets_its_own_values(root: Path) -> None:
    """Without study.yaml a study stands for itself, until a refresh writes it from params.yaml, which stays."""
    study = create_study(root, "wide", {"model.z_dim": 64})
    (study.folder / "study.yaml").unlink()
    text = (study.folder / "params.yaml").read_text()
    change_default(root, "  batch_size: 64", "  batch_size: 32")
    assert "differs from study.yaml" not in call("check")[1]
    assert call("study", "refresh")[1].startswith("experiments/wide/study.yaml is written: ")
    values = read_yaml(study.folder / "study.yaml")
    assert (values["model.z_dim"], values["train.batch_size"]) == (64, 64)
    assert (study.folder / "params.yaml").read_text() == text
    assert call("study", "refresh")[1] == ""


def test_comments_of_a_study_stay(root: Path) -> None:
    """A study that is made again with more trials has them in both files, and its comments."""
    study = create_study(root, "wide", {"model.z_dim": 64})
    path = study.folder / "study.yaml"
    path.write_text("# why this study\n" + path.read_text().replace("model.z_dim: 64", "model.z_dim: 64  # wide"))
    create_study(root, "wide", {"model.z_dim": 64, "sweep.trials": 99})
    assert path.read_text().startswith("# why this study\n")
    assert "model.z_dim: 64  # wide\n" in path.read_text()
    assert read_yaml(path)["sweep.trials"] == Study.at(study.folder).params.sweep.trials == 99
    assert outdated(Params.read_values(root / "params.yaml"), study.folder) == ""


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"- 1\n", "expected a mapping of paths to values, as in `model.depth: 3`, not [1]"),
        (b"model.dept: 3\n", "model.dept: no such parameter (did you mean 'model.depth'?)"),
        (b"model.depth: 0\n", "model.depth: 0 given; allowed: greater than or equal to 1"),
        (b"model: {depth: 3}\n", "model.z_dim: missing"),
        (b"sweep.startup: 3\n", "sweep.startup: renamed to sweep.startup_trials"),
        (b"out: elsewhere\n", "out: not a parameter of a study"),
        (b"3: 4\n", "3: not a parameter of a study"),
        (b"model.depth: [\n", "not readable as YAML: "),
        (b"\xff\xfe", "not readable as YAML: "),
    ],
)
def test_a_broken_study_file_is_one_line(root: Path, content: bytes, line: str) -> None:
    """A refresh names file, path and what is allowed, and writes nothing; `cave check` says it of that study."""
    study = create_study(root, "wide", {})
    text = (study.folder / "params.yaml").read_text()
    (study.folder / "study.yaml").write_bytes(content)
    assert f"experiments/wide/study.yaml: {line}" in assert_one_line(*call("study", "refresh"))
    assert (study.folder / "params.yaml").read_text() == text
    code, out, _ = call("check")
    assert code == 0
    assert (
        f"experiments/wide/params.yaml could not be compared with study.yaml: experiments/wide/study.yaml: {line}"
        in out
    )


def test_own_values_are_checked_before_they_are_derived() -> None:
    """A study.yaml that gives a section where the root has null takes it whole."""
    defaults = DEFAULTS.override({"evaluate.decompose": None})
    assert "evaluate.decompose" in differences(DEFAULTS, defaults)
    assert differences(defaults, DEFAULTS) == {"evaluate.decompose": None}
    with pytest.raises(InputError, match="no such parameter"):
        defaults.override({"evaluate.decompose.queries": 3})


# --- What DVC makes of it

STALE = {  # a default that changes, and the stages of a study that depend on it
    ("  batch_size: 64", "  batch_size: 32"): {"sweep@vae", "train@vae", "report"},
    ("  confidence: 0.95", "  confidence: 0.9"): {"report"},
    ("  z_dim: 16", "  z_dim: 20"): set(),  # the study has a value of its own
}


@pytest.mark.slow
def test_a_changed_default_makes_the_right_stages_stale(root: Path) -> None:
    """After a refresh DVC finds stale what depends on the changed value, and nothing else."""
    study = create_study(root, "wide", {"model.z_dim": 64, "variants": {"vae": {"model.depth": 1}}})
    shutil.copytree(ROOT / "pipeline", root / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))

    def dvc(*words: str) -> str:
        return run(study.folder, "dvc", *words, DVC_NO_ANALYTICS="1").stdout

    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    run(root, "dvc", "init", "-q")
    for stage in read_yaml(root / "dvc.yaml")["stages"].values():
        for out in [*stage.get("do", stage)["outs"], *stage.get("do", stage).get("metrics", [])]:
            path = study.folder / (out if isinstance(out, str) else next(iter(out))).replace("${out}/", "").replace(
                "${key}", "vae"
            )
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("{}")
    (study.folder / "sweep" / "vae" / "figures").mkdir(parents=True)
    dvc("commit", "--force", "--quiet", "dvc.yaml")
    assert json.loads(dvc("status", "--json", "dvc.yaml")) == {}
    text = (root / "params.yaml").read_text()
    for (old, new), stale in STALE.items():
        (root / "params.yaml").write_text(text)
        change_default(root, old, new)
        refresh_params(root, study.folder, Params.read_values(root / "params.yaml"))
        stale_stages = json.loads(dvc("status", "--json", "dvc.yaml"))
        assert {stage.rpartition(":")[2] for stage in stale_stages} == stale, (old, stale_stages)
