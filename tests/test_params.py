"""Parameters: whatever is wrong is told in one line with its path, what was given and what is allowed."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML

from pipeline.cli.new_study import create_study
from pipeline.errors import InputError
from pipeline.params import Choices, Params, Range, digest, dump_yaml, parse_assignments, read_yaml
from pipeline.params.explain import RENAMED
from pipeline.study import active
from tests.small import ROOT

FILE = ROOT / "params.yaml"


def default(**overrides: Any) -> Params:
    """Read the project's parameters."""
    return Params.read(FILE, overrides)


def told(call: Any, *arguments: Any) -> str:
    """Return the message of the `InputError` that a call raises, which must be one line."""
    with pytest.raises(InputError) as error:
        call(*arguments)
    message = str(error.value)
    assert message
    assert "\n" not in message
    return message


def setting(*words: str) -> Params:
    """Read the project's parameters as `--set` changes them."""
    return Params.read(FILE, parse_assignments(list(words)))


# --- One bad value


WRONG = [
    # word, path told, what was given, what is allowed
    ("data.cave.size=27", "data.cave.size", "27", "greater than or equal to 28"),
    ("data.cave.images=1", "data.cave.images", "1", "greater than or equal to 100"),
    ("data.cave.grey=1", "data.cave.grey", "1", "boolean"),
    ("data.seed=-1", "data.seed", "-1", "greater than or equal to 0"),
    ("data.seed=2147483648", "data.seed", "2147483648", "less than or equal to 2147483647"),
    ("data.seed=1.0", "data.seed", "1.0", "integer"),
    ("model.depth=0", "model.depth", "0", "greater than or equal to 1"),
    ("model.depth=65", "model.depth", "65", "less than or equal to 64"),
    ("model.depth=two", "model.depth", "'two'", "integer"),
    ("model.depth=true", "model.depth", "True", "integer"),
    ("model.depth=null", "model.depth", "None", "integer"),
    ("model.depth=[2]", "model.depth", "[2]", "integer"),
    ("model.z_dim=99999999999999999999", "model.z_dim", "99999999999999999999", "less than or equal to 65536"),
    ("model.z_ratio=0", "model.z_ratio", "0", "greater than 0"),
    ("model.z_ratio=.inf", "model.z_ratio", "inf", "finite number"),
    ("model.widths=[8, 0]", "model.widths.1", "0", "greater than or equal to 1"),
    ("model.widths=[[8], 4]", "model.widths.0", "[8]", "integer"),
    ("model.hidden=8", "model.hidden", "8", "list"),
    ("model.hidden=[]", "model.hidden", "[]", "at least 1"),
    ("model.hidden=[[8], x]", "model.hidden.1", "'x'", "list"),
    ("model.hidden=[[8, x]]", "model.hidden.0.1", "'x'", "integer"),
    ("train.learning_rate=0", "train.learning_rate", "0", "greater than 0"),
    ("train.learning_rate=.nan", "train.learning_rate", "nan", "finite number"),
    ("train.learning_rate=fast", "train.learning_rate", "'fast'", "number"),
    ("train.clip=0.0", "train.clip", "0.0", "greater than 0"),
    ("train.adam_beta1=1.0", "train.adam_beta1", "1.0", "less than 1"),
    ("train.adam_beta2=.nan", "train.adam_beta2", "nan", ""),
    ("train.draws=0", "train.draws", "0", "greater than or equal to 1"),
    ("train.epochs=1.5", "train.epochs", "1.5", "integer"),
    ("train.warmup=-1", "train.warmup", "-1", "greater than or equal to 0"),
    ("train.patience=0", "train.patience", "0", "greater than or equal to 1"),
    ("train.seeds=[]", "train.seeds", "[]", "at least 1"),
    ("train.seeds=[0, x]", "train.seeds.1", "'x'", "integer"),
    ("sweep.trials=none", "sweep.trials", "'none'", "integer"),
    ("evaluate.k=[]", "evaluate.k", "[]", "at least 1"),
    ("evaluate.active_draws=10", "evaluate.active_draws", "10", "greater than or equal to 20"),
    ("evaluate.active_draws=25", "evaluate.active_draws", "25", "a multiple of 10"),
    ("evaluate.draws=1", "evaluate.draws", "1", "greater than or equal to 2"),
    ("evaluate.active_threshold=-0.1", "evaluate.active_threshold", "-0.1", "greater than 0"),
    ("report.confidence=1", "report.confidence", "1", "less than 1"),
    ("report.images=41", "report.images", "41", "less than or equal to 40"),
    ("root=3", "root", "3", "string"),
    ("model=3", "model", "3", "dictionary"),
    ("variants={}", "variants", "{}", "at least 1"),
    ("variants={Big: {}}", "variants.Big", "'Big'", "^[a-z0-9]"),
    ("variants={vae: 3}", "variants.vae", "3", "dictionary"),
]


