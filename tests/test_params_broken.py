"""A thousand broken `params.yaml`: each gets its one line on stderr and exit code 2, whatever is broken and how.

The files are the project's own with something done to it, drawn by hypothesis from a fixed stream. The command runs in
this process, for speed, from `main` on; a handful of files go through a process of their own.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from pipeline import cli, data
from pipeline.models import build
from pipeline.models.checkpoint import load, save_model
from pipeline.params import read_yaml
from pipeline.processes.entry import run_main
from pipeline.stages import train as stage
from tests.small import ROOT, model_params, splits
from tests.workshop import make_study

TEXT = (ROOT / "params.yaml").read_bytes()
RAW: dict[str, Any] = read_yaml(ROOT / "params.yaml")
BUDGET = settings(
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow, HealthCheck.data_too_large],
)
LONGEST = 600  # characters of the line


def told(*words: str, main: Callable[[], None] = cli.main) -> tuple[int, str, str]:
    """Run the command line with these words; return exit code, stdout and stderr, warnings among it."""
    out, err = io.StringIO(), io.StringIO()
    before = sys.argv
    sys.argv = ["cave", *words]
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            warnings.simplefilter("default")
            warnings.showwarning = lambda *told, **more: print(warnings.formatwarning(*told[:4]), file=sys.stderr)
            with pytest.raises(SystemExit) as ended:
                main()
    finally:
        sys.argv = before
    return int(ended.value.code or 0), out.getvalue(), err.getvalue()


def one_line(code: int, out: str, err: str) -> str:
    """Assert that a command has told one fault in one line, with exit code 2 and nothing else; return the line."""
    assert (code, out) == (2, ""), err
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 1, err
    assert err.endswith("\n")
    assert err.rstrip("\n").isprintable(), err
    assert len(err) < LONGEST, err[:2000]
    assert "Traceback" not in err
    assert len(err.split()) > 3
    return err


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a project's folder, which becomes the working folder."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "pyproject.toml").touch()
    return folder


def refused(project: Path, content: bytes) -> bool:
    """Check a file; tell whether it was refused, as it must be, in one line."""
    (project / "params.yaml").write_bytes(content)
    with contextlib.chdir(project):
        code, out, err = told("check")
    if code == 0:
        assert err == ""
        assert out.startswith("params.yaml is sound")
        return False
    one_line(code, out, err)
    return True


# --- What is done to the file


def places(raw: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the place of everything in nested lists and mappings."""
    items = raw.items() if isinstance(raw, dict) else enumerate(raw) if isinstance(raw, list) else ()
    return [place for key, value in items for place in [(*path, key), *places(value, (*path, key))]]


def within(raw: Any, place: tuple[Any, ...]) -> Any:
    """Return what stands at a place."""
    for key in place:
        raw = raw[key]
    return raw


def text_of(raw: Any) -> bytes:
    """Write parameters as JSON, which is YAML too, but for numbers that JSON has not."""
    text = json.dumps(raw, ensure_ascii=False)
    return text.replace("-Infinity", "-.inf").replace("Infinity", ".inf").replace("NaN", ".nan").encode()


