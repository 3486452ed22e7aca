"""Parameters: read, changed and written; and whatever is wrong with them is one line on stderr and exit code 2."""

from __future__ import annotations

import contextlib
import copy
import json
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import yaml
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from pipeline import data
from pipeline.cli.new_study import create_study
from pipeline.errors import InputError
from pipeline.params import Choices, Params, Range, digest, dump_yaml, parse_assignments, read_yaml
from pipeline.params.explain import RENAMED
from pipeline.study import active
from tests.command import assert_one_line, call
from tests.small import ROOT

FILE = ROOT / "params.yaml"
TEXT = FILE.read_bytes()
RAW: dict[str, Any] = read_yaml(FILE)
FEW = settings(
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow, HealthCheck.data_too_large],
)


def default(**overrides: Any) -> Params:
    """Read the project's parameters."""
    return Params.read(FILE, overrides)


def error_line(function: Any, *arguments: Any) -> str:
    """Return the message of the `InputError` that a call raises, which must be one line."""
    with pytest.raises(InputError) as error:
        function(*arguments)
    message = str(error.value)
    assert message
    assert "\n" not in message
    return message


def read(raw: Any) -> Params:
    """Read parameters that params.yaml would hold."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.params.parameters.read_yaml", lambda _: raw)
        return Params.read(FILE)


def setting(*words: str) -> Params:
    """Read the project's parameters as `--set` changes them."""
    return Params.read(FILE, parse_assignments(list(words)))


# --- A table of lines


