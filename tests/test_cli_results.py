"""What `cave` gives to scripts and to comparisons, on results that are written by hand."""

from __future__ import annotations

import json
import math
import subprocess
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from pipeline.cli.common import print_json
from pipeline.errors import InputError
from pipeline.evaluations import Evaluation, retrained, trained_settings
from pipeline.files import read_json, write_json, write_text
from pipeline.params import Params, dump_yaml
from pipeline.report import build, inputs
from pipeline.searches import settings
from pipeline.study import Study
from tests.command import assert_one_line, call
from tests.small import ROOT
from tests.test_report import fake
from tests.workshop import QUICK

PROTOCOL = {"data": "cave", "images": 18, "draws": 60, "digest": "d"}
NLL = {"vae": {0: 90.0, 1: 91.0}, "mhvae": {0: 88.0, 1: 89.5}}


def fill(study: Study, values: dict[str, dict[int, float]], **protocol: Any) -> None:
    """Write the files of final models and their tests."""
    for variant, by_seed in values.items():
        seeds = {
            s: {"test/nll": {"value": v, "se": 0.1}, "test/rate/z1": {"value": 4, "se": None}}
            for s, v in by_seed.items()
        }
        for seed in by_seed:
            train(study, variant, seed, "first")
        Evaluation.write(study, variant, PROTOCOL | protocol, seeds)


def train(study: Study, variant: str, seed: int, key: str) -> None:
    """Write what the training of a seed leaves."""
    folder, own = study.train(variant) / f"seed-{seed}", trained_settings(settings(study, variant, seed))
    named = {"run": f"{variant.encode().hex()}{seed:024d}"[:32], "key": key, "settings": own}
    write_json(folder / "mlflow.json", named)
    write_json(folder / "model.json", {"best_epoch": 3, "seconds": 2.5})


def made(folder: Path, **overrides: Any) -> Study:
    """Make a study without stores."""
    write_text(folder / "params.yaml", dump_yaml(Params.read(ROOT / "params.yaml", QUICK | overrides)))
    return Study.at(folder)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a project with a default study of two variants, and a study `wide` of one, both with results."""
    fill(made(tmp_path, variants={"vae": {"model.depth": 1}, "mhvae": {}}), NLL)
    write_text(tmp_path / "pyproject.toml", "")
    changes = {"variants": {"mhvae": {}}, "model.z_dim": 20, "root": "../..", "out": "."}
    fill(made(tmp_path / "experiments" / "wide", **changes), {"mhvae": {0: 87.0, 1: 88.0}}, digest="other")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def document(*words: str, code: int = 0) -> Any:
    """Return what a command prints as JSON, and nothing else."""
    ended, out, err = call(*words, "--json")
    assert (ended, err) == (code, "")
    return json.loads(out)


def test_a_comparison_without_tables_of_images_is_one_over_seeds(project: Path) -> None:
    """Trainings of different variants are independent: the interval is Welch's, as SciPy has it."""
    (compared,) = document("compare", "vae", "mhvae")
    assert compared["settings"] == {"model.depth": [1, 2]}
    assert (compared["protocols"], compared["confidence"]) == ({}, 0.95)
    nll, rate = compared["numbers"]
    welch = stats.ttest_ind([88.0, 89.5], [90.0, 91.0], equal_var=False).confidence_interval()
    half = nll.pop("half")
    assert half == pytest.approx((welch.high - welch.low) / 2)
    assert nll == {
        "metric": "nll",
        "unit": "nats",
        "first": 90.5,
        "second": 88.75,
        "difference": -1.75,
        "error": "seeds",
    }
    assert (rate["difference"], rate["half"]) == (0.0, 0.0)
    text = call("compare", "vae", "mhvae")[1]
    assert "\nmodel.depth           1  2\n" in text
    assert f"\nnll (nats)      90.500  88.750  -1.750 ± {half:.3f}\n" in text
    assert text.endswith("±: 95% interval over seeds\n")