PLACES = places(RAW)
STRICT = [place for place in PLACES if place[0] not in ("budgets", "variants") and "space" not in place]
MAPPINGS = [(), *(place for place in STRICT if isinstance(within(RAW, place), dict) and place[-1] != "published")]
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
        b"\x00",
        b"\xff",
        b"\xc3",
        b"\xed\xa0\x80",
        b"\t",
        b"\n\t",
        b"\x1b[2J",
        b"\x7f",
        b"\x85",
        b"\r",
        b"\xef\xbb\xbf",
        b"\xe2\x80\xa8",
    ]
    odd += [
        b"{",
        b"]",
        b"'",
        b'"',
        b"\n- ",
        b"\n: ",
        b"? ",
        b"*a",
        b"&a ",
        b"!",
        b"%YAML 9.9\n",
        b"\n---\n",
        b"\n...\n",
        b"@",
        b"`",
        b"|",
        b">",
        b"\\",
    ]
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
    place = draw(st.sampled_from([place for place in STRICT if place[0] not in ("root", "out")]))
    was = within(raw, place)
    wrong: list[Any] = [float("nan"), float("inf"), -float("inf"), -(10**30), -1e308, -1, -0.5]
    wrong += [
        {"🗿": 1},
        [[[[[]]]]],
        [None],
        "",
        "🗿",
        "1",
        {"low": {}},
        [{}],
        "x" * 5000,
        {"a": {"b": [1, {"c": None}]}},
    ]
    if not isinstance(was, list):
        wrong += [[], [1, 2]]
    within(raw, place[:-1])[place[-1]] = draw(st.sampled_from([value for value in wrong if value != was]))
    return text_of(raw)


@st.composite
def beyond(draw: st.DrawFn) -> bytes:
    """Give a whole number of more digits than any machine counts to, or a fraction where units are counted."""
    raw = copy.deepcopy(RAW)
    counts = [place for place in STRICT if type(within(RAW, place)) is int]
    place = draw(st.sampled_from(counts))
    digits = draw(st.sampled_from([20, 40, 300, 4000, 5000, 20_000]))
    within(raw, place[:-1])[place[-1]] = "@"
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
    """Put nothing, a list or a single value in the place of a whole section, or of the file."""
    place = draw(st.sampled_from([(), *(place for place in PLACES if isinstance(within(RAW, place), dict))]))
    value = draw(st.sampled_from([None, [], [1], "", 0, True, "model", [[]], 1.5, ["depth", 2], [{"depth": 2}]]))
    assume(not (place == ("evaluate", "decompose") and value is None))
    if not place:
        return text_of(value)
    raw = copy.deepcopy(RAW)
    within(raw, place[:-1])[place[-1]] = value
    return text_of(raw)


@st.composite
def tagged(draw: st.DrawFn) -> bytes:
    """Put a tag, an alias, a cycle, a bomb or a pile of brackets in the place of a value."""
    raw = copy.deepcopy(RAW)
    place = draw(
        st.sampled_from([place for place in STRICT if place[-1] != "published" and place[0] not in ("root", "out")])
    )
    deep = draw(st.sampled_from([50, 300, 1000, 5000]))
    bomb = "[&a0 [x,x], " + ", ".join(f"&a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30)) + "]"
    wide = "{k0: &b0 {x: x}, " + ", ".join(f"k{i}: &b{i} {{p: *b{i - 1}, q: *b{i - 1}}}" for i in range(1, 40)) + "}"
    values = [
        "!!python/object/apply:os.system [touch executed]",
        "!!python/name:os.system ''",
        "!!python/object/new:os.system [touch executed]",
        "!!python/module:os ''",
        "!!binary '*'",
        "!!int x",
        "!!float [1]",
        "!!timestamp never",
        "!!set [1]",
        "!!omap [1]",
        "!!map 3",
        "!!null {a: 1}",
        "!<tag:yaml.org,2002:python/object> {}",
        "!unknown 3",
        "!!str {a: 1}",
        "*nobody",
        "&a [*a]",
        "&a {b: *a}",
        "&a [[[[*a]]]]",
        "{<<: 3}",
        "{<<: *nobody}",
        "{<<: &a {<<: *a}}",
        "{? [1, 2] : 3}",
        "{? {a: 1} : 3}",
        "{a: 1, a: 2}",
        "[&x 1, &x 2, *x]",
        "2001-02-30",
        "2001-02-03T99:99:99Z",
        "2001-02-03",
        bomb,
        wide,
        "[" * deep,
        "[" * deep + "]" * deep,
        "{a: " * deep + "1" + "}" * deep,
        "'" + "\\" * deep,
        '"\\ud800"',
        '"\\x00"',
        '"\\x1b[2J"',
        "\\",
    ]
    within(raw, place[:-1])[place[-1]] = "@"
    return text_of(raw).replace(b'"@"', draw(st.sampled_from(values)).encode())