@pytest.mark.parametrize(("word", "path", "value", "allowed"), WRONG, ids=[row[0] for row in WRONG])
def test_a_bad_value_is_told_with_its_path_and_what_is_allowed(word: str, path: str, value: str, allowed: str) -> None:
    """One line has the dotted path, the value that was given, and what the parameter takes."""
    message = told(setting, word)
    assert message.startswith(f"--set: {path}: {value} given; allowed: ")
    assert allowed in message.partition("allowed: ")[2]


CONFLICTS = [
    (("train.seeds=[1, 2, 1]",), "train: seeds must differ, not [1, 2, 1]"),
    (("train.beta=2.0",), "weigh nothing in objective 'elbo'"),
    (("train.warmup=5", "train.objective=iwae"), "weigh nothing in objective 'iwae'"),
    (("evaluate.k=[50, 1]",), "k must grow, not [50, 1]"),
    (("evaluate.k=[1, 1]",), "k must grow, not [1, 1]"),
    (("evaluate.k=[1, 6000]",), "every k must divide draws, 5000, not [1, 6000]"),
    (("model.widths=[8, 4]", "model.depth=3"), "2 widths given for model.depth"),
    (("data.binarization=none",), "'bernoulli' needs binary pixels"),
    (("variants={a: {model.widths: [8, 4], model.depth: 3}}",), "variants.a: model.widths: 2 widths given"),
    (("variants={a: {model.depht: 3}}",), "variants.a: model.depht: no such parameter (did you mean 'model.depth'?)"),
    (("variants={a: {model.depth: 0}}",), "variants.a: model.depth: 0 given; allowed: greater than or equal to 1"),
    (("variants={a: {1: 0}}",), "variants.a"),
    (("sweep.space={model.depth: 3}",), "sweep.space.model.depth: 3 given"),
    (("sweep.space={model.depth: {low: 3, high: 2}}",), "sweep.space.model.depth: low 3 is above high 2"),
    (("sweep.space={model.depth: {low: .nan, high: 2}}",), "sweep.space.model.depth: low nan"),
    (("sweep.space={model.depth: {low: 1}}",), "sweep.space.model.depth.high: missing"),
    (("sweep.space={model.depth: {low: 0, high: 2}}",), "sweep.space.model.depth: model.depth: 0 given"),
    (("sweep.space={model.depth: {low: 1.0, high: 2.0}}",), "sweep.space.model.depth: model.depth: 1.0 given"),
    (("sweep.space={model.z_dim: {low: 0, high: 2, log: true}}",), "a log scale needs low above 0, not 0"),
    (("sweep.space={model.z_dim: {low: 1, high: 9, log: true, step: 2}}",), "does not go with log"),
    (("sweep.space={model.z_dim: {low: 1, high: 9, step: 0}}",), "step must be above 0"),
    (("sweep.space={model.z_dim: {low: 1, high: 9, lgo: true}}",), "sweep.space.model.z_dim.lgo: unknown key"),
    (("sweep.space={model.depht: {low: 1, high: 2}}",), "did you mean 'model.depth'?"),
    (("sweep.space={model.activation: {choices: [tanh, rleu]}}",), "did you mean 'relu'?"),
    (("sweep.space={train.seeds: {choices: [1]}}",), "only paths in model and train can be swept"),
    (("sweep.space={train.epochs: {low: 1, high: 2}}",), "only paths in model and train can be swept"),
    (("sweep.space={data.seed: {low: 1, high: 2}}",), "only paths in model and train can be swept"),
    (("sweep.space={model: {choices: [3]}}",), "sweep.space.model"),
    (("report.published={vea: {a paper: 86.76}}",), "report.published: vea: not in variants"),
    (("model.depht=3",), "--set: model.depht: no such parameter (did you mean 'model.depth'?)"),
    (("depth=3",), "--set: depth: no such parameter"),
    (("model.depth.x=3",), "--set: model.depth.x: no such parameter"),
    (("no.such.path=3",), "--set: no.such.path: no such parameter"),
]