def test_a_comparison_is_that_of_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what every test image has, difference and interval are those of the report, over seeds and images."""
    study = fake(tmp_path)
    write_text(tmp_path / "pyproject.toml", "")
    monkeypatch.chdir(tmp_path)
    (compared,) = document("compare", "vae", "mhvae")
    numbers = {number["metric"]: number for number in compared["numbers"]}
    pairs = [d for d in build(study).differences if (d.first, d.second) == ("vae", "mhvae")]
    assert len(pairs) == 5
    for pair in pairs:
        number = numbers[pair.metric]
        assert (number["difference"], number["half"]) == pytest.approx((-pair.mean, pair.half), abs=1e-6)
        assert number["error"] == "seeds and images"
    assert numbers["bpd"]["error"] == "seeds"
    text = call("compare", "vae", "mhvae")[1]
    assert (
        "±: 95% interval over seeds and test images, as in the report\n± of bpd, information/z1: 95% interval over"
        in text
    )


def test_studies_are_compared_by_their_paths(project: Path) -> None:
    """A folder stands for its study, with or without a variant, the default study's outputs for the default one."""
    expected = document("compare", "default", "wide")
    assert document("compare", "experiments/default", "experiments/wide") == expected
    assert document("compare", f"{project}/experiments/default:mhvae", "experiments/wide/") == expected


def test_a_study_that_cannot_be_read_is_said_to_be_one(project: Path) -> None:
    """Its name or folder leads to what is wrong with its parameters."""
    path = project / "experiments" / "wide" / "params.yaml"
    write_text(path, path.read_text().replace("z_dim:", "zdim:"))
    for word in ("wide", "experiments/wide"):
        assert "zdim" in assert_one_line(*call("compare", "default", word))


def test_models_that_were_trained_again_have_no_old_numbers(project: Path) -> None:
    """Between a training and its evaluation, the numbers that are there are of a model that is gone: a line says so."""
    study = Study.at(project)
    train(study, "vae", 0, "second")
    assert retrained(study, "vae") == [0]
    train(study, "vae", 0, "first")
    assert retrained(study, "vae") == []
    change = study.train("vae") / "seed-0" / "mlflow.json"
    write_json(change, read_json(change) | {"weights": "of another device"})  # whose settings are the same
    assert retrained(study, "vae") == [0]
    line = (
        "study default, variant vae: the model of seed 0 was trained again after the evaluation; `dvc repro`"
        " evaluates it\n"
    )
    for words in (["runs"], ["runs", "--best"]):
        code, out, err = call(*words, "--json")
        assert (code, err) == (0, line)
        shown = {(run["variant"], run["number"]): run["value"] for run in json.loads(out)}
        assert shown.get(("vae", 0)) is None
        assert shown["vae", 1] == 91.0
    for word in ("vae", f"{b'vae'.hex()}{0:024d}"):
        assert assert_one_line(*call("compare", word, "mhvae")) == f"error: {line}"
    code, out, err = call("compare", "default", "default")
    assert (code, err) == (0, line)
    assert "variant mhvae" in out
    assert "variant vae" not in out
    assert document("study", "list")[0]["state"] == "evaluated 1 of 2"
    with pytest.raises(InputError) as raised:
        inputs.results(study)
    assert f"{raised.value}\n" == line


def test_settings_that_were_edited_since_are_not_those_of_the_numbers(project: Path) -> None:
    """A comparison has the settings of the training, and a line says which are others now; added seeds are none."""
    made(project, variants={"vae": {"model.depth": 1}, "mhvae": {}}, **{"model.z_dim": 32, "train.seeds": [0, 1, 2]})
    (compared,) = document("compare", "default", "wide")
    assert compared["settings"]["model.z_dim"] == [16, 20]
    assert compared["notes"] == [
        "study default, variant mhvae: settings have changed since it was trained: model.z_dim was 16 and is now 32"
    ]
    assert compared["notes"][0] in call("compare", "default", "wide")[1].replace("\n ", "")
    assert document("study", "list")[0]["state"] == "evaluated, settings changed since"
    assert [run["value"] for run in document("runs", "--best")] == [88.0, 90.0]


