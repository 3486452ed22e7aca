"""What a user gives is used, or a line says what overrides it, before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.cli.by_hand import by_hand
from pipeline.errors import InputError
from pipeline.params import Params, notes, parse_assignments, read_yaml
from pipeline.stages import evaluate as evaluate_stage
from pipeline.stages import sweep as sweep_stage
from pipeline.stages import train as train_stage
from tests.command import call as told
from tests.small import ROOT

LINES = [
    "vae: model.depth 1 in place of 2; model.z_ratio 1.0 in place of 0.5;"
    " searched: model.z_dim over 4..32, log (first trial 16)",
    "hvae: model.parents every in place of nearest; searched: model.depth over 2..4 (first trial 2), model.z_dim over"
    " 4..32, log (first trial 16), model.z_ratio over 0.25..1.0 (first trial 0.5)",
    "mhvae: searched: model.depth over 2..4 (first trial 2), model.z_dim over 4..32, log (first trial 16),"
    " model.z_ratio over 0.25..1.0 (first trial 0.5)",
]
QUICK = (
    "budget quick sets train.epochs to 4 in place of 60, train.seeds to [0, 1] in place of [0, 1, 2], sweep.trials to 3"
    " in place of 10, sweep.epochs to 3 in place of 20, evaluate.draws to 200 in place of 5000, evaluate.k to"
    " [1, 50, 200] in place of [1, 50, 5000], evaluate.decompose to null in place of {...} (params.yaml)"
)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a project's root with the default parameters, which becomes the working folder."""
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    (tmp_path / "dvc.yaml").write_text((ROOT / "dvc.yaml").read_text())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def lines(*words: str, file: Path = ROOT / "params.yaml", **how: Any) -> list[str]:
    """Return the lines on a file and words of `--set`."""
    overrides = parse_assignments(list(words))
    return notes(*Params.read_with_file(file, overrides), overrides, **how)


def test_the_default_study_has_a_line_a_variant() -> None:
    """They say which values a variant replaces, what is searched and where the search begins."""
    assert lines() == LINES
    assert [lines(variant=name) for name in ("vae", "hvae", "mhvae")] == [[line] for line in LINES]


def test_a_budget_says_which_values_it_replaces(root: Path) -> None:
    """One line has each value of the budget and of the file; what `--set` gives wins and is not in it."""
    assert lines("budget=quick")[0] == QUICK
    file = root / "params.yaml"
    text = file.read_text().replace("budget: default ", "budget: quick ").replace("epochs: 60", "epochs: 7")
    file.write_text(text)
    assert lines(file=file)[0].startswith("budget quick sets train.epochs to 4 in place of 7, ")
    assert "train.epochs" not in lines("train.epochs=7", file=file)[0]
    assert Params.read(file, {"train.epochs": 7}).train.epochs == 7
    assert lines("budget=default", file=file) == LINES
    # A command by hand has no use for the others' values.
    assert "sweep." not in lines(file=file, variant="vae", command="train")[0]
    assert "train.epochs" not in lines(file=file, variant="vae", command="sweep")[0]


def test_what_is_set_is_not_searched() -> None:
    """A path of the space that is set is taken out of it, and a line says so."""
    params = Params.read(ROOT / "params.yaml", {"model.z_dim": 64})
    assert set(params.sweep.space) == {"model.depth", "model.z_ratio"}
    note = lines("model.z_dim=64")
    assert note[0] == "--set model.z_dim: 64 is taken, and not searched over 4..32, log"
    assert not any("model.z_dim over" in line for line in note)
    # Where the space is given too, both count: the value is the first trial.
    space = "sweep.space={model.z_dim: {low: 4, high: 64}}"
    assert lines("model.z_dim=64", space)[0] == (
        "vae: model.depth 1 in place of 2; model.z_ratio 1.0 in place of 0.5; searched: model.z_dim over 4..64"
        " (first trial 64)"
    )
    assert Params.read(ROOT / "params.yaml", {"model": dict(params.model)}).sweep.space == {}