@pytest.mark.parametrize(("words", "expected"), CONFLICTS, ids=[" ".join(row[0]) for row in CONFLICTS])
def test_values_that_do_not_go_together_are_told(words: tuple[str, ...], expected: str) -> None:
    """A contradiction between values, a variant's or the space's fault is one line that says what and where."""
    assert expected in told(setting, *words)


@pytest.mark.parametrize("value", ["3", "true", "[]", "{}", "abc", "null]", "[x]"])
def test_widths_of_any_kind_of_nonsense_are_told(value: str) -> None:
    """Widths that are no list of widths are an `InputError`, though their length would set the depth."""
    assert "model.widths" in told(setting, f"model.widths={value}")


@pytest.mark.parametrize(
    "words", [("variants={a: {model.widths: 3}}",), ("sweep.space={model.widths: {choices: [3]}}",)], ids=str
)
def test_widths_that_are_a_number_are_told_wherever_they_stand(words: tuple[str, ...]) -> None:
    """A variant's and the space's widths are checked as those of the model."""
    assert "model.widths" in told(setting, *words)


def test_an_empty_list_of_choices_is_told_as_such() -> None:
    """The message of `choices: []` is about choices, not about the interval that it is not."""
    message = told(setting, "sweep.space={model.depth: {choices: []}}")
    assert message.startswith("--set: sweep.space.model.depth.choices: ")


def literals(model: type[BaseModel], prefix: str = "") -> list[tuple[str, tuple[str, ...]]]:
    """Return each parameter that takes one of some names, by its dotted path."""
    rows = []
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            rows += literals(kind, f"{prefix}{name}.")
        elif get_origin(kind) is Literal:
            rows.append((prefix + name, get_args(kind)))
    return rows


def test_there_are_names_to_choose_from() -> None:
    """Eleven parameters or more take one of some names."""
    assert len(literals(Params)) >= 11


@pytest.mark.parametrize(("path", "choices"), literals(Params), ids=[path for path, _ in literals(Params)])
def test_a_misspelt_name_is_told_with_the_choices_and_the_nearest(path: str, choices: tuple[str, ...]) -> None:
    """A name with one letter twice is told with its path, the nearest choice and all of them."""
    for choice in choices:
        message = told(setting, f"{path}={choice[0]}{choice}")
        assert message.startswith(f"--set: {path}: '{choice[0]}{choice}' given (did you mean '")
        assert message.endswith(f"allowed: {', '.join(choices)}")
    assert told(setting, f"{path}=zzz") == f"--set: {path}: 'zzz' given; allowed: {', '.join(choices)}"
    assert told(setting, f"{path}=3") == f"--set: {path}: 3 given; allowed: {', '.join(choices)}"


# --- A bad file


def written(folder: Path, raw: Any) -> Path:
    """Write a value as YAML and return the file."""
    text = io.StringIO()
    YAML(typ="safe", pure=True).dump(raw, text)
    path = folder / "params.yaml"
    path.write_text(text.getvalue(), encoding="utf-8")
    return path