CONTRADICTIONS: list[dict[str, Any]] = [
    {"model.widths": [3, 2, 1]},
    {"model.widths": [3]},
    {"data.binarization": "none"},
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
    {"train.beta": 2.0},
    {"train.warmup": 3},
    {"train.warmup_stagger": 3},
    {"train.objective": "iwae", "train.free_bits": 1.0},
    {"train.milestones": [3, 2]},
    {"train.milestones": [3, 3]},
    {"train.seeds": [1, 1]},
    {"evaluate.k": [50, 1]},
    {"evaluate.k": [7]},
    {"evaluate.draws": 4999},
    {"evaluate.active_draws": 205},
    {"budget": "none"},
    {"budget": "🗿"},
    {"report.published": {"nvae": {"a": 1.0}}},
    {"variants": {}},
    {"budgets": {}},
    *(
        {"sweep.space": {"model.depth": bad}}
        for bad in (
            {"low": 4, "high": 2},
            {"low": 0, "high": 2, "log": True},
            {"low": 1, "high": 2, "step": 0},
            {"low": 1},
            {"low": 1.5, "high": 2.5},
            {"low": 0, "high": 2},
            {"choices": []},
            {"choices": ["two"]},
            {"choices": [65]},
            {"low": 1, "high": 2, "choices": [1]},
            {"low": 1, "high": 2, "step": 1, "log": True},
            {},
            [],
            None,
            "all",
            {"low": 1, "high": float("inf")},
            {"low": float("nan"), "high": 3},
            {"low": 1, "high": 10**30},
        )
    ),
    *(
        {"sweep.space": {path: {"low": 1, "high": 2}}}
        for path in (
            "model.dept",
            "train.seeds",
            "train.epochs",
            "data.seed",
            "🗿",
            "",
            ".",
            "model",
            "sweep.trials",
            "model.depth.low",
        )
    ),
    *(
        {"variants": {"vae": fixed}}
        for fixed in (
            {"model.dept": 1},
            {"data.seed": 1},
            {"train.seeds": [1]},
            {"model": 3},
            {"": 1},
            {"model.depth": 0},
            None,
            [],
            {"model.depth": None},
            {"model": {}},
            {"train.beta": 2.0},
            {"🗿": 1},
            {".": 1},
            {"model..depth": 1},
        )
    ),
    *({"variants": {name: {}}} for name in ("VAE", "a/b", "..", "", " ", "🗿", "-a", "a\nb", "vae\n")),
    *(
        {"budgets": {"default": fixed}}
        for fixed in ({"model.depth": 1}, {"train.epoch": 1}, {"train.epochs": 0}, {"train": 1}, None)
    ),
]


@st.composite
def contradictory(draw: st.DrawFn) -> bytes:
    """Set values that do not go together, each being sound by itself, among other values that are as they were."""
    raw = copy.deepcopy(RAW)
    for path, value in draw(st.sampled_from(CONTRADICTIONS)).items():
        *parents, last = path.split(".")
        within(raw, tuple(parents))[last] = value
    # Where the sections stand makes no difference.
    return text_of({key: raw[key] for key in draw(st.permutations(list(raw)))})


SURELY = {  # how a file is made, and how many of them are tried: all of them are broken
    "mistyped": (mistyped(), 150),
    "beyond": (beyond(), 60),
    "misspelt": (misspelt(), 120),
    "emptied": (emptied(), 80),
    "tagged": (tagged(), 100),
    "contradictory": (contradictory(), 130),
}
PERHAPS = {  # and such that may be sound by accident
    "cut": (cut(), 150),
    "scrambled": (scrambled(), 250),
    "shuffled": (shuffled(), 100),
    "noise": (NOISE | ENCODED, 60),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(SURELY))