def test_what_a_variant_fixes_is_told_or_refused() -> None:
    """A value that some variants do not take is named with them; one that none takes is refused."""
    note = lines("model.depth=3")
    assert note[0] == "--set model.depth: 3 is taken, and not searched over 2..4; not used by vae (the variant fixes 1)"
    assert "model.depth 1 in place" not in note[1]
    with pytest.raises(InputError) as error:
        lines("variants={a: {model.depth: 1}, b: {model.depth: 2}}", "model.depth=3")
    assert str(error.value) == ("--set: model.depth: 3 given, but variant 'a' fixes it at 1, variant 'b' fixes it at 2")
    assert lines("variants={a: {model.depth: 3}}", "model.depth=3")[0].startswith("--set model.depth: 3 is taken")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["model.pseudo_inputs=3"], "--set model.pseudo_inputs: not used (model.prior is normal)"),
        (["model.grey_levels=17"], "--set model.grey_levels: not used (model.likelihood is bernoulli)"),
        (["train.schedule_epochs=9", "train.schedule=constant"], "--set train.schedule_epochs: not used (train.sc"),
        (["data.cave.size=40"], "--set data.cave.size: not used (data.name is digits)"),
        (["train.objective=iwae", "train.valid_draws=9"], "--set train.valid_draws: not used (train.objective is "),
        (["sweep.sampler=random", "sweep.pruner=none", "sweep.startup_trials=2"], "--set sweep.startup_trials: not us"),
        (["variants={a: {model.widths: [8, 4]}}", "model.z_dim=9"], "--set model.z_dim: not used (model.widths is ["),
        (
            ["variants={a: {}}", "model.widths=[8, 4]"],
            "--set model.widths: [8, 4] is taken, and model.depth, model.z_dim, model.z_ratio not searched",
        ),
        (["model.parents=every"], "--set model.parents: not used by vae (model.depth is 1); not used by mhvae (the v"),
        (["sweep.space={}", "sweep.trials=3"], "--set sweep.trials: not used (sweep.space is {}, sweep.sampler is t"),
    ],
)  # fmt: skip
def test_what_is_set_without_being_used_gets_a_line(words: list[str], line: str) -> None:
    """The line names the parameter and the value that leaves it without use."""
    assert any(note.startswith(line) for note in lines(*words)), lines(*words)


def test_a_value_that_is_used_gets_no_line() -> None:
    """Of values that are used, and of whole sections, nothing is said."""
    words = ["train.epochs=3", "train.beta=2.0", "train.objective=beta", "model.prior=mixture", "model.pseudo_inputs=3"]
    assert lines(*words, "sweep.startup_trials=3", "evaluate.draws=10000") == LINES


def test_commands_by_hand_say_what_they_have_no_use_for() -> None:
    """`cave train` searches nothing, `cave sweep` measures nothing and trains by `sweep.epochs`."""
    train = lines("sweep.trials=3", variant="hvae", command="train")
    assert train == ["--set sweep.trials: not used by cave train", "hvae: model.parents every in place of nearest"]
    sweep = lines("train.epochs=3", "evaluate.draws=5000", variant="mhvae", command="sweep")
    assert sweep[:2] == [f"--set {path}: not used by cave sweep" for path in ("train.epochs", "evaluate.draws")]
    assert sweep[2] == LINES[2]


# --- Where the lines are printed


def test_check_tells_the_lines(root: Path) -> None:
    """`cave check`, which `make repro` runs first, has them after its own."""
    assert told("check")[1].splitlines()[1:] == LINES
    assert "--set model.z_dim: 64 is taken" in told("check", "--set", "model.z_dim=64")[1]