def test_runs_are_compared_by_their_draws_and_other_images_are_named(project: Path) -> None:
    """One seed a side has the Monte Carlo error alone, 1.96 sqrt(2) 0.1; another test set is said to be one."""
    first, second = (f"{b'vae'.hex()}{seed:024d}"[:32] for seed in (0, 1))
    (compared,) = document("compare", first, second)
    assert compared["settings"] == {}
    assert compared["numbers"][0]["half"] == pytest.approx(0.27718, abs=1e-4)
    assert [number["error"] for number in compared["numbers"]] == ["draws", "nothing"]
    text = call("compare", "default", "wide")[1]
    assert "model.z_dim" in text
    assert "cannot be compared: digest is d in A and other in B" in text.replace("\n", " ")
    assert "no run, study, variant or revision" in assert_one_line(*call("compare", "vae", "nothing"))


def test_a_revision_is_compared_from_the_cache(project: Path) -> None:
    """A commit's settings come from git, its numbers from DVC's cache by the hashes in its dvc.lock."""
    cached = {"protocol": PROTOCOL, "seeds": {"0": {"test/nll": {"value": 95.0, "se": 0.1}}}}
    objects = project / ".dvc" / "cache" / "files" / "md5"
    write_json(objects / "aa" / "1.dir", [{"md5": "bb2", "relpath": "decomposition.json"}])
    write_json(objects / "bb" / "2", cached)
    out = Study.at(project).params.out
    lock = f"stages:\n  evaluate@vae:\n    outs:\n    - {{path: {out}/evaluate/vae, md5: aa1.dir}}\n"
    write_text(project / "dvc.lock", lock)
    for words in (["init", "-q"], ["add", "params.yaml", "dvc.lock"], ["commit", "-qm", "x"]):
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *words], check=True)
    (compared,) = document("compare", "HEAD", "default")
    assert (compared["first"], compared["settings"]) == ("revision HEAD, variant vae", {})
    assert (compared["numbers"][0]["first"], compared["numbers"][0]["second"]) == (95.0, 90.5)
    (named,) = document("compare", "HEAD:vae", "vae")
    assert (named["first"], named["numbers"]) == ("revision HEAD:vae, variant vae", compared["numbers"])
    assert "no test results of this revision" in assert_one_line(*call("compare", "HEAD:mhvae", "vae"))


def test_runs_are_listed_and_the_best_comes_first(project: Path) -> None:
    """`--best` keeps one run a variant, the lowest nll first."""
    runs = document("runs")
    assert [(run["variant"], run["number"], run["value"]) for run in runs] == [
        ("vae", 0, 90.0),
        ("vae", 1, 91.0),
        ("mhvae", 0, 88.0),
        ("mhvae", 1, 89.5),
    ]
    best = document("runs", "--best")
    assert [run["value"] for run in best] == [88.0, 90.0]
    assert best[0] == {
        "study": "default",
        "variant": "mhvae",
        "stage": "train",
        "number": 0,
        "run": "6d68766165" + "0" * 22,
        "metric": "nll",
        "value": 88.0,
        "se": 0.1,
        "epoch": 3,
        "seconds": 2.5,
        "model": "experiments/default/train/mhvae/seed-0",
    }
    assert [line.split()[0] for line in call("runs", "--best")[1].splitlines()] == ["variant", "mhvae", "vae"]