def sections() -> list[str]:
    """Return the dotted paths of all mappings in the file that are sections."""
    return ["", "data", "data.cave", "model", "train", "sweep", "evaluate", "report"]


def at(raw: Any, path: str) -> Any:
    """Return what lies at a dotted path."""
    for key in path.split(".") if path else []:
        raw = raw[key]
    return raw


@pytest.mark.parametrize("section", sections())
def test_a_missing_key_is_told_with_its_path(tmp_path: Path, section: str) -> None:
    """Every key of every section must be there: what is not is told as `path: missing`."""
    whole = read_yaml(FILE)
    for key in at(whole, section):
        raw = copy.deepcopy(whole)
        del at(raw, section)[key]
        path = f"{section}.{key}".removeprefix(".")
        assert told(Params.read, written(tmp_path, raw)) == f"params.yaml: {path}: missing"


@pytest.mark.parametrize("section", sections())
def test_an_unknown_key_is_told_with_those_there_are(tmp_path: Path, section: str) -> None:
    """A misspelt key beside the right one is told with its path, the nearest key and all of them."""
    raw = read_yaml(FILE)
    keys = list(at(raw, section))
    at(raw, section)[keys[0] + "x"] = 1
    path = f"{section}.{keys[0]}x".removeprefix(".")
    message = told(Params.read, written(tmp_path, raw))
    assert message.startswith(f"params.yaml: {path}: unknown key (did you mean '{keys[0]}'?); allowed: ")
    assert set(message.partition("allowed: ")[2].split(", ")) == set(keys)


@pytest.mark.parametrize("section", sections())
def test_a_misspelt_key_is_told_and_not_the_one_that_it_leaves_missing(tmp_path: Path, section: str) -> None:
    """A key with a letter twice in the place of the right one is named, with the right one as what may be meant."""
    whole = read_yaml(FILE)
    for key in at(whole, section):
        raw = copy.deepcopy(whole)
        at(raw, section)[key[0] + key] = at(raw, section).pop(key)
        path = f"{section}.{key[0]}{key}".removeprefix(".")
        start = f"params.yaml: {path}: unknown key (did you mean '{key}'?)"
        assert told(Params.read, written(tmp_path, raw)).startswith(start)


def test_a_misspelt_key_is_told_before_one_that_is_missing_elsewhere(tmp_path: Path) -> None:
    """Of `zdim` in a file that lacks a key of an earlier section too, the misspelt one is named."""
    raw = read_yaml(FILE)
    raw["model"]["zdim"] = raw["model"].pop("z_dim")
    del raw["data"]["seed"]
    assert "model.zdim: unknown key (did you mean 'z_dim'?)" in told(Params.read, written(tmp_path, raw))


TEXTS = {
    "empty": "",
    "a list": "- 1\n- 2\n",
    "a word": "params",
    "unclosed": "model: {depth: 2",
    "tabs": "model:\n\tdepth: 2\n",
    "twice": FILE.read_text() + "\nroot: elsewhere\n",
    "two documents": FILE.read_text() + "\n---\nroot: elsewhere\n",
    "code": "root: !!python/object/apply:os.system [true]\n",
    "unknown tag": "root: !secret x\n",
    "bad boolean": "root: !!bool maybe\n",
    "empty integer": "root: !!int ''\n",
    "a date that is none": "root: 2024-99-99\n",
    "zero byte": "root: \x00\n",
    "unknown anchor": "root: *nowhere\n",
    "a list within itself": FILE.read_text().replace("[128, 128]", "&a [*a]"),
    "far too deep": "[" * 5000,
    "a number for a key": FILE.read_text() + "\n3: 4\n",
    "a list for a key": FILE.read_text() + "\n? [a]\n: 4\n",
    "a break in a key": FILE.read_text() + '\n"bad\\nkey": 4\n',
    "a break in a value": FILE.read_text().replace("name: digits", 'name: "dig\\nits"'),
    "a break in an override": FILE.read_text().replace("hvae: {", 'hvae: {"model.dep\\nth": 3, '),
}