LINES: list[tuple[str | tuple[str, ...], str]] = [  # words of --set, and what the line says
    ("data.cave.size=27", "data.cave.size: 27 given; allowed: greater than or equal to 28"),
    ("data.cave.images=1", "data.cave.images: 1 given; allowed: greater than or equal to 100"),
    ("data.cave.grey=1", "data.cave.grey: 1 given; allowed: boolean"),
    ("data.seed=-1", "data.seed: -1 given; allowed: greater than or equal to 0"),
    ("data.seed=2147483648", "data.seed: 2147483648 given; allowed: less than or equal to 2147483647"),
    ("data.seed=1.0", "data.seed: 1.0 given; allowed: integer"),
    ("model.depth=0", "model.depth: 0 given; allowed: greater than or equal to 1"),
    ("model.depth=65", "model.depth: 65 given with inference bottom_up; allowed: 1 to 64"),
    ("model.depth=two", "model.depth: 'two' given; allowed: integer"),
    ("model.depth=true", "model.depth: True given; allowed: integer"),
    ("model.depth=null", "model.depth: None given; allowed: integer"),
    ("model.depth=[2]", "model.depth: [2] given; allowed: integer"),
    ("model.z_dim=9999999999999999999", "model.z_dim: 9999999999999999999 given; allowed: less than or equal to 65536"),
    ("model.z_ratio=0", "model.z_ratio: 0 given; allowed: greater than 0"),
    ("model.z_ratio=.inf", "model.z_ratio: inf given; allowed: finite number"),
    ("model.widths=[8, 0]", "model.widths.1: 0 given; allowed: greater than or equal to 1"),
    ("model.widths=[[8], 4]", "model.widths.0: [8] given; allowed: integer"),
    ("model.hidden=8", "model.hidden: 8 given; allowed: list"),
    ("model.hidden=[]", "model.hidden: [] given; allowed: at least 1"),
    ("model.hidden=[[8], x]", "model.hidden.1: 'x' given; allowed: list"),
    ("model.hidden=[[8, x]]", "model.hidden.0.1: 'x' given; allowed: integer"),
    ("train.learning_rate=0", "train.learning_rate: 0 given; allowed: greater than 0"),
    ("train.learning_rate=.nan", "train.learning_rate: nan given; allowed: finite number"),
    ("train.learning_rate=fast", "train.learning_rate: 'fast' given; allowed: number"),
    ("train.clip=0.0", "train.clip: 0.0 given; allowed: greater than 0"),
    ("train.adam_beta1=1.0", "train.adam_beta1: 1.0 given; allowed: less than 1"),
    ("train.adam_beta2=.nan", "train.adam_beta2: nan given; allowed: "),
    ("train.draws=0", "train.draws: 0 given; allowed: greater than or equal to 1"),
    ("train.epochs=1.5", "train.epochs: 1.5 given; allowed: integer"),
    ("train.warmup=-1", "train.warmup: -1 given; allowed: greater than or equal to 0"),
    ("train.patience=0", "train.patience: 0 given; allowed: greater than or equal to 1"),
    ("train.seeds=[]", "train.seeds: [] given; allowed: at least 1"),
    ("train.seeds=[0, x]", "train.seeds.1: 'x' given; allowed: integer"),
    ("sweep.trials=none", "sweep.trials: 'none' given; allowed: integer"),
    ("evaluate.k=[]", "evaluate.k: [] given; allowed: at least 1"),
    ("evaluate.active_draws=10", "evaluate.active_draws: 10 given; allowed: greater than or equal to 20"),
    ("evaluate.active_draws=25", "evaluate.active_draws: 25 given; allowed: a multiple of 10"),
    ("evaluate.draws=1", "evaluate.draws: 1 given; allowed: greater than or equal to 2"),
    ("evaluate.active_threshold=-0.1", "evaluate.active_threshold: -0.1 given; allowed: greater than 0"),
    ("report.confidence=1", "report.confidence: 1 given; allowed: less than 1"),
    ("report.images=41", "report.images: 41 given; allowed: less than or equal to 40"),
    ("root=3", "root: 3 given; allowed: string"),
    ("model=3", "model: 3 given; allowed: dictionary"),
    ("variants={}", "variants: {} given; allowed: at least 1"),
    ("variants={Big: {}}", "variants.Big: 'Big' given; allowed: ^[a-z0-9]"),
    ("variants={vae: 3}", "variants.vae: 3 given; allowed: dictionary"),
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
    *((f"model.widths={value}", "model.widths") for value in ("3", "true", "[]", "{}", "abc", "null]", "[x]")),
    ("variants={a: {model.widths: 3}}", "model.widths"),
    ("sweep.space={model.widths: {choices: [3]}}", "model.widths"),
    ("sweep.space={model.depth: {choices: []}}", "--set: sweep.space.model.depth.choices: "),
    ("evaluate.outliers={data: mnits, images: 5, draws: 5}", "(did you mean 'mnist'?); allowed: shuffled, digits"),
    ("budget=quik", "budget: 'quik' given; allowed: default, quick (did you mean 'quick'?)"),
    ("budget=[quick]", "--set: budget"),
    ("budgets={quick: {train.epoch: 1}}", "budgets.quick: train.epoch: no such parameter"),
    ("budgets={quick: {data.seed: 1}}", "a budget sets paths in train, sweep and evaluate"),
    ("budgets={}", "budgets"),
    (("model.depth=3", "model.depth=2"), "--set: model.depth: given twice, 3 and 2"),
    (("model.depth=3", "model={depth: 2}"), "--set: model.depth: given beside model, which holds it"),
    (("evaluate.decompose={}", "evaluate.decompose.queries=3"), "given beside evaluate.decompose"),
    *((f"model.depth={value}", "--set: model.depth: ") for value in
      ("[[", "{a", "!!bool maybe", "!!int ''", "!!float ''", "!!python/name:os.system", "*a")),
    *((word, f"--set: '{word}' is not of the form path=value, as in model.depth=3")
      for word in ("model.depth", "=3", "", "model.depth:3")),
]  # fmt: skip


@pytest.mark.parametrize(("words", "expected"), LINES, ids=[str(row[0]) for row in LINES])
def test_a_bad_value_is_one_line(words: str | tuple[str, ...], expected: str) -> None:
    """The line has the dotted path, the value, and what is allowed or what the value contradicts."""
    message = error_line(setting, *([words] if isinstance(words, str) else words))
    for part in expected.split("; allowed: "):
        assert part in message