def test_scripts_get_json(project: Path) -> None:
    """Parameters, studies, links, tables and findings are one JSON document each."""
    (depth,) = document("params", "model.z_dim", "--study", "wide")
    assert {key: depth[key] for key in ("path", "value", "default")} == {
        "path": "model.z_dim",
        "value": 20,
        "default": 16,
    }
    assert depth["allowed"].startswith("integer")
    assert depth["meaning"]
    assert " 20 " in call("params", "model.z_dim", "--study", "wide")[1]
    listed = document("study", "list")
    assert [(row["name"], row["state"], row["nll"]) for row in listed] == [
        ("default", "evaluated", "88.75 mhvae"),
        ("wide", "evaluated", "87.50 mhvae"),
    ]
    write_text(
        project / "experiments" / "default" / "report" / "table.csv",
        "variant,seeds,nll [nats],widths\n007,2,90.5,4\n",
    )
    shown = document("show")
    assert shown == document("link") | {
        "variants": [{"variant": "007", "seeds": 2, "nll [nats]": 90.5, "widths": "4"}],
        "notes": [],
    }
    assert shown["report"] is None
    code, out, _ = call("doctor", "--json")
    findings = json.loads(out)
    assert {frozenset(finding) for finding in findings} == {frozenset({"check", "level", "message", "fix"})}
    assert code == any(finding["level"] == "fault" for finding in findings)


def test_trials_with_words_as_settings_are_compared(project: Path) -> None:
    """A setting may be a word, and a trial that failed has no value: neither stops a comparison."""
    study = made(
        project / "experiments" / "words",
        **{"variants": {"mhvae": {}}, "root": "../..", "out": ".", "model.activation": "tanh"},
        **{"sweep.space": {"model.activation": {"choices": ["tanh", "relu"]}}},
    )
    table = f"""number,run_id,metric,value,seconds,model.activation
0,{"a" * 32},valid/objective,-2.5,1.0,tanh
1,{"b" * 32},valid/objective,,1.0,relu
"""
    write_text(study.sweep("mhvae") / "trials.csv", table)
    for first, second in (("a", "b"), ("b", "a")):
        (compared,) = document("compare", first * 8, second * 8)
        assert set(compared["settings"]) == {"model.activation"}
        assert compared["numbers"] == []


def test_a_number_that_is_not_finite_is_null(capsys: pytest.CaptureFixture[str]) -> None:
    """JSON has no word for it."""
    print_json({"values": [math.nan, math.inf, 1.5]})
    assert json.loads(capsys.readouterr().out) == {"values": [None, None, 1.5]}


def test_a_variant_stands_alone_or_as_an_option(project: Path) -> None:
    """The old option is the same as the position; without a variant, or with two, a line says what is allowed."""
    assert "'mvae' is not in variants" in assert_one_line(*call("train", "mvae"))
    assert "'mvae' is not in variants" in assert_one_line(*call("sweep", "--variant", "mvae"))
    assert "VARIANT: none given" in assert_one_line(*call("train"))
    assert "leave the option out" in assert_one_line(*call("train", "vae", "--variant", "mhvae"))


def test_the_help_is_grouped_and_short_options_are_there(project: Path) -> None:
    """`cave -h` has a heading a group, `--version` a line, and a shell can complete variants and studies."""
    code, out, _ = call("-h")
    assert code == 0
    headings = [
        out.index(word)
        for word in ("Start, as in: cave train mhvae", "Look, as in: cave show", "Repair, as in: cave doctor")
    ]
    assert headings == sorted(headings)
    assert call("--version")[1].startswith("platos-cave 0.")
    assert "Example: cave sweep mhvae --trials 50" in call("sweep", "-h")[1]


def test_completion_proposes_variants(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shell's request is answered with the names in params.yaml."""
    for name, value in {"_CAVE_COMPLETE": "complete_bash", "COMP_WORDS": "cave train m", "COMP_CWORD": "2"}.items():
        monkeypatch.setenv(name, value)
    code, out, _ = call()
    assert (code, out.split()) == (0, ["mhvae"])


def test_open_prints_where_the_report_lies(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a screen the path is printed; with one, the browser gets the file; without a report, how to make it."""
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    code, out, _ = call("open")
    assert (code, opened) == (1, [])
    assert "has no report yet" in out
    page = project / "experiments" / "default" / "report" / "report.html"
    write_text(page, "x")
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
        monkeypatch.delenv(name, raising=False)
    assert call("open")[:2] == (0, f"report: {page}\n")
    assert opened == []
    monkeypatch.setenv("DISPLAY", ":0")
    assert call("open")[0] == 0
    assert opened == [page.as_uri()]