@pytest.mark.parametrize("text", list(TEXTS))
def test_a_file_that_is_no_parameters_is_told_in_one_line(tmp_path: Path, text: str) -> None:
    """Whatever stands in the file, the fault is one line, and nothing in the file is run."""
    path = tmp_path / "params.yaml"
    path.write_text(TEXTS[text])
    told(Params.read, path)


def test_a_file_that_is_not_there_or_no_text_is_told(tmp_path: Path) -> None:
    """A missing file, a folder and bytes that are no UTF-8 are told with the path."""
    assert "no such file" in told(Params.read, tmp_path / "none.yaml")
    assert str(tmp_path.name) in told(Params.read, tmp_path)
    (tmp_path / "params.yaml").write_bytes(b"\xff\xfe\x00")
    assert "params.yaml: not readable as YAML" in told(Params.read, tmp_path / "params.yaml")


# --- Words of the command line


@pytest.mark.parametrize("word", ["model.depth", "=3", "", "model.depth:3"])
def test_a_word_that_assigns_nothing_is_told(word: str) -> None:
    """A word without `path=` is told with an example of one."""
    assert told(setting, word) == f"--set: '{word}' is not of the form path=value, as in model.depth=3"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["model.depth=3", "model.depth=2"], "--set: model.depth: given twice, 3 and 2"),
        (["model.depth=3", "model={depth: 2}"], "--set: model.depth: given beside model, which holds it"),
        (["evaluate.decompose={}", "evaluate.decompose.queries=3"], "given beside evaluate.decompose"),
    ],
)
def test_two_values_of_one_parameter_are_refused(words: list[str], expected: str) -> None:
    """Where two words give one parameter, neither is dropped in silence."""
    assert expected in told(parse_assignments, words)


@pytest.mark.parametrize(
    "value", ["[[", "{a", "!!bool maybe", "!!int ''", "!!float ''", "!!python/name:os.system", "*a"]
)
def test_a_value_that_is_no_yaml_is_told(value: str) -> None:
    """A value that YAML cannot read is told with its path, whatever YAML stumbles over."""
    assert told(setting, f"model.depth={value}").startswith("--set: model.depth: ")


def test_values_on_the_command_line_are_yaml() -> None:
    """Numbers, lists, null, words and texts with a sign in them come out as YAML has them."""
    words = ["a=3", "b=1e-3", "c=[20, 10]", "d=null", "e=mnist", "f=x=y", "g=", "h=1.0", "i={low: 1}", "j=on", "k='3'"]
    assert parse_assignments(words) == {
        "a": 3,
        "b": 1e-3,
        "c": [20, 10],
        "d": None,
        "e": "mnist",
        "f": "x=y",
        "g": None,
        "h": 1.0,
        "i": {"low": 1},
        "j": "on",
        "k": "3",
    }


def test_a_number_with_an_exponent_is_a_number(tmp_path: Path) -> None:
    """As in YAML 1.2, `1e-3` is a number in the file and on the command line."""
    path = tmp_path / "params.yaml"
    path.write_text(FILE.read_text().replace("learning_rate: 0.003", "learning_rate: 2e-4"))
    assert Params.read(path).train.learning_rate == 2e-4
    assert setting("train.learning_rate=2e-4").train.learning_rate == 2e-4


# --- Reading, changing, writing


def test_parameters_survive_being_written_and_read(tmp_path: Path) -> None:
    """What `dump_yaml` writes is read back as equal parameters, for the defaults and for every variant."""
    params = default()
    for each in (
        params,
        default(**{"model.widths": [7, 5], "variants": {"a": {}}}),
        *(params.variant(name).override({"sweep.space": {}}) for name in params.variants),
    ):
        path = tmp_path / "again.yaml"
        path.write_text(dump_yaml(each))
        assert Params.model_validate(Params.read(path).model_dump()) == each