CONTRADICTIONS: list[dict[str, Any]] = [  # beside those above
    {"model.widths": [3, 2, 1]},
    {"model.likelihood": "continuous_bernoulli"},
    {"model.likelihood": "discretized_logistic"},
    {"model.likelihood": "discretized_logistic", "data.binarization": "none"},
    {"model.sigma": 0.5},
    {"model.network": "conv", "model.hidden": [[], [3]]},
    {"model.batch_norm": True, "model.prior": "vamp"},
    {"model.inference": "top_down", "model.hidden": [[3], []]},
    {"data.protocol": "burda"},
    {"data.name": "mnist", "data.protocol": "stratified"},
    {"data.name": "cave", "data.cave.images": 1_000_000, "data.cave.size": 512},
    {"train.warmup": 3},
    {"train.warmup_stagger": 3},
    {"train.objective": "iwae", "train.free_bits": 1.0},
    *({"train.milestones": epochs} for epochs in ([3, 2], [3, 3])),
    {"evaluate.draws": 4999},
    {"budget": "🗿"},
    *({"sweep.space": {"model.depth": bad}} for bad in (
        {"low": 1.5, "high": 2.5}, {"choices": ["two"]}, {"choices": [65]}, {"low": 1, "high": 2, "choices": [1]},
        {"low": 1, "high": 2, "step": 1, "log": True}, {}, [], None, "all", {"low": 1, "high": float("inf")},
        {"low": 1, "high": 10**30},
    )),
    *({"sweep.space": {path: {"low": 1, "high": 2}}} for path in ("🗿", "", ".", "sweep.trials", "model.depth.low")),
    *({"variants": {"vae": fixed}} for fixed in (
        {"data.seed": 1}, {"train.seeds": [1]}, {"model": 3}, {"": 1}, None, [], {"model.depth": None}, {"model": {}},
        {"train.beta": 2.0}, {"🗿": 1}, {".": 1}, {"model..depth": 1},
    )),
    *({"variants": {name: {}}} for name in ("a/b", "..", "", " ", "🗿", "-a", "a\nb", "vae\n")),
    *({"budgets": {"default": fixed}} for fixed in ({"model.depth": 1}, {"train.epochs": 0}, {"train": 1}, None)),
]  # fmt: skip


@pytest.mark.parametrize("values", CONTRADICTIONS, ids=str)
def test_values_that_contradict_each_other_are_one_line(values: dict[str, Any]) -> None:
    """Values that are valid by themselves and not together are refused, wherever their sections stand in the file."""
    raw = copy.deepcopy(RAW)
    for path, value in values.items():
        *parents, last = path.split(".")
        within(raw, tuple(parents))[last] = value
    line = error_line(lambda: data.check(read(dict(reversed(raw.items()))).data))
    assert len(line.split()) > 2


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


@pytest.mark.parametrize(("path", "choices"), literals(Params), ids=[path for path, _ in literals(Params)])
def test_a_misspelt_name_is_told_with_the_choices_and_the_nearest(path: str, choices: tuple[str, ...]) -> None:
    """A name with one letter twice is reported with its path, the nearest choice and all of them."""
    assert len(literals(Params)) >= 11
    for choice in choices:
        message = error_line(setting, f"{path}={choice[0]}{choice}")
        assert message.startswith(f"--set: {path}: '{choice[0]}{choice}' given (did you mean '")
        assert message.endswith(f"allowed: {', '.join(choices)}")
    assert error_line(setting, f"{path}=zzz") == f"--set: {path}: 'zzz' given; allowed: {', '.join(choices)}"
    assert error_line(setting, f"{path}=3") == f"--set: {path}: 3 given; allowed: {', '.join(choices)}"


# --- A bad file


def at(raw: Any, path: str) -> Any:
    """Return what lies at a dotted path."""
    for key in path.split(".") if path else []:
        raw = raw[key]
    return raw


@pytest.mark.parametrize("section", ["", "data", "data.cave", "model", "train", "sweep", "evaluate", "report"])
def test_a_key_that_is_missing_unknown_or_misspelt_is_named(section: str) -> None:
    """Every key of every section must be there, and no other: the line has its path.

    A key that is not known comes with the nearest one and, where that is there too, all of them; not the one that it
    leaves missing is named.
    """
    keys = list(at(RAW, section))
    for key in keys:
        missing, misspelt, beside = (copy.deepcopy(RAW) for _ in range(3))
        del at(missing, section)[key]
        path = f"{section}.{key}".removeprefix(".")
        assert error_line(read, missing) == f"params.yaml: {path}: missing"
        at(misspelt, section)[key[0] + key] = at(misspelt, section).pop(key)
        path = f"{section}.{key[0]}{key}".removeprefix(".")
        unknown = f"params.yaml: {path}: unknown key (did you mean '{key}'?)"
        assert error_line(read, misspelt).startswith(unknown)
        at(beside, section)[key[0] + key] = 1
        message = error_line(read, beside)
        assert message.startswith(f"{unknown}; allowed: ")
        assert set(message.partition("allowed: ")[2].split(", ")) == set(keys)


