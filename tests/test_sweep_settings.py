"""Which settings a search tries: the given ones first, each training once, all of a small space, no impossible ones."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

import pipeline.sweep.space
import pipeline.sweep.worker
from pipeline.errors import InputError, RunError
from pipeline.files import read_csv, read_json
from pipeline.params import DataParams, ModelParams
from pipeline.report import inputs
from pipeline.reproduce import reproduce
from pipeline.stages import fetch, prepare
from pipeline.study import Study
from pipeline.sweep import Sweep, run, space
from pipeline.sweep.claims import claim
from pipeline.sweep.compat import internal
from pipeline.sweep.coordinator import _parent
from pipeline.sweep.worker import _give_up, _trial
from pipeline.training import NonFiniteError, Record, fit
from tests.workshop import check_sweep, make_study, rows, trial_of

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_figures")]

VARIANT = "mhvae"
TWO: dict[str, Any] = {  # an endless space of two trainings: widths 4 + 1 and 4 + 2
    "model.z_dim": 4,
    "sweep.space": {"model.z_ratio": {"low": 0.25, "high": 0.5}},
}
SIX: dict[str, Any] = {
    "model.z_dim": 3,
    "sweep.space": {"model.depth": {"low": 1, "high": 2}, "model.z_dim": {"low": 2, "high": 4}},
}


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """Return a small study with its data prepared."""
    monkeypatch.setenv("CAVE_THREADS", "1")
    made = make_study(tmp_path)
    fetch.run(made)
    prepare.run(made)
    return made


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the numbers of the trials that train, in their order."""
    numbers: list[int] = []

    def counting(*args: Any, **kwargs: Any) -> Iterator[Record]:
        numbers.append(trial_of(kwargs["folder"]))
        yield from fit(*args, **kwargs)

    monkeypatch.setattr(pipeline.sweep.worker, "fit", counting)
    return numbers


def again(study: Study, **overrides: Any) -> Study:
    """Return the same study with other settings."""
    make_study(study.folder, **overrides)
    return Study.at(study.folder)


def trials(study: Study) -> list[dict[str, str]]:
    return read_csv(study.sweep(VARIANT) / "trials.csv")


def tags(study: Study, key: str) -> dict[str, str]:
    """Return a tag of the runs of trials that have it, by the runs' names."""
    query = "select r.name, t.value from runs r join tags t using (run_uuid) where t.key = ? order by 1"
    return dict(rows(study.shared_root / "mlflow.db", query, key))


def test_the_given_settings_are_the_first_trial(study: Study) -> None:
    """Trial 0 has the file's values of what is searched, so that the best is never worse than they are."""
    own = {"model.depth": 3, "model.z_dim": 7, "model.z_ratio": 0.8}
    changed = again(study, **own | {"sweep.space": study.params.model_dump()["sweep"]["space"]})
    (best,) = run(Sweep(changed, VARIANT), 1)
    first = trials(changed)[0]
    assert [first[f"model.{name}"] for name in ("depth", "z_dim", "z_ratio")] == ["3", "7", "0.8"]
    assert best["metric"] == "valid/objective"
    assert best["value"] >= float(first["value"])
    check_sweep(changed, VARIANT, 4)


def test_a_first_trial_is_known_as_tried_from_the_beginning(study: Study) -> None:
    """Another worker that claims before the first has drawn its values is given another setting of a small space."""
    sweep = Sweep(again(study, **SIX | {"sweep.trials": 6}), VARIANT)
    sweep.tracker.require()
    with sweep.transaction():
        sweep.ask([])
    with sweep.transaction():
        sweep.ask(sweep.trials())
    keys = [internal(trial, "training") for trial in sweep.trials()]
    assert len(set(keys)) == 2


def test_other_given_settings_are_another_search(study: Study) -> None:
    """A value of a path that is searched counts, as the first trial has it."""
    space = study.params.model_dump()["sweep"]["space"]
    assert Sweep(again(study, **{"model.z_dim": 8, "sweep.space": space}), VARIANT).name != Sweep(study, VARIANT).name