def test_parameters_cannot_be_changed_in_place() -> None:
    """Assigning to any field raises."""
    params = default()
    for section in (params, params.data, params.data.cave, params.model, params.train, params.sweep, params.evaluate):
        for name in type(section).model_fields:
            with pytest.raises(ValidationError, match="frozen"):
                setattr(section, name, 1)


def test_an_override_changes_its_path_alone() -> None:
    """Overrides give new parameters that differ at the given paths only; the old ones stay."""
    params = default()
    before = params.flat()
    changed = params.override({"model.depth": 3, "train.clip": None, "sweep.trials": 1}).flat()
    assert {path for path in before if changed[path] != before[path]} == {"model.depth", "train.clip", "sweep.trials"}
    assert params.flat() == before
    assert (changed["model.depth"], changed["train.clip"], changed["sweep.trials"]) == (3, None, 1)


@pytest.mark.parametrize("path", list(Params.read(FILE).flat()))
def test_every_parameter_can_be_given_by_its_path(path: str) -> None:
    """Overriding any parameter by its dotted path with the value it has changes nothing."""
    params = default()
    assert params.override({path: params.flat()[path]}) == params


def test_flat_names_every_value_once() -> None:
    """Each dotted path leads to the value that `flat` has for it, and the space stays one value."""
    params = default()
    for path, value in params.flat().items():
        assert at(params.model_dump(), path) == value
    assert {path.split(".")[0] for path in params.flat()} == {
        "data",
        "model",
        "train",
        "sweep",
        "compare",
        "evaluate",
        "report",
    }


def test_widths_set_the_depth_unless_a_depth_is_given() -> None:
    """`model.widths` of three levels makes three levels, and a depth that differs is an error."""
    params = default(**{"model.widths": [8, 4, 2], "variants": {"a": {}}})
    assert (params.model.depth, params.model.level_widths) == (3, (8, 4, 2))
    told(lambda: default(**{"model.widths": [8, 4, 2], "model.depth": 2, "variants": {"a": {}}}))


def test_a_variant_is_its_overrides() -> None:
    """A variant has what it fixes and otherwise what the file has; an unknown one is told with those there are."""
    params = default()
    for name, overrides in params.variants.items():
        flat = params.variant(name).flat()
        assert {path: flat[path] for path in overrides} == overrides
        assert all(flat[path] == value for path, value in params.flat().items() if path not in overrides)
    message = told(params.variant, "hvea")
    assert message == "variant: 'hvea' is not in variants; allowed: vae, hvae, mhvae (did you mean 'hvae'?)"


def test_the_space_never_holds_what_the_variant_fixes() -> None:
    """A variant sweeps the space less its own paths, and the shipped VAE has neither depth nor ratio to sweep."""
    params = default()
    for name, overrides in params.variants.items():
        assert set(params.space(name)) == set(params.sweep.space) - set(overrides)
    assert set(params.space("vae")) == {"model.z_dim"}


def test_the_space_holds_intervals_and_choices() -> None:
    """`low, high` is an interval whose ends keep their kind, `choices` a list."""
    params = setting(
        "sweep.space={model.depth: {low: 1, high: 3}, model.z_ratio: {low: 0.5, high: 1}, "
        "train.clip: {choices: [1.0, 10.0]}}"
    )
    space = params.sweep.space
    assert space["model.depth"] == Range(low=1, high=3)
    assert isinstance(space["model.depth"], Range)
    assert isinstance(space["model.depth"].low, int)
    assert isinstance(space["model.z_ratio"], Range)
    assert isinstance(space["model.z_ratio"].low, float)
    assert space["train.clip"] == Choices(choices=(1.0, 10.0))