def test_a_new_study_takes_what_is_set_and_says_so(root: Path) -> None:
    """`cave study new --set` of a searched path: its file has the value, its space has not the path, a line says so."""
    code, out, _ = told("study", "new", "wide", "--set", "model.z_dim=64", "--set", "budget=quick")
    assert code == 0
    assert "--set model.z_dim: 64 is taken, and not searched over 4..32, log\n" in out
    assert QUICK in out
    raw = read_yaml(root / "experiments" / "wide" / "params.yaml")
    assert raw["model"]["z_dim"] == 64
    assert set(raw["sweep"]["space"]) == {"model.depth", "model.z_ratio"}
    assert raw["train"]["epochs"] == 4


@pytest.mark.parametrize(
    "command", [["study", "new", "x"], ["sweep", "--variant", "vae"], ["train", "--variant", "vae"]]
)
@pytest.mark.parametrize("path", ["out", "root"])
def test_a_place_is_not_set_in_silence(root: Path, command: list[str], path: str) -> None:
    """A new study's folder has its name: another place is refused, and nothing is written."""
    code, _, err = told(*command, "--set", f"{path}=elsewhere")
    assert code == 2
    assert f"--set: {path}: a new study lies in experiments/" in err
    assert not (root / "experiments").exists()


def test_two_numbers_of_trials_are_refused(root: Path) -> None:
    """`--trials` and another `--set sweep.trials` contradict each other."""
    code, _, err = told("sweep", "--variant", "vae", "--trials", "7", "--set", "sweep.trials=5")
    assert (code, "5 given beside --trials 7" in err) == (2, True)


@pytest.fixture
def no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out fetching and preparing."""
    monkeypatch.setattr("pipeline.stages.fetch.run", lambda study: None)
    monkeypatch.setattr("pipeline.stages.prepare.run", lambda study: None)


@pytest.mark.usefixtures("root", "no_data")
def test_a_command_by_hand_tells_the_lines_first(capsys: pytest.CaptureFixture[str]) -> None:
    """`cave sweep` takes a path that is set out of its space, says so, and has the variant that `--set` gives."""
    with by_hand("sweep", None, "mhvae", {"model.depth": 3}) as study:
        pass
    assert set(study.params.sweep.space) == {"model.z_dim", "model.z_ratio"}
    assert "--set model.depth: 3 is taken, and not searched over 2..4" in capsys.readouterr().out
    with by_hand("train", None, "big", {"variants": {"big": {"model.depth": 3}}, "sweep.trials": 3}) as own:
        pass
    assert list(own.params.variants) == ["big"]
    assert capsys.readouterr().out.splitlines() == [
        "--set sweep.trials: not used by cave train",
        "big: model.depth 3 in place of 2",
    ]
    with (
        pytest.raises(InputError, match=r"model\.depth: 3 given, but variant 'vae' fixes it at 1"),
        by_hand("train", None, "vae", {"model.depth": 3}),
    ):
        pass


EVALUATE = (
    "budget quick sets evaluate.draws to 200 in place of 5000, evaluate.k to [1, 50, 200] in place of [1, 50, 5000],"
    " evaluate.decompose to null in place of {...} (params.yaml)"
)


@pytest.mark.parametrize(
    ("stage", "expected"),
    [(sweep_stage, [QUICK, LINES[0]]), (train_stage, [QUICK, LINES[0]]), (evaluate_stage, [EVALUATE])],
)
def test_a_stage_begins_with_its_variants_lines(
    root: Path, stage: Any, expected: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What `dvc exp run -S` sets is reported where it is overridden: by the stage, before it runs."""
    file = root / "params.yaml"
    file.write_text(file.read_text().replace("budget: default ", "budget: quick "))
    monkeypatch.setattr("pipeline.tracking.import_mlflow", lambda uri: None)
    monkeypatch.setattr("pipeline.processes.prefork", lambda *_: None)
    monkeypatch.setattr(stage, "run", lambda study, variant, resources: print("runs"))
    stage.main("vae")
    assert capsys.readouterr().out.splitlines() == [*expected, "runs"]
