"""What `cave` gives to scripts and to comparisons, on results that are written by hand."""

from __future__ import annotations

import json
import math
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli.common import print_json
from pipeline.files import write_json, write_text
from pipeline.params import Params, dump_yaml
from pipeline.study import Study
from tests.command import assert_one_line, call
from tests.small import ROOT
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
        write_json(study.evaluate(variant) / "decomposition.json", {"protocol": PROTOCOL | protocol, "seeds": seeds})
        for seed in by_seed:
            folder = study.train(variant) / f"seed-{seed}"
            write_json(folder / "mlflow.json", {"run": f"{variant.encode().hex()}{seed:024d}"[:32]})
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


def test_a_comparison_pairs_equal_seeds(project: Path) -> None:
    """Of two seeds each the differences are 3 and 1.5: mean -1.75, half t(1) s / sqrt(2) = 12.706 * 0.25 = 3.18."""
    (compared,) = document("compare", "vae", "mhvae")
    assert compared["settings"] == {"model.depth": [1, 2]}
    assert (compared["protocols"], compared["confidence"]) == ({}, 0.95)
    nll, rate = compared["numbers"]
    assert nll.pop("half") == pytest.approx(3.1766, abs=1e-3)
    assert nll == {
        "metric": "nll",
        "unit": "nats",
        "first": 90.5,
        "second": 88.75,
        "difference": -1.75,
        "error": "paired seeds",
    }
    assert (rate["difference"], rate["half"]) == (0.0, 0.0)
    text = call("compare", "vae", "mhvae")[1]
    assert "\nmodel.depth           1  2\n" in text
    assert "\nnll (nats)      90.500  88.750  -1.750 ± 3.177\n" in text
    assert text.endswith("±: 95% interval over seeds, of the differences of equal seeds\n")


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
    assert shown == document("link") | {"variants": [{"variant": "007", "seeds": 2, "nll [nats]": 90.5, "widths": "4"}]}
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