def test_a_broken_file_gets_its_line(project: Path, kind: str) -> None:
    """Every file with a value, key, section, tag or pair of values that cannot be gets one line and exit code 2."""
    strategy, wanted = SURELY[kind]
    seen: set[bytes] = set()

    @settings(BUDGET, max_examples=2 * wanted)
    @given(content=strategy)
    def check(content: bytes) -> None:
        if content in seen or len(seen) == wanted:
            return
        assert refused(project, content), content[:3000]
        seen.add(content)

    check()
    assert len(seen) == wanted
    assert not (project / "executed").exists()


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(PERHAPS))
def test_a_damaged_file_gets_its_line_or_is_sound(project: Path, kind: str) -> None:
    """A file damaged in its bytes gets one line and exit code 2; what is taken is YAML to another reader."""
    strategy, wanted = PERHAPS[kind]
    seen: set[bytes] = set()

    @settings(BUDGET, max_examples=2 * wanted)
    @given(content=strategy)
    def check(content: bytes) -> None:
        if content in seen or len(seen) == wanted:
            return
        if refused(project, content):
            seen.add(content)
        else:
            # That reader knows YAML 1.1 alone, where a tab parts no words.
            assert set(yaml.safe_load(content.replace(b"\t", b" "))) == set(RAW)

    check()
    assert len(seen) == wanted


def test_there_are_a_thousand_of_them() -> None:
    """The numbers of broken files that the tests above ask for come to more than 1,000."""
    assert sum(wanted for _, wanted in [*SURELY.values(), *PERHAPS.values()]) >= 1000


# --- Words of the command line, and files that one stage leaves for another


@st.composite
def words(draw: st.DrawFn) -> str:
    """Draw a `--set` word that is wrong in its path, in its value, or in its form."""
    paths = [".".join(map(str, place)) for place in STRICT if place[0] in ("data", "model", "train", "evaluate")]
    path = draw(st.sampled_from([path for path in paths if not any(part.isdigit() for part in path.split("."))]))
    kind = draw(st.sampled_from(["path", "value", "form"]))
    if kind == "path":
        odd = [
            "",
            ".",
            "..",
            path + ".",
            "." + path,
            path + ".x",
            path[:-1] + "_",
            "🗿",
            path + "\x00",
            path + "\n",
            path.upper(),
        ]
        return draw(st.sampled_from(odd)) + "=" + draw(st.sampled_from(["1", "null", "[]", "{}", ""]))
    if kind == "form":
        return draw(st.sampled_from([path, "", "=", "=1", path + ":1", "\x00", "x" * 5000, path + " 1"]))
    bad = [
        ".nan",
        "-.inf",
        "-1e30",
        "{a: 1}",
        "[[[1]]]",
        "🗿",
        "!!python/name:os.system ''",
        "!x 1",
        "*a",
        "&a [*a]",
        "[",
        "{",
        "'",
        "\t",
        "\x00",
        "[" * 3000,
        "0x" + "f" * 5000,
        "-" + "9" * 5000,
        "2001-02-30",
        "a: b: c",
        "- 1",
        "%",
        "@",
        "`",
    ]
    return f"{path}={draw(st.sampled_from(bad))}"


@pytest.mark.slow
def test_a_broken_word_gets_its_line(project: Path) -> None:
    """Three hundred `--set` words that name nothing, mean nothing or are none get one line each."""
    (project / "params.yaml").write_bytes(TEXT)
    seen: set[str] = set()

    @settings(BUDGET, max_examples=1500)
    @given(word=words())
    def check(word: str) -> None:
        if word in seen or len(seen) == 300:
            return
        with contextlib.chdir(project):
            one_line(*told("check", f"--set={word}"))
        seen.add(word)

    check()
    assert len(seen) == 300