@pytest.mark.nightly
def test_a_search_that_was_killed_tries_the_given_settings_once(study: Study) -> None:
    """What asks for the first trial is one transaction: nothing waits in the database, whatever is killed."""
    sweep = Sweep(study, VARIANT)
    sweep.tracker.require()
    with pytest.raises(KeyboardInterrupt), sweep.transaction():  # noqa: PT012
        sweep.ask([])
        raise KeyboardInterrupt
    assert rows(study.shared_root / "optuna.db", "select count(*) from trials") == [(0,)]
    run(Sweep(study, VARIANT), 1)
    assert [row["number"] for row in trials(study) if row["model.z_dim"] == "16"] == ["0"]
    assert rows(study.shared_root / "optuna.db", "select count(*) from trials where state = 'WAITING'") == [(0,)]
    check_sweep(study, VARIANT, 4)


def test_a_trial_that_repeats_another_takes_its_record(
    study: Study, trained: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    """Settings that lead to the same training are trained once; table, Optuna, MLflow and the line say which repeat."""
    two = again(study, **TWO)
    run(Sweep(two, VARIANT), 1)
    check_sweep(two, VARIANT, 4)
    table = trials(two)
    assert len({row["model.z_ratio"] for row in table}) == 4
    assert len(trained) == 2
    assert trained[0] == 0
    repeats = {int(row["number"]): int(row["repeats"]) for row in table if row["repeats"]}
    assert set(repeats) == {0, 1, 2, 3} - set(trained)
    output = capsys.readouterr().out
    query = (
        "select step, intermediate_value from trial_intermediate_values join trials using (trial_id) where number = ?"
    )
    attribute = (
        "select number, value_json from trial_user_attributes join trials using (trial_id) where key = 'repeats'"
    )
    assert {number: int(value) for number, value in rows(two.shared_root / "optuna.db", attribute)} == repeats
    assert tags(two, "repeats") == {f"{VARIANT} trial {number}": str(of) for number, of in repeats.items()}
    metric = "select m.key, m.value from metrics m join runs r using (run_uuid) where r.name = ? and m.step = ?"
    for number, of in repeats.items():
        columns = ("state", "value", "valid/kl", "valid/reconstruction", "epochs")
        assert [table[number][key] for key in columns] == [table[of][key] for key in columns]
        assert rows(two.shared_root / "optuna.db", query, number) == rows(two.shared_root / "optuna.db", query, of)
        assert f"repeats trial {of}, (" in output
        step = max(rows(two.shared_root / "optuna.db", query, of), key=lambda row: row[1])[0]
        logged = [rows(two.shared_root / "mlflow.db", metric, f"{VARIANT} trial {n}", step) for n in (number, of)]
        assert sorted(logged[0]) == sorted(row for row in logged[1] if not row[0].startswith("system"))
    (best,) = read_json(two.sweep(VARIANT) / "best.json")["searches"]
    assert best["trial"] in trained
    number, of = next(iter(repeats.items()))
    with pytest.raises(InputError, match=rf"has the settings of trial {of} and took its record; give the run of trial"):
        reproduce(two.folder, table[number]["run_id"])


def test_a_repeat_of_a_pruned_trial_is_pruned(
    study: Study, trained: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes the state and the epochs that there were."""
    monkeypatch.setattr("optuna.trial.Trial.should_prune", lambda trial: trial.number > 0)
    two = again(study, **TWO | {"sweep.trials": 6})
    run(Sweep(two, VARIANT), 1)
    check_sweep(two, VARIANT, 6)
    states = {int(row["number"]): (row["state"], row["epochs"]) for row in trials(two)}
    assert len(trained) == 2
    assert {states[number] for number in trained} == {("COMPLETE", "3"), ("PRUNED", "1")}
    for row in trials(two):
        if row["repeats"]:
            assert states[int(row["number"])] == states[int(row["repeats"])]


@pytest.mark.nightly
def test_a_repeat_of_a_failed_trial_trains(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure may be the machine's: who comes after it tries again."""

    def failing(*args: Any, **kwargs: Any) -> Iterator[Record]:
        if trial_of(kwargs["folder"]) == 0:
            raise NonFiniteError("not finite")
        yield from fit(*args, **kwargs)

    monkeypatch.setattr(pipeline.sweep.worker, "fit", failing)
    one = again(study, **{"model.z_dim": 1, "sweep.space": {"model.z_ratio": {"low": 0.25, "high": 0.5}}})
    run(Sweep(one, VARIANT), 1)
    check_sweep(one, VARIANT, 4)
    assert [row["state"] for row in trials(one)] == ["FAIL", "COMPLETE", "COMPLETE", "COMPLETE"]
    assert [row["repeats"] for row in trials(one)] == ["", "", "1", "1"]


@pytest.mark.parametrize("alive", [True, False], ids=["alive", "dies"])
def test_a_repeat_waits_for_a_trial_that_runs_as_long_as_its_worker_lives(
    study: Study, trained: list[int], alive: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a living worker it then takes the record; of one that died it does not wait for anything, and trains."""
    monkeypatch.setattr(pipeline.sweep.worker, "WAIT", 0.05)
    one = again(study, **{"model.z_dim": 1, "sweep.space": {"model.z_ratio": {"low": 0.25, "high": 0.5}}})
    first, second = Sweep(one, VARIANT), Sweep(one, VARIANT)
    first.tracker.require()
    _parent(first).finish(None)
    held = first.locks.announce(f"{first.name}/workers/first")
    other = second.locks.announce(f"{second.name}/workers/second")
    with held, other:
        begun = claim(first, "first", _give_up)
        assert begun is not None
        first.settings(begun)
        follows = claim(second, "second", _give_up)
        assert follows is not None
        waiting = threading.Thread(target=_trial, args=(second, follows, lambda: None))
        if alive:
            waiting.start()
            time.sleep(0.5)
            assert waiting.is_alive()
            assert trained == []
            _trial(first, begun, lambda: None)
    if not alive:
        waiting.start()
    waiting.join()
    assert trained == [0 if alive else 1]
    states = {trial.number: trial.state for trial in Sweep(one, VARIANT).trials()}
    assert states == {0: TrialState.COMPLETE if alive else TrialState.RUNNING, 1: TrialState.COMPLETE}


def test_a_small_space_is_tried_once_and_no_more(
    study: Study, trained: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    """Where trials are more than settings, each setting is a trial, the given one first, and a line says so."""
    six = again(study, **SIX | {"sweep.trials": 10})
    run(Sweep(six, VARIANT), 1)
    check_sweep(six, VARIANT, 6)
    table = [(int(row["model.depth"]), int(row["model.z_dim"])) for row in trials(six)]
    assert table[0] == (2, 3)
    assert sorted(table) == [(1, 2), (1, 3), (1, 4), (2, 2), (2, 3), (2, 4)]
    assert trained == list(range(6))
    output = capsys.readouterr().out
    assert f"{VARIANT}: the space has 6 settings: all were tried; sweep.trials is 10\n" in output
    assert "(6 of 6, best" in output
    runs = rows(six.shared_root / "mlflow.db", "select run_uuid from runs")
    run(Sweep(six, VARIANT), 1)
    assert rows(six.shared_root / "mlflow.db", "select run_uuid from runs") == runs


@pytest.mark.nightly
def test_a_search_is_extended_to_all_of_a_small_space(study: Study, trained: list[int]) -> None:
    """Three trials of six settings become all six, without another training of what is known."""
    run(Sweep(again(study, **SIX | {"sweep.trials": 3}), VARIANT), 1)
    before = trials(study)
    repeated = {(row["model.depth"], row["model.z_dim"]) for row in before}
    six = again(study, **SIX | {"sweep.trials": 10})
    run(Sweep(six, VARIANT), 1)
    check_sweep(six, VARIANT, 3 + 6 - len(repeated))
    table = [(row["model.depth"], row["model.z_dim"]) for row in trials(six)]
    assert len(set(table)) == 6
    assert len(trained) == 6
    assert trials(six)[:3] == before


@pytest.mark.parametrize("most", [5, 6])
def test_settings_that_train_alike_are_one_setting(study: Study, most: int) -> None:
    """Depth 1 has one width whatever the ratio is: nine combinations are five trainings."""
    kinds = {
        "model.depth": {"low": 1, "high": 2},
        "model.z_dim": {"choices": [2, 4]},
        "model.z_ratio": {"low": 0.5, "high": 1.0, "step": 0.25},
    }
    sweep = Sweep(again(study, **{"model.z_dim": 4, "sweep.space": kinds, "sweep.trials": 8}), VARIANT)
    assert sweep.every is not None
    widths = [space.apply(sweep.base, values).model.level_widths for values in sweep.every.values()]
    assert widths[0] == (4, 2)
    assert sorted(widths) == [(2,), (2, 1), (2, 2), (4,), (4, 2), (4, 3), (4, 4)]
    assert space.every(sweep.base, sweep.space, most) is None


def test_settings_that_do_not_go_together_are_pruned_with_their_reason(
    study: Study, trained: list[int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The search goes on; Optuna, the table, MLflow and the line have the reason."""

    def check(model: ModelParams, data: DataParams, where: str) -> None:
        if model.level_widths == (2, 1):
            raise InputError("model.z_dim: 2 does not go with depth 2")

    monkeypatch.setattr(pipeline.sweep.space, "check_model", check)
    six = again(study, **SIX | {"sweep.trials": 10})
    run(Sweep(six, VARIANT), 1)
    check_sweep(six, VARIANT, 6)
    pruned = [row for row in trials(six) if row["state"] == "PRUNED"]
    reason = "model.z_dim: 2 does not go with depth 2"
    assert [(row["model.depth"], row["model.z_dim"], row["reason"]) for row in pruned] == [("2", "2", reason)]
    number = int(pruned[0]["number"])
    assert trained == [n for n in range(6) if n != number]
    assert tags(six, "reason") == {f"{VARIANT} trial {number}": reason}
    assert tags(six, "state")[f"{VARIANT} trial {number}"] == "pruned"
    attribute = "select value_json from trial_user_attributes where key = 'reason'"
    assert [json.loads(value) for (value,) in rows(six.shared_root / "optuna.db", attribute)] == [reason]
    assert [trial["number"] for trial in inputs.trials(six, VARIANT)] == trained
    assert f"{reason}, ({number + 1} of 6" in capsys.readouterr().out


def test_a_search_without_possible_settings_ends_in_a_line(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing can be trained, the line gives the first reason."""

    def check(model: ModelParams, data: DataParams, where: str) -> None:
        raise InputError("model.z_dim: impossible")

    monkeypatch.setattr(pipeline.sweep.space, "check_model", check)
    with pytest.raises(RunError, match=r"no trial was completed, of 4; trial 0: model.z_dim: impossible; see"):
        run(Sweep(study, VARIANT), 1)
    check_sweep(study, VARIANT, 4)


def test_values_that_do_not_go_together_leave_those_that_do(study: Study) -> None:
    """The run of such a trial has the parameters that can be had."""
    base = Sweep(study, VARIANT).base
    values = {"model.z_dim": 5, "model.depth": 2.5}
    with pytest.raises(InputError, match=r"sweep.space: model.depth: 2.5 given"):
        space.apply(base, values)
    assert space.closest(base, values) == base.override({"model.z_dim": 5})