@pytest.mark.parametrize(
    ("words", "binary"),
    [
        (["data.name=mnist", "data.binarization=dynamic"], True),
        (["data.name=mnist", "data.binarization=static"], True),
        (["data.name=mnist", "data.binarization=none"], False),
        (["data.name=binarized_mnist", "data.binarization=none"], True),
        (["data.name=caltech101_silhouettes", "data.binarization=none"], True),
        (["data.name=cave", "data.binarization=none"], True),
        (["data.name=cave", "data.cave.grey=true", "data.binarization=none"], False),
    ],
)
def test_pixels_are_binary_by_nature_or_by_binarization(words: list[str], binary: bool) -> None:
    """Black and white sets stay binary without binarization, grey ones do not."""
    likelihood = "bernoulli" if binary else "gaussian"
    assert setting(f"model.likelihood={likelihood}", *words).data.binary is binary


def test_a_digest_does_not_depend_on_the_order_of_keys() -> None:
    """Equal values have equal digests, a list and a tuple are the same value, others differ."""
    assert digest({"a": 1, "b": (1, 2)}) == digest({"b": [1, 2], "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})
    assert len(digest(1)) == 12
    assert digest(default().model_dump()) == digest(Params.read(FILE).model_dump())


# --- Anything at all

TEXT = st.text(max_size=8)
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([0, 1, -1, 2, 64, 1e-3, 0.5, float("nan"), float("inf")]),
    st.floats(),
    TEXT,
    st.sampled_from(["none", "normal", "nearest", "elbo", "model.depth", "vae", "mnist"]),
)
VALUES = st.recursive(
    LEAVES,
    lambda values: st.lists(values, max_size=3) | st.dictionaries(TEXT | st.integers(), values, max_size=3),
    max_leaves=6,
)
KEYS = st.one_of(TEXT, st.sampled_from(["depth", "low", "choices", "model.widths", "model.depth", "train.epochs"]))


def places(raw: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the place of everything in nested lists and mappings."""
    found = [path] if path else []
    items = raw.items() if isinstance(raw, dict) else enumerate(raw) if isinstance(raw, list) else ()
    for key, value in items:
        found += places(value, (*path, key))
    return found


@st.composite
def mutated(draw: st.DrawFn) -> Any:
    """Draw the project's parameters with one to three things replaced, taken out or put in."""
    raw = read_yaml(FILE)
    for _ in range(draw(st.integers(1, 3))):
        *parents, last = draw(st.sampled_from(places(raw)))
        parent = raw
        for key in parents:
            parent = parent[key]
        kind = draw(st.sampled_from(["replace", "replace", "delete", "insert"]))
        if kind == "replace":
            parent[last] = draw(VALUES)
        elif kind == "delete":
            del parent[last]
        elif isinstance(parent, dict):
            parent[draw(KEYS)] = draw(VALUES)
        else:
            parent.insert(last, draw(VALUES))
    return raw


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder for files of parameters."""
    return tmp_path_factory.mktemp("params")


def outcome(call: Callable[[], Params]) -> tuple[Params | None, str]:
    """Return what a call gives, or the message of the `InputError` that it raises; nothing else may be raised."""
    try:
        return call(), ""
    except InputError as error:
        return None, str(error)


@pytest.mark.slow
@settings(max_examples=300, deadline=None, derandomize=True)
@given(raw=mutated())
def test_any_file_is_parameters_or_one_line(folder: Path, raw: Any) -> None:
    """Whatever is changed in the file, reading it gives parameters that survive writing, or one line."""
    path = written(folder, raw)
    params, message = outcome(lambda: Params.read(path))
    if params is None:
        assert message.splitlines() == [message]
    else:
        path.write_text(dump_yaml(params), encoding="utf-8")
        assert Params.read(path) == params


@settings(max_examples=200, deadline=None, derandomize=True)
@given(path=st.sampled_from(list(Params.read(FILE).flat())), value=VALUES)
def test_any_override_is_parameters_or_one_line(path: str, value: Any) -> None:
    """Any value at any dotted path gives parameters that have it, or one line."""
    params, message = outcome(lambda: Params.read(FILE, {path: value}))
    if params is None:
        assert message.splitlines() == [message]
    else:
        taken = params.flat()[path]
        # A whole number may stand where a float is asked for, and then is one.
        assert digest(taken) == digest(float(value) if isinstance(taken, float) else value)


@pytest.mark.parametrize(
    "path", sorted((ROOT / "experiments").glob("*/params.yaml")), ids=lambda path: path.parent.name
)
def test_the_studies_that_come_with_the_project_can_be_read(path: Path) -> None:
    """Every committed study's parameters are sound, on each of its budgets, and its pipeline is the root's."""
    names = Params.read(path).budgets
    for name in names:
        assert Params.read(path, {"budget": name}).budget == name
    copy = path.parent / "dvc.yaml"
    assert not copy.is_symlink(), "run `cave study refresh`"
    assert copy.read_bytes() == (ROOT / "dvc.yaml").read_bytes(), "dvc.yaml was changed: run `cave study refresh`"
    assert not active(path.parent)  # before it was run, DVC's checkout and pull would fail for it


def test_a_budget_gives_way_to_what_is_set_by_hand(tmp_path: Path) -> None:
    """The file's value gives way to the budget's, and that to --set, also in a study that is made of them."""
    text = (ROOT / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(text)
    (tmp_path / "pyproject.toml").write_text("")
    own, quick = Params.read(tmp_path / "params.yaml"), Params.read(tmp_path / "params.yaml", {"budget": "quick"})
    assert (own.train.epochs, quick.train.epochs, quick.model) == (60, 4, own.model)
    by_hand = {"budget": "quick", "train.epochs": 7}
    assert Params.read(tmp_path / "params.yaml", by_hand).train.epochs == 7
    made = create_study(tmp_path, "made", by_hand, pipeline=False)
    assert (made.params.train.epochs, made.params.sweep.trials) == (7, 3)
    again = create_study(tmp_path, "made", by_hand | {"sweep.trials": 9}, pipeline=False)
    assert (again.params.train.epochs, again.params.sweep.trials) == (7, 9)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"budget": "quik"}, "budget: 'quik' given; allowed: default, quick (did you mean 'quick'?)"),
        ({"budget": ["quick"]}, "--set: budget"),
        ({"budgets": {"quick": {"train.epoch": 1}}}, "budgets.quick: train.epoch: no such parameter"),
        ({"budgets": {"quick": {"data.seed": 1}}}, "a budget sets paths in train, sweep and evaluate"),
        ({"budgets": {}}, "budgets"),
    ],
)
def test_a_budget_that_is_none_is_told_in_one_line(given: dict[str, Any], message: str) -> None:
    """A name that no budget has, and a budget of other paths, are refused by their name."""
    with pytest.raises(InputError) as told:
        Params.read(ROOT / "params.yaml", given)
    assert message in str(told.value)


def test_an_unused_budget_is_checked_by_itself() -> None:
    """A budget that is sound over the file stays sound when another is chosen."""
    fine = {"budgets": {"quick": {"evaluate.draws": 200, "evaluate.k": [1, 200], "train.epochs": 3},
                        "fine": {"evaluate.k": [1, 2500, 5000]}}, "budget": "quick"}  # fmt: skip
    assert Params.read(ROOT / "params.yaml", fine).train.epochs == 3


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_a_renamed_parameter_gets_its_new_name(tmp_path: Path, old: str, new: str) -> None:
    """The old name in the file, with --set, in a variant's values and in the space gets a line with the new one."""
    section, _, name = old.rpartition(".")
    raw = read_yaml(FILE)
    at(raw, section)[name] = at(raw, section).pop(new.rpartition(".")[2])
    assert told(Params.read, written(tmp_path, raw)) == f"params.yaml: {old}: renamed to {new}"
    assert told(setting, f"{old}=1") == f"--set: {old}: renamed to {new}"
    if section in ("model", "train"):
        assert told(setting, f"variants={{a: {{{old}: 1}}}}") == f"variants.a: {old}: renamed to {new}"
        assert told(setting, f"sweep.space={{{old}: {{low: 1, high: 2}}}}").endswith(f"{old}: renamed to {new}")