JUNK = [
    b"",
    b"{",
    b"null",
    b"[]",
    b"3",
    b'"x"',
    b"{}",
    b"\xff\xfe",
    b"\x00",
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b"9" * 5000,
    b"NaN",
    b'{"params": 3, "trial": 1}',
    b'{"params": null, "trial": 1}',
    b'{"params": {"model.dept": 1}, "trial": 1}',
    b'{"trial": 0}',
    b'{"params": {"model.depth": 1e999}, "trial": 1}',
    b'{"params": {"model": {}}, "trial": 1}',
    b'{"params": [1], "trial": 1}',
    b'{"params": {"model.depth": -1}, "trial": 1}',
    b'{"params": {"": 1}, "trial": 1}',
    b'\xef\xbb\xbf{"trial": 1}',
]


@pytest.mark.parametrize("junk", range(len(JUNK)))
def test_a_broken_best_json_gets_its_line(tmp_path: Path, junk: int) -> None:
    """A `best.json` that no sweep has written stops the training of its variant in one line."""
    study = make_study(tmp_path)
    folder = study.sweep("mhvae")
    folder.mkdir(parents=True)
    (folder / "best.json").write_bytes(JUNK[junk])
    assert "best.json" in one_line(*told(main=lambda: run_main(lambda: print(stage.settings(study, "mhvae", 0)))))


@pytest.mark.parametrize("junk", range(len(JUNK)))
@pytest.mark.parametrize("name", ["model.json", "data.json"])
def test_broken_json_between_stages_gets_its_line(tmp_path: Path, name: str, junk: int) -> None:
    """A description of a model, or of the data, that is none is refused in one line by what reads it."""
    model = build(model_params(), splits_mean(), (4, 4))
    save_model(tmp_path, model, model_params(), splits())
    (tmp_path / name).write_bytes(JUNK[junk])
    read = {"model.json": load, "data.json": data.load}[name]
    one_line(*told(main=lambda: run_main(lambda: print(read(tmp_path)))))


def splits_mean() -> Any:
    """Return the mean image of the small data as the model takes it."""
    import torch

    return torch.as_tensor(splits().mean, dtype=torch.float32)


@pytest.mark.parametrize(
    "content", [b"", b"a,b\n1,2\n", b"\xff", b"\x00", b"epoch\nx\n", b'epoch\n"' + b"x" * 200_000, b"epoch\n1,2,3\n"]
)
def test_a_broken_curve_gets_its_line(tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A `curves.csv` that no training has written is refused in one line where the curves are averaged."""
    study = make_study(tmp_path)
    for seed in (0, 1):
        folder = study.train("vae") / f"seed-{seed}"
        folder.mkdir(parents=True)
        (folder / "curves.csv").write_bytes(b"epoch,seconds\n1,2\n" if seed == 0 else content)
    monkeypatch.setattr("pipeline.processes.map_in_workers", lambda *_: None)  # both were trained
    one_line(*told(main=lambda: run_main(lambda: stage.run(study, "vae"))))


FEW = [
    b"model: [1, 2",
    b"\xff\xfe",
    b"",
    TEXT.replace(b"depth: 2", b"dept: 2"),
    b"a: &a [*a]",
    TEXT + b"x: !!python/name:os.system ''\n",
]


@pytest.mark.slow
@pytest.mark.parametrize("content", FEW, ids=range(len(FEW)))
@pytest.mark.parametrize("words", [["check"], ["train", "--variant", "vae"]], ids=lambda words: words[0])
def test_a_process_of_its_own_tells_the_same(tmp_path: Path, content: bytes, words: list[str]) -> None:
    """A broken file ends a real command with its line and exit code 2, and nothing is written."""
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "params.yaml").write_bytes(content)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "pipeline", *words]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    one_line(done.returncode, done.stdout, done.stderr)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["params.yaml", "pyproject.toml"]