def test_a_misspelt_key_is_told_before_one_that_is_missing_elsewhere() -> None:
    """Of `zdim` in a file that lacks a key of an earlier section too, the misspelt one is named."""
    raw = copy.deepcopy(RAW)
    raw["model"]["zdim"] = raw["model"].pop("z_dim")
    del raw["data"]["seed"]
    assert "model.zdim: unknown key (did you mean 'z_dim'?)" in error_line(read, raw)


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
    error_line(Params.read, path)


def test_a_file_that_is_not_there_or_no_text_is_told(tmp_path: Path) -> None:
    """A missing file, a folder and bytes that are no UTF-8 are reported with the path."""
    assert "no such file" in error_line(Params.read, tmp_path / "none.yaml")
    assert str(tmp_path.name) in error_line(Params.read, tmp_path)
    (tmp_path / "params.yaml").write_bytes(b"\xff\xfe\x00")
    assert "params.yaml: not readable as YAML" in error_line(Params.read, tmp_path / "params.yaml")


# --- Random files and words, through the command line


def spots(raw: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the spot of everything in nested lists and mappings."""
    items = raw.items() if isinstance(raw, dict) else enumerate(raw) if isinstance(raw, list) else ()
    return [spot for key, value in items for spot in [(*path, key), *spots(value, (*path, key))]]


def within(raw: Any, spot: tuple[Any, ...]) -> Any:
    """Return what stands at a spot."""
    for key in spot:
        raw = raw[key]
    return raw


def text_of(raw: Any) -> bytes:
    """Write parameters as JSON, which is YAML too, but for numbers that JSON has not."""
    text = json.dumps(raw, ensure_ascii=False)
    return text.replace("-Infinity", "-.inf").replace("Infinity", ".inf").replace("NaN", ".nan").encode()


SPOTS = spots(RAW)
STRICT = [spot for spot in SPOTS if spot[0] not in ("budgets", "variants") and "space" not in spot]
MAPPINGS = [
    (),
    *(spot for spot in STRICT if isinstance(within(RAW, spot), dict) and spot[-1] != "published"),
]
ODD = st.sampled_from(
    ["🗿", "", " ", "-", "__class__", "model.depth", "dept h", "\u202e", "ключ", "a\tb", "null", "0", "x" * 300]
)


@st.composite
def cut(draw: st.DrawFn) -> bytes:
    """Cut the file off at any byte, or take a part out of its middle."""
    start = draw(st.integers(0, len(TEXT) - 1))
    if draw(st.booleans()):
        return TEXT[:start]
    return TEXT[:start] + TEXT[start + draw(st.integers(1, 400)) :]


@st.composite
def scrambled(draw: st.DrawFn) -> bytes:
    """Put bytes that are no text, or no YAML, anywhere into the file."""
    at = draw(st.integers(0, len(TEXT)))
    odd = [
        b"\x00", b"\xff", b"\xc3", b"\xed\xa0\x80", b"\t", b"\n\t", b"\x1b[2J", b"\x7f", b"\x85", b"\r",
        b"\xef\xbb\xbf", b"\xe2\x80\xa8",
    ]  # fmt: skip
    odd += [
        b"{", b"]", b"'", b'"', b"\n- ", b"\n: ", b"? ", b"*a", b"&a ", b"!", b"%YAML 9.9\n", b"\n---\n",
        b"\n...\n", b"@", b"`", b"|", b">", b"\\",
    ]  # fmt: skip
    piece = draw(st.sampled_from(odd) | st.binary(min_size=1, max_size=12))
    return TEXT[:at] + piece + TEXT[at + draw(st.integers(0, 3)) :]


@st.composite
def shuffled(draw: st.DrawFn) -> bytes:
    """Double, indent, move or join lines."""
    lines = TEXT.splitlines(keepends=True)
    at, other = draw(st.integers(0, len(lines) - 1)), draw(st.integers(0, len(lines) - 1))
    kind = draw(st.sampled_from(["double", "indent", "tab", "outdent", "move", "join"]))
    line = lines[at]
    if kind == "move":
        lines[at], lines[other] = lines[other], line
    else:
        after = {
            "double": line * 2,
            "indent": b" " + line,
            "tab": b"\t" + line,
            "outdent": line.lstrip(),
            "join": line.rstrip(b"\n"),
        }
        lines[at] = after[kind]
    return b"".join(lines)


ENCODED = st.sampled_from(["utf-16", "utf-16-le", "utf-32", "cp500"]).map(TEXT.decode().replace("—", "-").encode)
NOISE = st.binary(max_size=200) | st.text(max_size=100).map(str.encode)


@st.composite
def mistyped(draw: st.DrawFn) -> bytes:
    """Replace anything by something of another type, or by a number that none of them may be."""
    raw = copy.deepcopy(RAW)
    spot = draw(st.sampled_from([spot for spot in STRICT if spot[0] not in ("root", "out")]))
    was = within(raw, spot)
    wrong: list[Any] = [float("nan"), float("inf"), -float("inf"), -(10**30), -1e308, -1, -0.5]
    wrong += [
        {"🗿": 1}, [[[[[]]]]], [None], "", "🗿", "1", {"low": {}}, [{}], "x" * 5000, {"a": {"b": [1, {"c": None}]}},
    ]  # fmt: skip
    if not isinstance(was, list):
        wrong += [[], [1, 2]]
    within(raw, spot[:-1])[spot[-1]] = draw(st.sampled_from([value for value in wrong if value != was]))
    return text_of(raw)


@st.composite
def beyond(draw: st.DrawFn) -> bytes:
    """Give a whole number of more digits than any machine counts to, or a fraction where units are counted."""
    raw = copy.deepcopy(RAW)
    counts = [spot for spot in STRICT if type(within(RAW, spot)) is int]
    spot = draw(st.sampled_from(counts))
    digits = draw(st.sampled_from([20, 40, 300, 4000, 5000, 20_000]))
    within(raw, spot[:-1])[spot[-1]] = "@"
    number = draw(
        st.sampled_from(
            ["9" * digits, "-" + "9" * digits, "0x" + "f" * digits, "1." + "5" * digits, "9" * digits + ".5"]
        )
    )
    return text_of(raw).replace(b'"@"', number.encode())


@st.composite
def misspelt(draw: st.DrawFn) -> bytes:
    """Misspell a key, put an unknown one in, or leave one out, at any depth."""
    raw = copy.deepcopy(RAW)
    mapping = within(raw, draw(st.sampled_from(MAPPINGS)))
    keys = list(mapping)
    kind = draw(st.sampled_from(["misspell", "insert", "leave out", "number"]))
    key = draw(st.sampled_from(keys))
    if kind == "misspell":
        at = draw(st.integers(0, len(key) - 1))
        other = key[:at] + draw(st.sampled_from(["", key[at] * 2, "_", "é", key[at].upper()])) + key[at + 1 :]
        assume(other not in keys)
        mapping[other] = mapping.pop(key)
    elif kind == "insert":
        mapping[draw(ODD)] = draw(st.sampled_from([None, 1, {}, [], "x"]))
    elif kind == "number":
        mapping[draw(st.sampled_from([1, -1, 0.5, True, None]))] = 1
    else:
        del mapping[key]
    return text_of(raw)


@st.composite
def emptied(draw: st.DrawFn) -> bytes:
    """Put nothing, a list or a single value in place of a whole section, or of the file."""
    spot = draw(st.sampled_from([(), *(spot for spot in SPOTS if isinstance(within(RAW, spot), dict))]))
    value = draw(st.sampled_from([None, [], [1], "", 0, True, "model", [[]], 1.5, ["depth", 2], [{"depth": 2}]]))
    assume(not (spot == ("evaluate", "decompose") and value is None))
    if not spot:
        return text_of(value)
    raw = copy.deepcopy(RAW)
    within(raw, spot[:-1])[spot[-1]] = value
    return text_of(raw)


@st.composite
def tagged(draw: st.DrawFn) -> bytes:
    """Put a tag, an alias, a cycle, a bomb or a pile of brackets in place of a value."""
    raw = copy.deepcopy(RAW)
    spot = draw(
        st.sampled_from([spot for spot in STRICT if spot[-1] != "published" and spot[0] not in ("root", "out")])
    )
    deep = draw(st.sampled_from([50, 300, 1000, 5000]))
    bomb = "[&a0 [x,x], " + ", ".join(f"&a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30)) + "]"
    wide = "{k0: &b0 {x: x}, " + ", ".join(f"k{i}: &b{i} {{p: *b{i - 1}, q: *b{i - 1}}}" for i in range(1, 40)) + "}"
    values = [
        "!!python/object/apply:os.system [touch executed]", "!!python/name:os.system ''",
        "!!python/object/new:os.system [touch executed]", "!!python/module:os ''", "!!binary '*'", "!!int x",
        "!!float [1]", "!!timestamp never", "!!set [1]", "!!omap [1]", "!!map 3", "!!null {a: 1}",
        "!<tag:yaml.org,2002:python/object> {}", "!unknown 3", "!!str {a: 1}", "*nobody", "&a [*a]", "&a {b: *a}",
        "&a [[[[*a]]]]", "{<<: 3}", "{<<: *nobody}", "{<<: &a {<<: *a}}", "{? [1, 2] : 3}", "{? {a: 1} : 3}",
        "{a: 1, a: 2}", "[&x 1, &x 2, *x]", "2001-02-30", "2001-02-03T99:99:99Z", "2001-02-03", bomb, wide,
        "[" * deep, "[" * deep + "]" * deep, "{a: " * deep + "1" + "}" * deep, "'" + "\\" * deep, '"\\ud800"',
        '"\\x00"', '"\\x1b[2J"', "\\",
    ]  # fmt: skip
    within(raw, spot[:-1])[spot[-1]] = "@"
    return text_of(raw).replace(b'"@"', draw(st.sampled_from(values)).encode())


SURELY = mistyped() | beyond() | misspelt() | emptied() | tagged()  # all of them are broken
PERHAPS = cut() | scrambled() | shuffled() | NOISE | ENCODED  # and such that may be valid by accident


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a project's folder."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "pyproject.toml").touch()
    return folder


def is_refused(project: Path, content: bytes) -> bool:
    """Check a file; return whether it was refused, as it must be, in one line."""
    (project / "params.yaml").write_bytes(content)
    with contextlib.chdir(project):
        code, out, err = call("check")
    if code == 0:
        assert err == ""
        assert out.startswith("params.yaml is sound")
        return False
    assert_one_line(code, out, err)
    return True


@pytest.mark.slow
@settings(FEW, max_examples=120)
@given(content=SURELY)
def test_a_broken_file_is_one_line(project: Path, content: bytes) -> None:
    """A file with a value, key, section or tag that cannot be ends the command with one line and exit code 2."""
    assert is_refused(project, content), content[:3000]
    assert not (project / "executed").exists()


@pytest.mark.slow
@settings(FEW, max_examples=80)
@given(content=PERHAPS)
def test_a_damaged_file_is_one_line_or_valid(project: Path, content: bytes) -> None:
    """A file damaged in its bytes is refused in one line; what is taken is YAML, and can be written."""
    if not is_refused(project, content):
        # That reader knows YAML 1.1 alone, where a tab parts no words.
        assert set(yaml.safe_load(content.replace(b"\t", b" "))) == set(RAW)
        params = Params.read(project / "params.yaml")
        (project / "params.yaml").write_text(dump_yaml(params), encoding="utf-8")
        assert Params.read(project / "params.yaml") == params


@st.composite
def words(draw: st.DrawFn) -> str:
    """Draw a `--set` word that is wrong in its path, in its value, or in its form."""
    paths = [".".join(map(str, spot)) for spot in STRICT if spot[0] in ("data", "model", "train", "evaluate")]
    path = draw(st.sampled_from([path for path in paths if not any(part.isdigit() for part in path.split("."))]))
    kind = draw(st.sampled_from(["path", "value", "form"]))
    if kind == "path":
        odd = [
            "", ".", "..", path + ".", "." + path, path + ".x", path[:-1] + "_", "🗿", path + "\x00", path + "\n",
            path.upper(),
        ]  # fmt: skip
        return draw(st.sampled_from(odd)) + "=" + draw(st.sampled_from(["1", "null", "[]", "{}", ""]))
    if kind == "form":
        return draw(st.sampled_from([path, "", "=", "=1", path + ":1", "\x00", "x" * 5000, path + " 1"]))
    bad = [
        ".nan", "-.inf", "-1e30", "{a: 1}", "[[[1]]]", "🗿", "!!python/name:os.system ''", "!x 1", "*a", "&a [*a]",
        "[", "{", "'", "\t", "\x00", "[" * 3000, "0x" + "f" * 5000, "-" + "9" * 5000, "2001-02-30", "a: b: c",
        "- 1", "%", "@", "`",
    ]  # fmt: skip
    return f"{path}={draw(st.sampled_from(bad))}"


@pytest.mark.slow
@settings(FEW, max_examples=60)
@given(word=words())
def test_a_broken_word_is_one_line(project: Path, word: str) -> None:
    """A `--set` word that names nothing, means nothing or is none ends the command with one line."""
    (project / "params.yaml").write_bytes(TEXT)
    with contextlib.chdir(project):
        assert_one_line(*call("check", f"--set={word}"))


SHORT = st.text(max_size=8)
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([0, 1, -1, 2, 64, 1e-3, 0.5, float("nan"), float("inf")]),
    st.floats(),
    SHORT,
    st.sampled_from(["none", "normal", "nearest", "elbo", "model.depth", "vae", "mnist"]),
)
VALUES = st.recursive(
    LEAVES,
    lambda values: st.lists(values, max_size=3) | st.dictionaries(SHORT | st.integers(), values, max_size=3),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(path=st.sampled_from(list(Params.read(FILE).flat())), value=VALUES)
def test_any_override_is_parameters_or_one_line(path: str, value: Any) -> None:
    """Any value at any dotted path gives parameters that have it, or one line."""
    try:
        taken = Params.read(FILE, {path: value}).flat()[path]
    except InputError:
        error_line(Params.read, FILE, {path: value})
    else:
        # An integer may stand where a float is expected, and then is one.
        assert digest(taken) == digest(float(value) if isinstance(taken, float) else value)


def test_values_on_the_command_line_are_yaml() -> None:
    """Numbers, lists, null, words and texts with a sign in them come out as YAML has them."""
    words = ["a=3", "b=1e-3", "c=[20, 10]", "d=null", "e=mnist", "f=x=y", "g=", "h=1.0", "i={low: 1}", "j=on", "k='3'"]
    assert parse_assignments(words) == {
        "a": 3, "b": 1e-3, "c": [20, 10], "d": None, "e": "mnist", "f": "x=y", "g": None, "h": 1.0,
        "i": {"low": 1}, "j": "on", "k": "3",
    }  # fmt: skip


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


def test_every_parameter_can_be_given_by_its_path() -> None:
    """Overriding any parameter by its dotted path with the value it has changes nothing."""
    params = default()
    for path, value in params.flat().items():
        assert params.override({path: value}) == params, path


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
    error_line(lambda: default(**{"model.widths": [8, 4, 2], "model.depth": 2, "variants": {"a": {}}}))


def test_a_variant_is_its_overrides() -> None:
    """A variant has what it fixes and otherwise what the file has; an unknown one is reported with those there are."""
    params = default()
    for name, overrides in params.variants.items():
        flat = params.variant(name).flat()
        assert {path: flat[path] for path in overrides} == overrides
        assert all(flat[path] == value for path, value in params.flat().items() if path not in overrides)
    message = error_line(params.variant, "hvea")
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


def test_an_unused_budget_is_checked_by_itself() -> None:
    """A budget that is sound over the file stays sound when another is chosen."""
    fine = {"budgets": {"quick": {"evaluate.draws": 200, "evaluate.k": [1, 200], "train.epochs": 3},
                        "fine": {"evaluate.k": [1, 2500, 5000]}}, "budget": "quick"}  # fmt: skip
    assert Params.read(ROOT / "params.yaml", fine).train.epochs == 3


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_a_renamed_parameter_gets_its_new_name(old: str, new: str) -> None:
    """The old name in the file, with --set, in a variant's values and in the space gets a line with the new one."""
    section, _, name = old.rpartition(".")
    raw = copy.deepcopy(RAW)
    at(raw, section)[name] = at(raw, section).pop(new.rpartition(".")[2])
    assert error_line(read, raw) == f"params.yaml: {old}: renamed to {new}"
    assert error_line(setting, f"{old}=1") == f"--set: {old}: renamed to {new}"
    if section in ("model", "train"):
        assert error_line(setting, f"variants={{a: {{{old}: 1}}}}") == f"variants.a: {old}: renamed to {new}"
        assert error_line(setting, f"sweep.space={{{old}: {{low: 1, high: 2}}}}").endswith(f"{old}: renamed to {new}")
